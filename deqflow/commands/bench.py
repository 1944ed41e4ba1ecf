"""``deqflow bench``: seconds, solver steps, memory, errors, and how well a model knows its own errors."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from deqflow import zoo
from deqflow.data.datasets import find_benchmarks
from deqflow.data.sample import Sample, known_only
from deqflow.devices import keep_freed_memory
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.evaluation.calibration import calibration_table, measure_calibration
from deqflow.evaluation.comparison import compare, comparison_table
from deqflow.evaluation.convergence import convergence_table, measure_convergence
from deqflow.evaluation.memory import memory_report
from deqflow.evaluation.speed import measure_speed, speed_table
from deqflow.training.options import Precision, TrainOptions
from deqflow.training.scenes import open_scenes
from deqflow.training.stages import stage_for
from deqflow.training.timing import measure_training, training_table


@dataclass(frozen=True)
class BenchOptions:
    """Seconds per pair, steps until the flow rests, memory of a training step, errors and doubts.

    Candidates take turns in one run, so that a machine whose speed drifts slows all of them alike.

    Attributes:
        measure: `speed`: seconds per pair, and the share of each part. `solvers`: evaluations of the update
            operator that each solver needs until the flow moves less than the tolerance, on held-out
            synthetic scenes or the pairs under `--benchmark`. `memory`: what a training step keeps for its
            backward pass, unrolled and as an equilibrium (random weights, float32, CPU). `uncertainty`: real
            errors beside those that the model expects, on the same pairs as `solvers`. `errors`: end-point
            errors of the model and of every `--against`, on the same pairs. `training`: a step of the
            synthetic stage with pairs one way and both ways, by part.
        model: Name of a preset; `deqflow models` lists them.
        checkpoint: File of weights; without it, the weights that ship with the model.
        against: Of `errors`: further files of weights of the same preset.
        device: auto, cpu, cuda, cuda:1, mps, ...
        precisions: Number formats of the network to compare; without them `speed` compares bfloat16 and
            float32, `errors` and `training` take the one that `auto` means.
        steps: Numbers of evaluations of the update operator; of `solvers`, the last is the most allowed.
        width: Pixels of a frame.
        height: Pixels of a frame.
        repeats: Measurements of the speed of each combination, after one (of `training`, two) that does not
            count; the median is printed.
        tolerance: Of `solvers`: pixels per step, RMS.
        benchmark: Of `solvers`, `uncertainty` and `errors`: folder of data sets to take pairs from, in place
            of scenes.
        textures: Folder of photos and cut-outs for the scenes; without it, drawn patterns.
        pairs: Number of scenes.
        first: Number of the first scene.
        scales: Of `errors`: strides to solve at; without it, the models' own.
        corrections: Of `memory`: numbers of losses along the solver's path.
    """

    measure: Literal["speed", "solvers", "memory", "uncertainty", "errors", "training"] = "speed"
    model: str = "deqflow-s"
    checkpoint: Path | None = None
    against: tuple[Path, ...] = ()
    device: str = "auto"
    precisions: tuple[Literal["float32", "bfloat16", "float16"], ...] | None = None
    steps: tuple[int, ...] = (6, 12, 24)
    width: int = 1024
    height: int = 436
    repeats: int = 5
    tolerance: float = 0.05
    benchmark: Path | None = None
    textures: Path | None = None
    pairs: int = 32
    first: int = 0
    scales: tuple[int, ...] | Literal["all", "fast"] | None = None
    corrections: tuple[int, ...] = (6, 1)

    def __post_init__(self) -> None:
        """Reject what cannot be measured, naming the option."""
        if self.repeats < 1 or min(self.steps, default=0) < 1 or self.precisions == ():
            raise ConfigError("bench needs repeats >= 1, at least one precision, and steps of at least 1")
        if self.measure == "training" and "float16" in (self.precisions or ()):
            raise ConfigError("nothing is trained in float16: give bfloat16 or float32")
        if self.pairs < 1 or self.first < 0 or not self.tolerance > 0:
            raise ConfigError("bench needs pairs >= 1, first >= 0 and a tolerance above 0")
        if self.measure == "memory" and not all(1 <= n <= min(self.steps) for n in self.corrections):
            raise ConfigError(
                f"corrections must be at least 1 and at most {min(self.steps)}, the fewest steps"
            )
        if self.measure == "memory" and (self.width % 8 or self.height % 8):
            raise ConfigError(
                f"training frames need sides that are multiples of 8, not {self.width}x{self.height}"
            )


def run(options: BenchOptions) -> int:
    """Measure and print; the exit code.

    Raises:
        DeqflowError, OSError: an option does not hold; said in one sentence.
    """
    keep_freed_memory()
    size = (options.height, options.width)
    if options.measure == "memory":
        print(f"{options.model}, training step of one pair of {options.width}x{options.height}, float32\n")
        print(memory_report(options.model, steps=options.steps, corrections=options.corrections, size=size))
        return 0
    if options.measure == "training":
        _bench_training(options)
        return 0
    if options.measure == "errors":
        print(comparison_table(compare(_candidates(options), _pairs(options))))
        return 0
    model = zoo.load(options.model, checkpoint=options.checkpoint, device=options.device)
    told = f"{options.model}, {model.device}, {torch.get_num_threads()} threads"
    if options.measure == "solvers":
        print(f"{told}, until the flow moves less than {options.tolerance:g} px per step\n")
        results = measure_convergence(
            model, _pairs(options), tolerance=options.tolerance, steps=options.steps[-1]
        )
        print(convergence_table(results))
        return 0
    if options.measure == "uncertainty":
        print(f"{told}: mean absolute error of a component of the flow\n")
        print(calibration_table(measure_calibration(model, _pairs(options))))
        return 0
    print(f"{told}, {options.width}x{options.height}, median of {options.repeats}\n")
    timings = measure_speed(
        model,
        precisions=options.precisions or ("bfloat16", "float32"),
        steps=options.steps,
        size=size,
        repeats=options.repeats,
    )
    print(speed_table(timings))
    return 0


def _bench_training(options: BenchOptions) -> None:
    """Time the synthetic stage as it is, but for the way its pairs are made of scenes."""
    stage = stage_for("synthetic", options.model)
    both = TrainOptions(
        **asdict(replace(stage, height=options.height, width=options.width, bidirectional=True)),
        model=options.model,
        textures=options.textures,
        device=options.device,
    )
    formats: list[Precision] = [name for name in options.precisions or () if name != "float16"] or ["auto"]
    variants = {
        _in_precision(ways, precision): replace(both, bidirectional=ways == "both ways", precision=precision)
        for precision in formats
        for ways in ("one way", "both ways")
    }
    threads = torch.get_num_threads()
    print(f"{options.model}, {both.batch} pairs of {both.width}x{both.height} a step, {threads} threads\n")
    print(training_table(measure_training(variants, repeats=options.repeats), batch=both.batch))


def _in_precision(name: str, precision: str) -> str:
    """What to call a row of a table; the precision is named if it was asked for."""
    return name if precision == "auto" else f"{name}, {precision}"


def _candidates(options: BenchOptions) -> dict[str, DEQFlow]:
    """The models to compare, by the name of their file and, if any are named, their precision."""

    def opened(path: Path | None, precision: str) -> DEQFlow:
        return zoo.load(
            options.model,
            checkpoint=path,
            device=options.device,
            precision=precision,
            scales=options.scales,
        )

    paths = (options.checkpoint, *options.against)
    names = [options.model if path is None else str(path) for path in paths]
    return {
        _in_precision(name, precision): opened(path, precision)
        for name, path in zip(names, paths, strict=True)
        for precision in options.precisions or ("auto",)
    }


def _pairs(options: BenchOptions) -> Iterable[Sample]:
    """Pairs with ground truth that no model of ours was trained on."""
    samples: Iterable[Sample]
    if options.benchmark is not None:
        samples = chain.from_iterable(find_benchmarks(options.benchmark))
    else:
        training = TrainOptions(textures=options.textures, height=options.height, width=options.width)
        samples = map(open_scenes(training).held_out, range(options.first, options.first + options.pairs))
    return known_only(tqdm(samples, unit="pair"))
