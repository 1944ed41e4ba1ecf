"""What is right: errors, solver steps, starts, and how well a model knows its errors."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deqflow.commands.bench.base import Format, PairOptions, in_precision
from deqflow.errors import ConfigError

if TYPE_CHECKING:
    from deqflow.data.sample import Sample


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
    """

    against: tuple[Path, ...] = ()
    precisions: tuple[Format, ...] = ()

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.bench import compare_models, model_table

        models = {
            in_precision(name, precision): model
            for precision in self.precisions or ("auto",)
            for name, model in self.load_each(self.against, precision).items()
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

        models = self.load_each(self.against)
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
class UncertaintyOptions(PairOptions):
    """Real errors beside those that the model expects."""

    def measure(self) -> None:
        """Measure and print."""
        from deqflow.evaluation.calibration import calibration_table, measure_calibration

        model, samples = self.load(), self.samples()
        print(f"{self.told(model)}: mean absolute error of a component of the flow\n")
        print(calibration_table(measure_calibration(model, samples)))
