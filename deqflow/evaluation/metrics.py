"""Errors of an estimated flow against ground truth, by the definitions of the benchmarks.

Invalid pixels never count. A prediction that is not finite at a valid pixel is counted, makes the end-point
error NaN and is an outlier at every threshold: it cannot disappear in a mean.

Of each pair only sums are kept for each region of its frame (`ErrorSums`); those of many pairs are their sum.
"""

import math
from dataclasses import astuple, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from deqflow.data.datasets.pairs import Averaging
from deqflow.data.sample import Sample
from deqflow.errors import DataError

OUTLIERS = {"1px": 1.0, "3px": 3.0, "5px": 5.0}
"""End-point errors in pixels beyond which a pixel is an outlier, by the name of their share."""

REGIONS = {
    "all": "every valid pixel",
    "matched": "visible in both frames, by the occlusion mask (Sintel, Spring)",
    "unmatched": "visible in frame 1 only, by the occlusion mask (Sintel, Spring)",
    "s0-10": "true motion below 10 pixels (Sintel, Spring)",
    "s10-40": "true motion from 10 to below 40 pixels (Sintel, Spring)",
    "s40+": "true motion of 40 pixels or more (Sintel, Spring)",
    "noc": "in KITTI's flow_noc: the point stays inside the frame",
    "fg": "moving foreground objects, by KITTI 2015's object map",
    "bg": "everything else, by KITTI 2015's object map",
    "noc-fg": "both noc and fg",
    "noc-bg": "both noc and bg",
}
"""The parts of a frame that errors are given for, and which pixels they hold."""

MASKS = {
    "an occlusion mask": ("matched", "unmatched"),
    "non-occluded ground truth": ("noc",),
    "an object map": ("fg", "bg"),
}
"""What a sample must carry for a region to exist; the other regions need ground truth alone."""

POOLED = frozenset(REGIONS) - {"all", "noc"}
"""Regions whose EPE is always over the pixels of all images together: an image may have few pixels of one."""

