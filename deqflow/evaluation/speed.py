"""Seconds per pair, and which part of the network they go to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm

from deqflow.devices import resolve_precision, stopwatch
from deqflow.estimator import DEQFlow
from deqflow.tables import markdown

PARTS = ("coarse", "encoders", "correlation", "solve", "upsampling")


@dataclass(frozen=True)
class Timing:
    """Seconds of one pair, by part; ``coarse`` is the whole solve of the halved frames."""

    coarse: float
    encoders: float
    correlation: float
    solve: float
    upsampling: float

    @property
    def total(self) -> float:
        """Seconds of the whole pair."""
        return self.coarse + self.encoders + self.correlation + self.solve + self.upsampling


def speed_table(timings: Mapping[tuple[str, int], Sequence[Timing]]) -> str:
    """A Markdown table of medians, one row per precision and number of steps."""
    header = ["precision", "steps", "seconds per pair", *(f"{part} %" for part in PARTS)]
    rows = []
    for (precision, steps), measured in timings.items():
        total = median(timing.total for timing in measured)
        shares = [median(getattr(timing, part) / timing.total for timing in measured) for part in PARTS]
        rows.append([precision, str(steps), f"{total:.3f}", *(f"{100 * share:.0f}" for share in shares)])
    return "\n".join(markdown(header, rows))


def measure_speed(
    model: DEQFlow,
    *,
    precisions: tuple[str, ...],
    steps: tuple[int, ...],
    size: tuple[int, int],
    repeats: int,
    progress: bool = True,
) -> dict[tuple[str, int], list[Timing]]:
    """Time every combination of precision and steps ``repeats`` times, in turns.

    Args:
        model: restored to its own precision at the end.
        precisions: names that ``resolve_precision`` knows.
        steps: evaluations of the update operator.
        size: height and width of the frames, which hold noise: with tolerance 0 the content costs nothing.
        repeats: beside a first round that does not count.
        progress: show a bar on standard error.
    """
    noise = torch.randint(0, 256, (2, 1, 3, *size), generator=torch.Generator().manual_seed(0))
    frame1, frame2 = noise.to(model.device).float()
    combinations = [(precision, count) for precision in precisions for count in steps]
    timings: dict[tuple[str, int], list[Timing]] = {combination: [] for combination in combinations}
    own_precision = model.precision
    try:
        for round_ in tqdm(range(repeats + 1), unit="round", disable=not progress):
            for precision, count in combinations:
                model.precision = resolve_precision(precision, model.device)
                timing = time_pair(model, frame1, frame2, count)
                if round_ > 0:
                    timings[precision, count].append(timing)
    finally:
        model.precision = own_precision
    return timings


@torch.no_grad()
def time_pair(model: DEQFlow, image1: Tensor, image2: Tensor, steps: int) -> Timing:
    """Seconds of each part for one pair of tensors (1, 3, H, W), as ``model.forward`` runs them."""
    clock = stopwatch(image1.device)
    next(clock)
    settings = model.settings(steps=steps, tolerance=0.0)
    pair = model.prepare(image1, image2)
    encoders = next(clock)
    state = model.coarse_start(pair, settings)
    coarse = next(clock)
    model.operator(pair)
    correlation = next(clock)
    solution = model.solve(pair, state, settings)
    # solve builds the operator itself, so that its time contains the part measured before.
    solve = max(0.0, next(clock) - correlation)
    model.decode(solution, pair.padding)
    return Timing(coarse, encoders, correlation, solve, next(clock))
