"""Errors of several models on the same pairs, each solved as it is by default."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import geometric_mean, mean, median

import numpy as np

from deqflow.data.sample import Sample
from deqflow.estimator import DEQFlow
from deqflow.evaluation.metrics import end_point_error
from deqflow.tables import markdown

OFFSET = 0.01
"""Pixels added to each error of a geometric mean, so that a perfect pair does not decide it."""


@dataclass
class PairErrors:
    """What one model did, one entry per pair.

    Attributes:
        epe: mean end-point error over the valid pixels.
        middle: median of the same.
        wrong: share of valid pixels that are off by more than a pixel.
        steps: evaluations of the update operator at full size.
    """

    epe: list[float] = field(default_factory=list)
    middle: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


def compare(models: Mapping[str, DEQFlow], samples: Iterable[Sample]) -> dict[str, PairErrors]:
    """Estimate the flow of every sample with every model."""
    found = {name: PairErrors() for name in models}
    for sample in samples:
        for name, model in models.items():
            estimate = model.estimate(sample.frame1, sample.frame2)
            error = end_point_error(estimate.flow, sample.flow)[sample.valid]
            one = found[name]
            one.epe.append(float(error.mean()))
            one.middle.append(float(np.median(error)))
            one.wrong.append(float((error > 1).mean()))
            one.steps.append(estimate.steps)
    return found


def comparison_table(found: Mapping[str, PairErrors]) -> str:
    """A Markdown table, one row per model; means are over pairs."""
    header = ["weights", "EPE mean", "median", "geometric", "pixel median, geometric", "> 1 px %", "steps"]
    rows = [
        [
            name,
            f"{mean(one.epe):.3f}",
            f"{median(one.epe):.3f}",
            f"{geometric_mean(error + OFFSET for error in one.epe):.3f}",
            f"{geometric_mean(error + OFFSET for error in one.middle):.4f}",
            f"{100 * mean(one.wrong):.2f}",
            f"{mean(one.steps):.1f}",
        ]
        for name, one in found.items()
    ]
    return "\n".join(markdown(header, rows))
