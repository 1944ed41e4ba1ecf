"""What the measurements of ``deqflow bench`` share: a model, its weights, pairs to measure them on."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deqflow.commands.common import Scales
from deqflow.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from deqflow.config import SolveOptions
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
        scales: Strides to solve at; without it, the model's own.
        second_start: Begin coarse scales from no motion too.
    """

    checkpoint: Path | None = None
    device: str = "auto"
    scales: Scales | None = None
    second_start: bool | None = None

    @property
    def solving(self) -> "SolveOptions":
        """How the model solves, where that is not its own way."""
        return {"scales": self.scales, "second_start": self.second_start}

    def load(self) -> "DEQFlow":
        """Return the model."""
        from deqflow import zoo
        from deqflow.devices import keep_freed_memory

        keep_freed_memory(2**25)  # as the commands that estimate
        return zoo.load(self.model, checkpoint=self.checkpoint, device=self.device, **self.solving)

    def told(self, model: "DEQFlow") -> str:
        """Return what measures with the model begin with."""
        import torch

        return f"{self.model}, {model.device}, {torch.get_num_threads()} threads"

    def load_each(self, against: tuple[Path, ...], precision: str = "auto") -> "dict[str, DEQFlow]":
        """Return the model with these weights and with each of the files, by what to call them."""
        from deqflow.zoo.loading import load_each

        files = (self.checkpoint, *against)
        return load_each(self.model, files, device=self.device, precision=precision, **self.solving)


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
            model = zoo.create(self.model).to(resolve_device(self.device)).eval()
            model.defaults = model.settings(**self.solving)
            return model


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

    def pairs_told(self) -> str:
        """Return a line about what `samples` are."""
        if self.data is not None:
            return f"the data sets in {self.data.name}"
        last = self.first + self.pairs - 1
        return f"held-out scenes {self.first} to {last} of {self.scenes} motion at {self.width}x{self.height}"

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


def in_precision(name: str, precision: str) -> str:
    """Name a row of a table; the precision is named if it was asked for."""
    return name if precision == "auto" else f"{name}, {precision}"
