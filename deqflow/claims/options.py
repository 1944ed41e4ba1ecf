"""What an experiment is told, and what it returns."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deqflow.errors import ConfigError

if TYPE_CHECKING:
    from deqflow.data.sample import Sample
    from deqflow.estimator import DEQFlow
    from deqflow.evaluation.charts import Chart


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        summary: a sentence with the figures that bear on the claim.
        tables: Markdown, the lines of each.
        charts: plots.
    """

    summary: str
    tables: tuple[list[str], ...] = ()
    charts: tuple["Chart", ...] = ()


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How an experiment is run.

    Attributes:
        model: preset of the weights that are looked at, and of those that are trained; the usual one has one
            scale, so that its steps are the steps of one fixed point.
        checkpoint: its weights; without it, those that ship with the package.
        against: Further weights of the preset to hold them against.
        textures: Folder of photos and cut-outs for the scenes; without it, drawn patterns.
        pairs: Number of held-out scenes.
        width: Pixels of a scene.
        height: Pixels of a scene.
        train_steps: Optimizer steps of every model that is trained, 8 pairs each.
        init: Weights that every model trained starts from: a preset whose weights ship with the package, or a
            file; None starts from random ones.
        learning_rate: Peak of its schedule; None takes that of training from random weights.
        seeds: Of the models trained; one model of each kind for each.
        output: Folder for pages, plots and runs; runs found there are resumed.
        device: auto, cpu, cuda, cuda:1, mps, ...
    """

    model: str = "deqflow-s-v0"
    checkpoint: Path | None = None
    against: tuple[Path, ...] = ()
    textures: Path | None = None
    pairs: int = 24
    width: int = 256
    height: int = 192
    train_steps: int = 600
    init: str | None = None
    learning_rate: float | None = None
    seeds: tuple[int, ...] = (0,)
    output: Path = Path("study")
    device: str = "auto"

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if self.pairs < 2 or self.train_steps < 1 or not self.seeds:
            raise ConfigError("a study needs --pairs of at least 2, --train-steps of at least 1 and --seeds")

    def weights(self) -> "dict[str, DEQFlow]":
        """Load the weights to look at, by what to call them."""
        from deqflow.zoo.loading import load_each

        return load_each(self.model, (self.checkpoint, *self.against), device=self.device)

    def samples(self) -> "Iterator[Sample]":
        """Render pairs of held-out scenes of fast motion."""
        from deqflow.training.data import held_out_scenes

        scenes = held_out_scenes(self.textures, self.height, self.width, motion="fast")
        return map(scenes.__getitem__, range(self.pairs))
