"""``deqflow bench``: seconds, solver steps, starts, memory, errors, and how well a model knows its errors.

Candidates take turns in one run, so that a machine whose speed drifts slows all of them alike.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from deqflow.errors import CheckpointError, ConfigError, VideoError

if TYPE_CHECKING:
    from deqflow.data.sample import Sample
    from deqflow.estimator import DEQFlow

Format = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """A model, and frames of some size.

    Attributes:
        model: Name of a preset; `deqflow models` lists them.
        width: Pixels of a frame.
        height: Pixels of a frame.
        threads: Of the CPU to compute with; without it, one a core.
    """

    model: str = "deqflow-s"
    width: int = 1024
    height: int = 436
    threads: int | None = None

    def measure(self) -> None:
        """Measure and print."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class WeightOptions(FrameOptions):
    """Weights on a device.

    Attributes:
        checkpoint: File of weights; without it, the weights that ship with the model.
        device: auto, cpu, cuda, cuda:1, mps, ...
    """

    checkpoint: Path | None = None
    device: str = "auto"

    def load(self) -> "DEQFlow":
        """Return the model."""
        from deqflow import zoo
        from deqflow.devices import keep_freed_memory

        keep_freed_memory(2**25)  # as the commands that estimate
        return zoo.load(self.model, checkpoint=self.checkpoint, device=self.device)

    def told(self, model: "DEQFlow") -> str:
        """Return what measures with the model begin with."""
        import torch

        return f"{self.model}, {model.device}, {torch.get_num_threads()} threads"


@dataclass(frozen=True, kw_only=True)
class PairOptions(WeightOptions):
    """Weights on pairs with ground truth: held-out synthetic scenes, unless --data names others.

    Attributes:
        data: Folder that holds data sets under their official names, to take pairs from in place of scenes.
        textures: Folder of photos and cut-outs for the scenes; without it, drawn patterns.
        scenes: How fast things move in the scenes, see `deqflow train --help`.
        pairs: Number of scenes.
        first: Number of the first scene.
    """

    data: Path | None = None
    textures: Path | None = None
    scenes: Literal["usual", "fast", "large"] = "usual"
    pairs: int = 32
    first: int = 0

    def __post_init__(self) -> None:
        """Reject numbers that are no scenes."""
        if self.pairs < 1 or self.first < 0:
            raise ConfigError("bench needs --pairs of at least 1 and --first of at least 0")

    def samples(self) -> "Iterable[Sample]":
        """Return pairs that no model of ours was trained on."""
        from tqdm import tqdm

        from deqflow.data.datasets import find_benchmarks
        from deqflow.data.sample import known_only
        from deqflow.training.data import held_out_scenes

        samples: Iterable[Sample]
        if self.data is not None:
            samples = chain.from_iterable(find_benchmarks(self.data))
        else:
            scenes = held_out_scenes(self.textures, self.height, self.width, motion=self.scenes)
            samples = map(scenes.__getitem__, range(self.first, self.first + self.pairs))
        return known_only(tqdm(samples, unit="pair"))


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(WeightOptions):
    """Seconds per pair, and the share of each part of the estimator.

    Attributes:
        precisions: Number formats of the network to compare.
        steps: Numbers of evaluations of the update operator to compare.
        repeats: Measurements of each combination, after one that does not count; the median is printed.
    """

    precisions: tuple[Format, ...] = ("bfloat16", "float32")
    steps: tuple[int, ...] = (6, 12, 24)
    repeats: int = 5

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if self.repeats < 1 or min(self.steps, default=0) < 1 or not self.precisions:
            raise ConfigError("bench needs --repeats >= 1, at least one of --precisions, and --steps >= 1")

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.bench import measure_speed, speed_table

        model, size = self.load(), (self.height, self.width)
        print(f"{self.told(model)}, {self.width}x{self.height}, median of {self.repeats}\n")
        timings = measure_speed(
            model, precisions=self.precisions, steps=self.steps, size=size, repeats=self.repeats
        )
        print(speed_table(timings))


@dataclass(frozen=True, kw_only=True)
class AnyWeightOptions(WeightOptions):
    """Weights on a device, whatever they are."""

    def load(self) -> "DEQFlow":
        """Return the model, with random weights where none ship with it: they cost the same."""
        from deqflow import zoo
        from deqflow.devices import resolve_device

        try:
            return super().load()
        except CheckpointError:
            if self.checkpoint is not None:
                raise
            return zoo.create(self.model).to(resolve_device(self.device)).eval()


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
class SolversOptions(PairOptions):
    """Evaluations of the update operator that each solver needs until the flow rests.

    Attributes:
        steps: Most evaluations.
        tolerance: Pixels per step, RMS.
    """

    steps: int = 24
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        super().__post_init__()
        if self.steps < 1 or not self.tolerance > 0:
            raise ConfigError("bench solvers needs --steps of at least 1 and a --tolerance above 0")

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.bench import compare_solvers, solver_table

        model, samples = self.load(), self.samples()
        print(f"{self.told(model)}, until the flow moves less than {self.tolerance:g} px per step\n")
        print(solver_table(compare_solvers(model, samples, tolerance=self.tolerance, steps=self.steps)))


