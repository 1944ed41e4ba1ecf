"""What ``deqflow bench`` measures of models: seconds by part, solver steps, errors expected and real."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, geometric_mean, median
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from deqflow.data.sample import Sample
from deqflow.devices import resolve_precision, span_seconds, stopwatch
from deqflow.equilibrium import Anderson, Broyden, DampedIteration, FixedPointIteration, Solver
from deqflow.estimate import FlowEstimate
from deqflow.estimator import DEQFlow
from deqflow.evaluation.metrics import end_point_error
from deqflow.tables import markdown

Name = TypeVar("Name")

COMPARED_SOLVERS: Mapping[str, Solver] = {
    "plain": FixedPointIteration(),
    "relaxed 0.6": FixedPointIteration(relaxation=0.6),
    "relaxed 0.8": FixedPointIteration(relaxation=0.8),
    "relaxed 1.2": FixedPointIteration(relaxation=1.2),
    "damped": DampedIteration(),
    "Anderson 3": Anderson(window=3),
    "Anderson 5": Anderson(window=5),
    "Broyden 12": Broyden(history=12),
    "Broyden 12, line search": Broyden(history=12, line_search=2),
}
"""The solvers that are compared."""

OFFSET = 0.01
"""Pixels added to each error of a geometric mean, so that a perfect pair does not decide it."""


@dataclass(frozen=True)
class Timing:
    """How long something takes, and how that is shared between the spans inside it.

    Attributes:
        seconds: of each repetition, without the profiler.
        spans: seconds by span, of one more repetition with it.
    """

    seconds: list[float] = field(default_factory=list)
    spans: dict[str, float] = field(default_factory=dict)


def take_turns(
    runs: Mapping[Name, Callable[[], object]],
    device: torch.device,
    *,
    repeats: int,
    warm_up: int = 1,
    progress: bool = True,
) -> dict[Name, Timing]:
    """Time several things ``repeats`` times in turns: a machine whose speed drifts slows all of them alike.

    Args:
        runs: what to time, by name.
        device: that they run on.
        repeats: rounds that count.
        warm_up: rounds before them that do not; one more in the end is for the spans.
        progress: show a bar on standard error.
    """
    timings = {name: Timing() for name in runs}
    clock = stopwatch(device)
    for round_ in tqdm(range(warm_up + repeats + 1), unit="round", disable=not progress):
        for name, run in runs.items():
            if round_ == warm_up + repeats:
                with span_seconds(device) as spans:
                    run()
                timings[name].spans.update(spans)
                continue
            next(clock)
            run()
            seconds = next(clock)
            if round_ >= warm_up:
                timings[name].seconds.append(seconds)
    return timings


class SpeedCase(NamedTuple):
    """What is timed.

    Attributes:
        size: height and width of the frames.
        precision: a name that ``resolve_precision`` knows.
        correlation: a name of ``network.CORRELATIONS``, or ``auto``.
        steps: evaluations of the update operator at each scale.
    """

    size: tuple[int, int]
    precision: str
    correlation: str
    steps: int


def measure_speed(
    model: DEQFlow, cases: Iterable[SpeedCase], *, repeats: int, progress: bool = True
) -> dict[SpeedCase, Timing]:
    """Time a pair in several ways; see ``take_turns``.

    Args:
        model: restored to its own precision and correlation at the end.
        cases: the ways.
        repeats: of each.
        progress: show a bar on standard error.
    """
    frames: dict[tuple[int, int], Tensor] = {}

    def estimate(case: SpeedCase) -> None:
        model.precision, model.correlation = resolve_precision(case.precision, model.device), case.correlation
        with torch.inference_mode():
            model(*frames[case.size], steps=case.steps, tolerance=0.0)

    runs = {case: partial(estimate, case) for case in cases}
    frames.update({case.size: _moved_noise(case.size).to(model.device) for case in runs})
    own = model.precision, model.correlation
    try:
        return take_turns(runs, model.device, repeats=repeats, progress=progress)
    finally:
        model.precision, model.correlation = own


def smooth_noise(count: int, size: tuple[int, int]) -> Tensor:
    """Return ``count`` unrelated frames (count, 3, H, W) of 0..255, always the same ones."""
    coarse = torch.rand(
        count, 3, *(-(-side // 8) for side in size), generator=torch.Generator().manual_seed(0)
    )
    return 255 * F.interpolate(coarse, size=size, mode="bilinear")


def _moved_noise(size: tuple[int, int]) -> Tensor:
    """Return two frames (2, 1, 3, H, W) of smooth noise, the second moved by (6, 3) pixels.

    Windows that are correlated on demand cost more where the flow is torn, as it is between unrelated frames.
    """
    frame = smooth_noise(1, size)
    return torch.stack((frame, frame.roll((3, 6), dims=(2, 3))))


def speed_table(timings: Mapping[SpeedCase, Timing]) -> str:
    """Return a Markdown table of medians, a row each."""
    parts = list(dict.fromkeys(part for timing in timings.values() for part in timing.spans))
    rows = []
    for ((height, width), precision, correlation, steps), timing in timings.items():
        total, seconds = sum(timing.spans.values()), median(timing.seconds)
        shares = [f"{100 * timing.spans.get(part, 0.0) / total:.0f}" for part in parts]
        of = [f"{width}x{height}", precision, correlation, str(steps)]
        rows.append([*of, f"{seconds:.3f}", f"{1e6 * seconds / (height * width):.2f}", *shares])
    header = ["frames", "precision", "correlation", "steps", "seconds per pair", "us per pixel"]
    return "\n".join(markdown([*header, *(f"{part} %" for part in parts)], rows))


class PairErrors(NamedTuple):
    """How one estimate ended.

    Attributes:
        epe: mean end-point error over the valid pixels.
        middle: median of the same.
        wrong: share of valid pixels that are off by more than a pixel.
        steps: evaluations of the update operator at the finest scale.
        cost: all evaluations, in those of the 1/8 grid.
        converged: whether the tolerance was met.
    """

    epe: float
    middle: float
    wrong: float
    steps: int
    cost: float
    converged: bool

    @classmethod
    def of(cls, estimate: FlowEstimate, sample: Sample) -> "PairErrors":
        """Hold an estimate against the truth of its pair."""
        error = end_point_error(estimate.flow, sample.flow)[sample.valid]
        epe, middle, wrong = float(error.mean()), float(np.median(error)), float((error > 1).mean())
        return cls(epe, middle, wrong, estimate.steps, estimate.cost, estimate.converged)


@torch.inference_mode()
def compare_solvers(
    model: DEQFlow,
    samples: Iterable[Sample],
    *,
    tolerance: float,
    steps: int,
    solvers: Mapping[str, Solver] = COMPARED_SOLVERS,
) -> dict[str, list[PairErrors]]:
    """Solve every pair with every solver at the finest scale, all from the same state: the model's usual one.

    Args:
        model: in evaluation mode.
        samples: pairs with ground truth, of some pixel each.
        tolerance: RMS movement of the flow in pixels per step at which a solve stops.
        steps: most evaluations.
        solvers: by the name to report them under.
    """
    found: dict[str, list[PairErrors]] = {name: [] for name in solvers}
    for sample in samples:
        pair = model.prepare(model.to_tensor(sample.frame1), model.to_tensor(sample.frame2))
        start = model.coarse_start(pair)
        for name, solver in solvers.items():
            settings = model.settings(steps=steps, tolerance=tolerance, solver=solver)
            settings = settings.begun_at(settings.scales[-1])
            estimate = model.decode(model.solve(pair, start, settings), pair.padding)[0]
            found[name].append(PairErrors.of(estimate, sample))
    return found


def solver_table(found: Mapping[str, list[PairErrors]]) -> str:
    """Return a Markdown table, one row per solver."""
    rows = [
        [
            name,
            f"{fmean(one.steps for one in pairs):.1f}",
            f"{median(one.steps for one in pairs):g}",
            f"{100 * fmean(one.converged for one in pairs):.0f}",
            f"{fmean(one.epe for one in pairs):.3f}",
            f"{median(one.epe for one in pairs):.3f}",
        ]
        for name, pairs in found.items()
    ]
    return "\n".join(
        markdown(["solver", "steps, mean", "median", "converged %", "EPE, mean", "EPE, median"], rows)
    )


def compare_models(models: Mapping[str, DEQFlow], samples: Iterable[Sample]) -> dict[str, list[PairErrors]]:
    """Estimate the flow of every sample with every model, each as it does by default."""
    found: dict[str, list[PairErrors]] = {name: [] for name in models}
    for sample in samples:
        for name, model in models.items():
            found[name].append(PairErrors.of(model.estimate(sample.frame1, sample.frame2), sample))
    return found


def mean_error(errors: Iterable[float]) -> float:
    """Return the geometric mean of end-point errors, pixels; `OFFSET` is added to each."""
    return geometric_mean(error + OFFSET for error in errors)


def model_table(found: Mapping[str, list[PairErrors]]) -> str:
    """Return a Markdown table, one row per model; means are over pairs."""
    header = ["weights", "EPE mean", "median", "geometric", "pixel median, geometric", "> 1 px %"]
    rows = [
        [
            name,
            f"{fmean(one.epe for one in pairs):.3f}",
            f"{median(one.epe for one in pairs):.3f}",
            f"{mean_error(one.epe for one in pairs):.3f}",
            f"{mean_error(one.middle for one in pairs):.4f}",
            f"{100 * fmean(one.wrong for one in pairs):.2f}",
            f"{fmean(one.steps for one in pairs):.1f}",
            f"{fmean(one.cost for one in pairs):.1f}",
        ]
        for name, pairs in found.items()
    ]
    return "\n".join(markdown([*header, "steps", "cost"], rows))
