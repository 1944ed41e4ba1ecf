"""Errors of an estimated flow against ground truth, by the definitions of the benchmarks.

Invalid pixels never count. A prediction that is not finite at a valid pixel is counted, makes the end-point
error NaN and is an outlier at every threshold: it cannot disappear in a mean.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deqflow.errors import DataError

OUTLIER_THRESHOLDS = (1.0, 3.0, 5.0)
"""End-point errors in pixels beyond which a pixel is an outlier."""


def end_point_error(flow: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean distance of two flow fields at each pixel (Baker et al., IJCV 2011, section 4.1).

    Args:
        flow: estimate (H, W, 2) in pixels.
        truth: ground truth (H, W, 2) in pixels.

    Returns:
        (H, W) in pixels; NaN where the estimate is not finite.

    Raises:
        DataError: the shapes differ or are not (H, W, 2).
    """
    if flow.shape != truth.shape or flow.ndim != 3 or flow.shape[2] != 2:
        raise DataError(
            f"flow of shape {flow.shape} cannot be compared with ground truth of shape {truth.shape}: "
            "both must be (height, width, 2) and equal"
        )
    difference = flow.astype(np.float64) - truth
    error = np.hypot(difference[..., 0], difference[..., 1])
    return np.where(np.isfinite(flow).all(axis=2), error, np.nan)


@dataclass(frozen=True)
class PairMetrics:
    """Errors of one pair over its valid pixels.

    Attributes:
        pixels: valid pixels.
        nonfinite: valid pixels where the estimate is NaN or infinite.
        epe: mean end-point error in pixels; NaN if any estimate is not finite or no pixel is valid.
        outliers: valid pixels with an error beyond each of ``OUTLIER_THRESHOLDS``.
        fl: valid pixels with an error beyond 3 px and beyond 5 % of the true motion.
    """

    pixels: int
    nonfinite: int
    epe: float
    outliers: tuple[int, ...]
    fl: int

    def outlier_rate(self, threshold: float) -> float:
        """Percentage of valid pixels with an error above ``threshold``, one of ``OUTLIER_THRESHOLDS``."""
        return _percentage(self.outliers[OUTLIER_THRESHOLDS.index(threshold)], self.pixels)

    @property
    def fl_all(self) -> float:
        """Percentage of valid pixels that KITTI 2015 calls wrong; see ``MetricsAccumulator.fl_all``."""
        return _percentage(self.fl, self.pixels)


def measure(
    flow: NDArray[np.floating], truth: NDArray[np.floating], valid: NDArray[np.bool_] | None = None
) -> PairMetrics:
    """Compare one estimate with its ground truth.

    Args:
        flow: estimate (H, W, 2) in pixels.
        truth: ground truth (H, W, 2) in pixels; its values where ``valid`` is false are never used.
        valid: bool (H, W); every pixel if None.

    Raises:
        DataError: the shapes do not agree.
    """
    if valid is not None and valid.shape != truth.shape[:2]:
        raise DataError(
            f"validity mask of shape {valid.shape} does not fit ground truth of shape {truth.shape}"
        )
    error = end_point_error(flow, truth)
    magnitude = np.hypot(truth[..., 0].astype(np.float64), truth[..., 1])
    if valid is not None:
        error, magnitude = error[valid], magnitude[valid]
    # Negated comparisons, because NaN compares false with everything and must come out as wrong.
    return PairMetrics(
        pixels=error.size,
        nonfinite=int(np.isnan(error).sum()),
        epe=float(error.mean()) if error.size else math.nan,
        outliers=tuple(int(np.sum(~(error <= threshold))) for threshold in OUTLIER_THRESHOLDS),
        fl=int(np.sum(~((error <= 3.0) | (error <= 0.05 * magnitude)))),
    )


@dataclass
class MetricsAccumulator:
    """Running errors over the pairs of a data set, in constant memory.

    A pair without a valid pixel is counted in ``pairs`` and changes nothing else.
    """

    pairs: int = 0
    pixels: int = 0
    nonfinite: int = 0
    _measured: int = field(default=0, repr=False)
    _epe_sum: float = field(default=0.0, repr=False)
    _outliers: list[int] = field(default_factory=lambda: [0] * len(OUTLIER_THRESHOLDS), repr=False)
    _fl: int = field(default=0, repr=False)

    def add(self, pair: PairMetrics) -> None:
        """Include one more pair."""
        self.pairs += 1
        if pair.pixels == 0:
            return
        self._measured += 1
        self.pixels += pair.pixels
        self.nonfinite += pair.nonfinite
        self._epe_sum += pair.epe
        self._fl += pair.fl
        for index, count in enumerate(pair.outliers):
            self._outliers[index] += count

    @property
    def epe(self) -> float:
        """Mean over pairs of the mean error over valid pixels, in pixels.

        This is how KITTI's EPE is reported since RAFT (Teed & Deng, ECCV 2020). On Sintel (Butler et al.,
        ECCV 2012), where every pixel of equally large frames counts, it equals the mean over all pixels.
        """
        return self._epe_sum / self._measured if self._measured else math.nan

    def outlier_rate(self, threshold: float) -> float:
        """Percentage of all valid pixels of all pairs with an error above ``threshold``.

        The threshold is one of ``OUTLIER_THRESHOLDS``. At 3 px on KITTI 2012 (Geiger et al., CVPR 2012) this
        is Out-Noc or Out-All, by the mask of the ground truth; at 1 px it is Spring's main measure (Mehl et
        al., CVPR 2023).
        """
        return _percentage(self._outliers[OUTLIER_THRESHOLDS.index(threshold)], self.pixels)

    @property
    def fl_all(self) -> float:
        """Percentage of all valid pixels of all pairs with errors above 3 px and above 5 % of the motion.

        KITTI 2015's Fl-all (Menze & Geiger, CVPR 2015): counted over the pixels of the whole set, not
        averaged over pairs.
        """
        return _percentage(self._fl, self.pixels)


def _percentage(count: int, total: int) -> float:
    return 100.0 * count / total if total else math.nan