@dataclass(frozen=True, kw_only=True)
class ErrorsOptions(PairOptions):
    """End-point errors of several weights on the same pairs.

    Attributes:
        against: Further files of weights of the same preset.
        precisions: Number formats of the network to compare; without them, the one that auto means.
        scales: Strides to solve at; without it, the models' own.
    """

    against: tuple[Path, ...] = ()
    precisions: tuple[Format, ...] = ()
    scales: tuple[int, ...] | Literal["all", "fast"] | None = None

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.bench import compare_models, model_table
        from deqflow.zoo.loading import load_each

        files = (self.checkpoint, *self.against)
        models = {
            _in_precision(name, precision): model
            for precision in self.precisions or ("auto",)
            for name, model in load_each(
                self.model, files, device=self.device, precision=precision, scales=self.scales
            ).items()
        }
        print(model_table(compare_models(models, self.samples())))


@dataclass(frozen=True, kw_only=True)
class StartsOptions(PairOptions):
    """Whether the flow found depends on where the solve began.

    Pairs are solved from several starts, and motion programs of known flow with reuse and without.

    Attributes:
        width: Pixels of a scene.
        height: Pixels of a scene.
        pairs: Number of scenes.
        against: Further files of weights of the same preset.
        multiples: Numbers of steps to compare, in multiples of the model's own.
        clips: Videos whose first frames the programs move; without them, the demo's.
        sequences: Number of rendered sequences to measure reuse on besides.
    """

    width: int = 320
    height: int = 256
    pairs: int = 8
    against: tuple[Path, ...] = ()
    multiples: tuple[int, ...] = (1, 4)
    clips: tuple[Path, ...] = ()
    sequences: int = 0

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        super().__post_init__()
        if min(self.multiples, default=0) < 1:
            raise ConfigError("bench starts needs --multiples of at least 1")
        if self.sequences < 0:
            raise ConfigError(f"--sequences must not be negative, got {self.sequences}")

    def measure(self) -> None:
        """Measure and print."""
        from tqdm import tqdm

        from deqflow.commands.demo import demo_clips
        from deqflow.data.synthetic import PROGRAMS
        from deqflow.evaluation.starts import measure_reuse, measure_starts, reuse_table, starts_table
        from deqflow.io import open_video
        from deqflow.zoo.loading import load_each

        models = load_each(self.model, (self.checkpoint, *self.against), device=self.device)
        pictures = [next(iter(open_video(clip))) for clip in self.clips or demo_clips()]
        starts = {
            name: measure_starts(model, self.samples(), multiples=self.multiples)
            for name, model in models.items()
        }
        print(starts_table(starts))
        programs = [program.render(picture) for picture in pictures for program in PROGRAMS]
        for sequences in (programs, self._rendered()):
            reuse = {
                name: measure_reuse(model, tqdm(sequences, unit="sequence")) for name, model in models.items()
            }
            if sequences:
                print(f"\n{reuse_table(reuse)}")

    def _rendered(self) -> "list[list[Sample]]":
        """Render sequences of held-out scenes."""
        from deqflow.training.data import held_out_scenes

        scenes = held_out_scenes(self.textures, self.height, self.width)
        return [scenes.sequence(self.first + number)[0] for number in range(self.sequences)]


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
class UncertaintyOptions(PairOptions):
    """Real errors beside those that the model expects."""

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.bench import calibration_table, measure_calibration

        model, samples = self.load(), self.samples()
        print(f"{self.told(model)}: mean absolute error of a component of the flow\n")
        print(calibration_table(measure_calibration(model, samples)))


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
            _in_precision(ways, precision): replace(
                both, bidirectional=ways == "both ways", precision=precision
            )
            for precision in self.precisions or ("auto",)
            for ways in ("one way", "both ways")
        }
        threads = torch.get_num_threads()
        print(f"{self.model}, {both.batch} pairs of {both.width}x{both.height} a step, {threads} threads\n")
        print(training_table(measure_training(variants, repeats=self.repeats), batch=both.batch))


BenchOptions = (
    Annotated[SpeedOptions, tyro.conf.subcommand("speed")]
    | Annotated[RooflineOptions, tyro.conf.subcommand("roofline")]
    | Annotated[PlainOptions, tyro.conf.subcommand("plain")]
    | Annotated[SolversOptions, tyro.conf.subcommand("solvers")]
    | Annotated[ErrorsOptions, tyro.conf.subcommand("errors")]
    | Annotated[StartsOptions, tyro.conf.subcommand("starts")]
    | Annotated[VideoOptions, tyro.conf.subcommand("video")]
    | Annotated[UncertaintyOptions, tyro.conf.subcommand("uncertainty")]
    | Annotated[MemoryOptions, tyro.conf.subcommand("memory")]
    | Annotated[TrainingOptions, tyro.conf.subcommand("training")]
)


def run(options: FrameOptions) -> int:
    """Measure and print; the exit code.

    Raises:
        DeqflowError, OSError: an option does not hold; said in one sentence.
    """
    # The profiler announces itself on standard error unless told otherwise before torch is imported.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from deqflow.devices import keep_freed_memory, set_threads

    if options.threads is not None and options.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {options.threads}")
    keep_freed_memory()
    set_threads(options.threads)
    options.measure()
    return 0


def _in_precision(name: str, precision: str) -> str:
    """Name a row of a table; the precision is named if it was asked for."""
    return name if precision == "auto" else f"{name}, {precision}"