_WAUC_BINS = 100
_WAUC_LIMIT = 5.0
# A pixel whose error first falls within threshold i of 1..100 is within all later ones too. Its score is
# the sum of their weights 1 - (j - 1) / 100 for j = i..100, in hundredths: (101 - i)(102 - i) / 2, then 0.
_WAUC_THRESHOLDS = np.arange(1, _WAUC_BINS + 1) * _WAUC_LIMIT / _WAUC_BINS
_WAUC_SCORES = np.append(np.arange(_WAUC_BINS, 0, -1) * np.arange(_WAUC_BINS + 1, 1, -1) // 2, 0)


def end_point_error(flow: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Euclidean distance of two flow fields at each pixel (Baker et al., IJCV 2011, section 4.1).

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


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Sums of errors over the valid pixels of one region, of one pair or of many: ``+`` joins them.

    Attributes:
        pairs: pairs that have the region's mask.
        images: those of them with at least one valid pixel in the region.
        pixels: valid pixels.
        nonfinite: valid pixels where the estimate is NaN or infinite.
        error: sum of the end-point errors in pixels where the estimate is finite.
        image_error: sum of the images' mean errors in pixels.
        over_1px: valid pixels with an error beyond 1 px.
        over_3px: beyond 3 px.
        over_5px: beyond 5 px.
        fl: valid pixels with an error beyond 3 px and beyond 5 % of the true motion.
        wauc: sum of the pixels' scores, whole numbers from 0 to 5050; see ``metrics``.
    """

    pairs: int = 0
    images: int = 0
    pixels: int = 0
    nonfinite: int = 0
    error: float = 0.0
    image_error: float = 0.0
    over_1px: int = 0
    over_3px: int = 0
    over_5px: int = 0
    fl: int = 0
    wauc: int = 0

    @classmethod
    def of_pair(cls, pixels: int = 0, error: float = 0.0, **counts: int) -> Self:
        """Return the sums of one pair, which is one image if a pixel of it is valid."""
        mean = error / pixels if pixels else 0.0
        return cls(1, int(pixels > 0), pixels, error=error, image_error=mean, **counts)

    def __add__(self, other: "ErrorSums") -> "ErrorSums":
        return ErrorSums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def epe_image(self) -> float:
        """Mean end-point error of each image, then over images, in pixels.

        This is how KITTI's EPE is reported since RAFT (Teed and Deng, ECCV 2020), and Middlebury's averages
        (Baker et al., IJCV 2011). NaN if any estimate is not finite or no pixel is valid.
        """
        return self.image_error / self.images if self.images and not self.nonfinite else math.nan

    @property
    def epe_pixel(self) -> float:
        """Mean end-point error over all valid pixels of all images together, in pixels.

        Sintel's EPE all, matched, unmatched, s0-10, s10-40 and s40+ (Butler et al., ECCV 2012) and Spring's
        EPE (Mehl et al., CVPR 2023). NaN as ``epe_image``.
        """
        return self.error / self.pixels if self.pixels and not self.nonfinite else math.nan

    def metrics(self, region: str, averaging: Averaging = "images") -> dict[str, float]:
        """Return every figure by its name in tables and files, such as ``epe_matched``; see ``metric_name``.

        Apart from ``epe``, figures are over all valid pixels of all images together, in percent:

        - ``1px``, ``3px``, ``5px``: errors above so many pixels. At 3 px on KITTI 2012 (Geiger et al., CVPR
          2012) this is Out-All, and Out-Noc in region noc; at 1 px it is Spring's main measure.
        - ``fl``: errors above both 3 px and 5 % of the length of the true motion. KITTI 2015's Fl-all, and
          Fl-fg and Fl-bg in those regions (Menze and Geiger, CVPR 2015, section 5).
        - ``wauc``: weighted area under the curve of the share of pixels within an error, 100 is best. Inlier
          rates at 100 thresholds i/20 px (0.05 to 5 px) are averaged with weights 1 - (i - 1)/100 that favor
          small errors, as VIPER defines it (Richter, Hayder and Koltun, *Playing for Benchmarks*, ICCV 2017)
          and Spring reports it (Mehl et al., CVPR 2023).

        Args:
            region: one of ``REGIONS``.
            averaging: how the benchmark averages its EPE. The regions in ``POOLED`` are always over pixels.
        """
        per_image = averaging == "images" and region not in POOLED
        counts = (self.over_1px, self.over_3px, self.over_5px, self.fl)
        rates = {kind: percentage(n, self.pixels) for kind, n in zip((*OUTLIERS, "fl"), counts, strict=True)}
        figures = {
            "epe": self.epe_image if per_image else self.epe_pixel,
            **rates,
            "wauc": percentage(self.wauc, int(_WAUC_SCORES[0]) * self.pixels),
        }
        return {metric_name(kind, region): value for kind, value in figures.items()}


def measure_sample(flow: NDArray[np.floating], sample: Sample) -> dict[str, ErrorSums]:
    """Compare one estimate with a sample's ground truth in every region that the sample has masks for.

    Where ground truth has twice the frames' resolution the smallest error over a pixel's four values counts
    (Spring: Mehl et al., CVPR 2023, section 4). Sintel's mask of unreliable flow plays no part: published
    errors count those pixels too.

    Args:
        flow: estimate (H, W, 2) in pixels.
        sample: regions whose mask is None are left out of the result.

    Returns:
        Errors by names of ``REGIONS``, in their order.

    Raises:
        DataError: the shapes do not agree.
    """
    valid = sample.valid
    masks = (
        ("valid", valid),
        ("occlusion", sample.occlusion),
        ("noc", sample.noc),
        ("objects", sample.objects),
    )
    for name, mask in masks:
        if mask is not None and mask.shape != sample.flow.shape[:2]:
            raise DataError(
                f"{name} mask of {sample.name or 'a sample'} has shape {mask.shape}, "
                f"which does not fit ground truth of shape {sample.flow.shape}"
            )
    # From here on only valid pixels, as vectors: ground truth is often sparse, its gaps may hold anything.
    length = _length(sample.flow)[valid]
    pixels = _Pixels(_sample_error(flow, sample)[valid], length)
    chosen = {
        "s0-10": length < 10,
        "s10-40": (length >= 10) & (length < 40),
        "s40+": length >= 40,
    }
    if sample.occlusion is not None:
        chosen["unmatched"] = sample.occlusion[valid]
        chosen["matched"] = ~chosen["unmatched"]
    if sample.noc is not None:
        chosen["noc"] = sample.noc[valid]
    if sample.objects is not None:
        chosen["fg"] = sample.objects[valid] > 0
        chosen["bg"] = ~chosen["fg"]
    if sample.noc is not None and sample.objects is not None:
        chosen["noc-fg"], chosen["noc-bg"] = (chosen["noc"] & chosen[part] for part in ("fg", "bg"))
    found = {"all": pixels.errors(), **{name: pixels.errors(mask) for name, mask in chosen.items()}}
    return {name: found[name] for name in REGIONS if name in found}


def metric_name(kind: str, region: str) -> str:
    """Name a figure of a region in tables and files: ``epe``, ``fl_all``, ``epe_matched``, ``fl_fg``."""
    return kind if region == "all" and kind != "fl" else f"{kind}_{region}"


def percentage(count: int, total: int) -> float:
    """Return ``count`` in percent of ``total``; NaN of nothing."""
    return 100.0 * count / total if total else math.nan


def _sample_error(flow: NDArray[np.floating], sample: Sample) -> NDArray[np.float64]:
    """Return the error at each pixel; of four values of ground truth in it (Spring) the nearest counts."""
    if sample.subpixels is None:
        return end_point_error(flow, sample.flow)
    return np.fmin.reduce([end_point_error(flow, truth) for truth in sample.subpixels])


def _length(flow: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.hypot(flow[..., 0].astype(np.float64), flow[..., 1])


class _Pixels:
    """What is counted of each pixel, and the counts over some of them."""

    def __init__(self, error: NDArray[np.float64], length: NDArray[np.float64]) -> None:
        """Take ``error`` and ``length`` of the true motion, (N,) of valid pixels."""
        finite = np.isfinite(error)
        self.error = np.where(finite, error, 0.0)
        # Negated comparisons, because NaN compares false with everything and must come out as wrong; it is
        # sorted behind every threshold.
        self.flags = {f"over_{name}": ~(error <= threshold) for name, threshold in OUTLIERS.items()}
        self.flags |= {"nonfinite": ~finite, "fl": ~((error <= 3.0) | (error <= 0.05 * length))}
        self.wauc = _WAUC_SCORES[np.searchsorted(_WAUC_THRESHOLDS, error)]

    def errors(self, region: NDArray[np.bool_] | slice = slice(None)) -> ErrorSums:
        """Sum over the pixels that a mask (N,) chooses, or all."""
        error = self.error[region]
        counts = {name: int(np.count_nonzero(flags[region])) for name, flags in self.flags.items()}
        return ErrorSums.of_pair(error.size, float(error.sum()), wauc=int(self.wauc[region].sum()), **counts)
