"""Time and memory: of pairs, of parts of the estimator, of clips, of training steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product, starmap
from pathlib import Path
from typing import Literal

from deqflow.commands.bench.base import AnyWeightOptions, Format, FrameOptions, WeightOptions, in_precision
from deqflow.errors import ConfigError, VideoError


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(WeightOptions):
    """Seconds per pair, and the share of each part of the estimator.

    Attributes:
        precisions: Number formats of the network to compare.
        correlations: Ways to make correlations to compare; auto is by size and free memory.
        steps: Numbers of evaluations of the update operator to compare.
        sizes: Widths and heights to compare, in place of --width and --height.
        repeats: Measurements of each combination, after one that does not count; the median is printed.
    """

    precisions: tuple[Format, ...] = ("bfloat16", "float32")
    correlations: tuple[Literal["auto", "all-pairs", "on-demand"], ...] = ("auto",)
    steps: tuple[int, ...] = (6, 12, 24)
    sizes: tuple[tuple[int, int], ...] = ()
    repeats: int = 5

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if self.repeats < 1 or min(self.steps, default=0) < 1 or not self.precisions or not self.correlations:
            raise ConfigError(
                "bench speed needs --repeats >= 1, --steps >= 1, and at least one of --precisions and "
                "--correlations"
            )

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.bench import SpeedCase, measure_speed, speed_table

        model = self.load()
        print(f"{self.told(model)}, median of {self.repeats}\n")
        sizes = [(height, width) for width, height in self.sizes or ((self.width, self.height),)]
        cases = starmap(SpeedCase, product(sizes, self.precisions, self.correlations, self.steps))
        print(speed_table(measure_speed(model, cases, repeats=self.repeats)))


@dataclass(frozen=True, kw_only=True)
class RooflineOptions(AnyWeightOptions):
    """Operations and bytes of each part of the estimator, the least time they imply here, and the time taken.

    Attributes:
        steps: Evaluations of the update operator at each scale.
        repeats: Measurements, of which the shortest counts.
    """

    steps: int = 12
    repeats: int = 3

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if self.repeats < 1 or self.steps < 1:
            raise ConfigError("bench roofline needs --repeats and --steps of at least 1")

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.roofline import measure_ceilings, measure_parts, roofline_table

        model, size = self.load(), (self.height, self.width)
        ceilings = measure_ceilings(model.device, model.precision)
        parts, seconds = measure_parts(model, steps=self.steps, size=size, repeats=self.repeats)
        print(f"{self.told(model)}, {model.precision}, {self.width}x{self.height}, {self.steps} steps")
        print(
            f"ceilings: {ceilings.convolution / 1e9:.0f} GFLOP/s convolved, "
            f"{ceilings.product / 1e9:.0f} multiplied, {ceilings.traffic / 1e9:.1f} GB/s moved\n"
        )
        print(roofline_table(parts, seconds, ceilings))


@dataclass(frozen=True, kw_only=True)
class PlainOptions(AnyWeightOptions):
    """A published model beside its plainest implementation: seconds per pair, and how far apart flows are.

    The plain one computes in float32, with PyTorch's own convolutions and a lookup by `grid_sample`.

    Attributes:
        model: Name of a preset of the published architecture, without attention.
        height: Pixels of a frame, a multiple of 8, as its width.
        steps: Evaluations of the update operator.
        precisions: Number formats of ours to compare.
        repeats: Measurements of each, after one that does not count; the median is printed.
    """

    model: str = "deqflow-b"
    height: int = 440
    steps: int = 12
    precisions: tuple[Format, ...] = ("float32", "bfloat16")
    repeats: int = 3

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if self.repeats < 1 or self.steps < 1 or self.width % 8 or self.height % 8:
            raise ConfigError(
                "bench plain needs --repeats and --steps of at least 1, and a --width and --height that are "
                "multiples of 8"
            )

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.plain import measure_plain, plain_table

        model, size = self.load(), (self.height, self.width)
        measured = measure_plain(
            model, precisions=self.precisions, steps=self.steps, size=size, repeats=self.repeats
        )
        print(
            f"{self.told(model)}, {self.width}x{self.height}, {self.steps} steps, median of {self.repeats}\n"
        )
        print(plain_table(measured))


@dataclass(frozen=True, kw_only=True)
class VideoOptions(WeightOptions):
    """Milliseconds per frame of a clip: solved anew, with reuse, RAFT-small with 12 iterations, and DIS.

    Attributes:
        width: Pixels of a frame, unless --sizes says otherwise.
        height: Pixels of a frame.
        clip: Video to take frames from; without it, the demo's first.
        frames: Most frames of it, at least 4; the first two pairs do not count.
        sizes: Widths and heights to compare, one after the other.
    """

    width: int = 640
    height: int = 360
    clip: Path | None = None
    frames: int = 13
    sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if self.frames < 4:
            raise ConfigError(f"bench video needs --frames of at least 4, got {self.frames}")

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.commands.demo import demo_clips
        from deqflow.evaluation.video_time import time_video, video_table
        from deqflow.io import open_video

        model = self.load()
        clip = self.clip or demo_clips()[0]
        frames = list(islice(open_video(clip), self.frames))
        if len(frames) < 4:
            raise VideoError(f"{clip} has fewer than 4 frames")
        print(f"{self.told(model)}, {model.precision}, {len(frames)} frames\n")
        sizes = self.sizes or ((self.width, self.height),)
        print(video_table({(h, w): time_video(model, frames, (h, w)) for w, h in sizes}))


@dataclass(frozen=True, kw_only=True)
class ProcessesOptions(AnyWeightOptions):
    """Processor seconds a pair and peak memory of whole processes: models as they solve by default, and DIS.

    Attributes:
        against: Names of presets to compare with; random weights where none ship with them.
        precisions: Number formats of the networks to compare; auto is each model's own.
        clip: Video whose first two frames are the pair, scaled to the size; without it, the demo's first.
        repeats: Measurements of each, in turns, after one that does not count; the median is printed.
    """

    against: tuple[str, ...] = ("raft-small",)
    precisions: tuple[Literal["auto"] | Format, ...] = ("auto",)
    clip: Path | None = None
    repeats: int = 3

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if self.repeats < 1 or not self.precisions:
            raise ConfigError("bench processes needs --repeats of at least 1 and one of --precisions")

    def measure(self) -> None:
        """Measure and print."""
        import cv2
        import numpy as np

        from deqflow.commands.demo import demo_clips
        from deqflow.evaluation.process_cost import (
            Method,
            dis_method,
            measure_processes,
            model_method,
            process_table,
        )
        from deqflow.io import open_video

        clip, size = self.clip or demo_clips()[0], (self.width, self.height)
        frames = [
            np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
            for frame in islice(open_video(clip), 2)
        ]
        if len(frames) < 2:
            raise VideoError(f"{clip} has fewer than 2 frames")
        models = {self.model: self} | {
            name: replace(self, model=name, checkpoint=None, scales=None) for name in self.against
        }
        methods: dict[str, Callable[[], Method]] = {
            in_precision(name, precision): partial(model_method, options.load, precision, self.threads)
            for name, options in models.items()
            for precision in self.precisions
        }
        methods["DIS"] = partial(dis_method, self.threads)
        threads = "one thread a core" if self.threads is None else f"{self.threads} threads"
        print(f"{self.width}x{self.height}, {threads}, median of {self.repeats}\n")
        print(process_table(measure_processes(methods, (frames[0], frames[1]), repeats=self.repeats)))


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(FrameOptions):
    """What a training step keeps for its backward pass, unrolled and as an equilibrium.

    Weights are random, numbers float32, on the CPU.

    Attributes:
        steps: Numbers of evaluations of the update operator to compare.
        corrections: Numbers of losses along the solver's path to compare.
    """

    steps: tuple[int, ...] = (6, 12, 24)
    corrections: tuple[int, ...] = (6, 1)

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        fewest = min(self.steps, default=0)
        if not all(1 <= count <= fewest for count in (*self.steps[:1], *self.corrections)):
            raise ConfigError(f"corrections must be at least 1 and at most {fewest}, the fewest steps")
        if self.width % 8 or self.height % 8:
            raise ConfigError(
                f"training frames need sides that are multiples of 8, not {self.width}x{self.height}"
            )

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.memory import memory_report

        size = (self.height, self.width)
        print(f"{self.model}, training step of one pair of {self.width}x{self.height}, float32\n")
        print(memory_report(self.model, steps=self.steps, corrections=self.corrections, size=size))


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(FrameOptions):
    """A step of the synthetic stage with pairs one way and both ways, by part.

    Attributes:
        device: auto, cpu, cuda, cuda:1, mps, ...
        precisions: Number formats of the network to compare; without them, the one that auto means.
        textures: Folder of photos and cut-outs for the scenes; without it, drawn patterns.
        repeats: Measurements of each combination, after two that do not count; the median is printed.
    """

    device: str = "auto"
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ()
    textures: Path | None = None
    repeats: int = 5

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if self.repeats < 1:
            raise ConfigError("bench training needs --repeats of at least 1")

    def measure(self) -> None:
        """Time the synthetic stage as it is, but for the way its pairs are made of scenes."""
        import torch

        from deqflow.evaluation.training_time import measure_training, training_table
        from deqflow.training.options import SceneOptions
        from deqflow.training.stages import stage_for

        stage = stage_for("synthetic", self.model)
        assert isinstance(stage, SceneOptions)
        both = replace(
            stage, height=self.height, width=self.width, textures=self.textures, device=self.device
        )
        variants = {
            in_precision(ways, precision): replace(
                both, bidirectional=ways == "both ways", precision=precision
            )
            for precision in self.precisions or ("auto",)
            for ways in ("one way", "both ways")
        }
        threads = torch.get_num_threads()
        print(f"{self.model}, {both.batch} pairs of {both.width}x{both.height} a step, {threads} threads\n")
        print(training_table(measure_training(variants, repeats=self.repeats), batch=both.batch))
