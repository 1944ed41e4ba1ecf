"""Whether a model knows its errors: expected beside real ones, and the curve from one to the other."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from deqflow.config import SolveOptions
from deqflow.data.sample import Sample
from deqflow.errors import ConfigError, DataError
from deqflow.estimator import DEQFlow
from deqflow.evaluation.pair_study import spearman
from deqflow.network.uncertainty import INNER_SCALE, Curve, MixtureHead
from deqflow.tables import markdown

ROWS = (0.1, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pixels of expected error between the rows of the table."""

FEWEST = 0.005
"""Share of all pixels that a point of a curve needs."""


@dataclass
class Calibration:
    """Expected and real errors, pooled over pixels by how large an error was expected.

    Attributes:
        edges: pixels of expected error between the ranges, rising.
        pixels: (len(edges) + 1,) number of pixels in each range.
        expected: (len(edges) + 1,) sum of the expected errors of a component of the flow, pixels.
        real: (len(edges) + 1,) sum of the mean absolute errors of the components.
        correlations: rank correlation of the two within each sample.
    """

    edges: tuple[float, ...] = ROWS
    pixels: NDArray[np.float64] = field(init=False)
    expected: NDArray[np.float64] = field(init=False)
    real: NDArray[np.float64] = field(init=False)
    correlations: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.pixels, self.expected, self.real = np.zeros((3, len(self.edges) + 1))

    def add(self, expected: NDArray[np.floating], real: NDArray[np.floating]) -> None:
        """Take in the pixels (N,) of a sample."""
        place = np.searchsorted(self.edges, expected, side="right")
        count = len(self.pixels)
        self.pixels += np.bincount(place, minlength=count)
        self.expected += np.bincount(place, weights=expected, minlength=count)
        self.real += np.bincount(place, weights=real, minlength=count)
        self.correlations.append(spearman(expected, real))

    def curve(self) -> Curve:
        """Return points (expected, real) that rise, of ranges with at least ``FEWEST`` of all pixels.

        Ranges whose real errors do not rise are pooled with what is before them (isotonic regression).

        Raises:
            DataError: fewer than two points.
        """
        pooled: list[NDArray[np.float64]] = []  # pixels, expected, real of a point: sums
        for sums in np.stack((self.pixels, self.expected, self.real), axis=1):
            if sums[0] < max(1.0, FEWEST * self.pixels.sum()):
                continue
            pooled.append(sums)
            while len(pooled) > 1 and pooled[-1][2] / pooled[-1][0] <= pooled[-2][2] / pooled[-2][0]:
                pooled[-2:] = [pooled[-2] + pooled[-1]]
        if len(pooled) < 2:
            raise DataError("the errors of these pairs do not rise with what the model expects of them")
        means = np.stack(pooled)[:, 1:] / np.stack(pooled)[:, :1]
        return tuple((told, real) for told, real in means.round(4).tolist())


def measure_calibration(
    model: DEQFlow,
    samples: Iterable[Sample],
    *,
    edges: tuple[float, ...] = ROWS,
    **options: Unpack[SolveOptions],
) -> Calibration:
    """Estimate the flow of every sample as the model does by default, but for ``options``, and compare.

    Raises:
        ConfigError: the model does not tell how far its flow may be off.
    """
    _head(model)
    calibration = Calibration(edges)
    for sample in samples:
        estimate = model.estimate(sample.frame1, sample.frame2, **options)
        assert estimate.uncertainty is not None  # the model tells
        real = np.abs(estimate.flow - sample.flow).mean(axis=2)
        calibration.add(estimate.uncertainty[sample.valid], real[sample.valid])
    return calibration


def calibrate(model: DEQFlow, samples: Iterable[Sample]) -> Curve:
    """Measure a model's expected errors as its head tells them, and have it expect the real ones from now on.

    The flow is that of the finest of the model's own strides: where enlarged frames refine it, what the head
    tells there goes through the same curve, and the expected error is made of both.

    Returns:
        The curve, which the configuration of the model has too.

    Raises:
        ConfigError: the model does not tell how far its flow may be off.
        DataError: its errors do not rise with what it expects.
    """
    _set_curve(model, ())
    edges = tuple(INNER_SCALE + np.geomspace(0.01, 32, 18))
    scales = tuple(scale for scale in model.defaults.scales if scale >= model.config.stride)
    curve = measure_calibration(model, samples, edges=edges, scales=scales).curve()
    _set_curve(model, curve)
    return curve


def _set_curve(model: DEQFlow, curve: Curve) -> None:
    _head(model).calibration = curve
    model.config = model.config.calibrated(curve)


def _head(model: DEQFlow) -> MixtureHead:
    if model.uncertainty is None:
        raise ConfigError(f"{model.name} does not tell how far its flow may be off")
    return model.uncertainty


def calibration_table(calibration: Calibration) -> str:
    """Return a Markdown table, one row per range of expected error, and the rank correlation below it."""
    header = ["expected error, px", "share of pixels %", "expected, mean", "real, mean"]
    limits = ["", *(f"{edge:g}" for edge in calibration.edges), ""]
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
