"""Whether a model errs as much as it says it does."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deqflow.data.sample import Sample
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.evaluation.study import spearman
from deqflow.tables import markdown

EDGES = (0.3, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pixels of expected error between the rows of the table."""


@dataclass
class Calibration:
    """Expected and real errors, pooled over pixels by how large an error was expected.

    Attributes:
        pixels: (len(EDGES) + 1,) number of pixels in each range of expected error.
        expected: (len(EDGES) + 1,) sum of the expected errors of a component of the flow, pixels.
        real: (len(EDGES) + 1,) sum of the mean absolute errors of the components.
        correlations: rank correlation of the two within each sample.
    """

    pixels: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(EDGES) + 1))
    expected: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(EDGES) + 1))
    real: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(EDGES) + 1))
    correlations: list[float] = field(default_factory=list)

    def add(self, expected: NDArray[np.floating], real: NDArray[np.floating]) -> None:
        """Take in the pixels (N,) of a sample."""
        place = np.searchsorted(EDGES, expected, side="right")
        count = len(self.pixels)
        self.pixels += np.bincount(place, minlength=count)
        self.expected += np.bincount(place, weights=expected, minlength=count)
        self.real += np.bincount(place, weights=real, minlength=count)
        self.correlations.append(spearman(expected, real))


def measure_calibration(model: DEQFlow, samples: Iterable[Sample]) -> Calibration:
    """Estimate the flow of every sample as the model does by default, and compare.

    Raises:
        ConfigError: the model does not tell how far its flow may be off.
    """
    if model.uncertainty is None:
        raise ConfigError(f"{model.name} does not tell how far its flow may be off")
    calibration = Calibration()
    for sample in samples:
        estimate = model.estimate(sample.frame1, sample.frame2)
        assert estimate.uncertainty is not None  # the model tells
        real = np.abs(estimate.flow - sample.flow).mean(axis=2)
        calibration.add(estimate.uncertainty[sample.valid], real[sample.valid])
    return calibration


def calibration_table(calibration: Calibration) -> str:
    """A Markdown table, one row per range of expected error, and the rank correlation below it."""
    header = ["expected error, px", "share of pixels %", "expected, mean", "real, mean"]
    limits = ["", *(f"{edge:g}" for edge in EDGES), ""]
    share = 100 * calibration.pixels / max(1.0, calibration.pixels.sum())
    rows = [
        [
            f"{low or '0'} to {high}" if high else f"{low} and more",
            f"{share[index]:.1f}",
            *(
                f"{sums[index] / calibration.pixels[index]:.2f}" if calibration.pixels[index] else ""
                for sums in (calibration.expected, calibration.real)
            ),
        ]
        for index, (low, high) in enumerate(pairwise(limits))
    ]
    told = f"Rank correlation within a pair, median: {median(calibration.correlations):.2f}"
    return "\n".join([*markdown(header, rows), "", told])
