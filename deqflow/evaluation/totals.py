"""Errors added up over a data set: in constant memory, exactly, and in any order.

Counts are integers and sums of errors are fractions, which every float is one of. Adding them never rounds,
so that the result is the same to the last digit however the pairs were shared between processes or runs.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

from deqflow.evaluation.metrics import OUTLIER_THRESHOLDS, RegionErrors, percentage

PER_IMAGE = ("all", "noc")
"""Regions whose error is averaged over each image first: KITTI's. Those of Sintel and Spring pool pixels."""


@dataclass
class RegionTotal:
    """Errors of many pairs in one region.

    Attributes:
        pairs: pairs that have the region's mask.
        images: those of them with at least one valid pixel in the region.
        pixels: valid pixels.
        nonfinite: valid pixels without a finite estimate.
    """

    pairs: int = 0
    images: int = 0
    pixels: int = 0
    nonfinite: int = 0
    _total: Fraction = field(default_factory=Fraction, repr=False)
    _image_epe: Fraction = field(default_factory=Fraction, repr=False)
    _outliers: list[int] = field(default_factory=lambda: [0] * len(OUTLIER_THRESHOLDS), repr=False)
    _fl: int = field(default=0, repr=False)
    _wauc: int = field(default=0, repr=False)

    def add(self, errors: RegionErrors) -> None:
        """Include one more pair; one without a valid pixel is counted in ``pairs`` and changes no mean."""
        self.pairs += 1
        if errors.pixels == 0:
            return
        self.images += 1
        self.pixels += errors.pixels
        self.nonfinite += errors.nonfinite
        self._total += Fraction(errors.total)
        # With an estimate that is not finite the mean over images is NaN whatever the sum holds.
        self._image_epe += Fraction(errors.total / errors.pixels)
        self._fl += errors.fl
        self._wauc += errors.wauc
        for index, count in enumerate(errors.outliers):
            self._outliers[index] += count

    def merge(self, other: "RegionTotal") -> None:
        """Include all pairs of another total."""
        self.pairs += other.pairs
        self.images += other.images
        self.pixels += other.pixels
        self.nonfinite += other.nonfinite
        self._total += other._total
        self._image_epe += other._image_epe
        self._fl += other._fl
        self._wauc += other._wauc
        for index, count in enumerate(other._outliers):
            self._outliers[index] += count

    @property
    def epe_image(self) -> float:
        """Mean over images of the mean error over an image's valid pixels, in px.

        This is how KITTI's EPE is reported since RAFT (Teed and Deng, ECCV 2020), and Middlebury's averages
        (Baker et al., IJCV 2011). NaN if any estimate is not finite.
        """
        return float(self._image_epe / self.images) if self.images and not self.nonfinite else math.nan

    @property
    def epe_pixel(self) -> float:
        """Mean error over all valid pixels of all images together, in px.

        Sintel's EPE all, matched, unmatched, s0-10, s10-40 and s40+ (Butler et al., ECCV 2012) and Spring's
        EPE (Mehl et al., CVPR 2023). NaN if any estimate is not finite.
        """
        return float(self._total / self.pixels) if self.pixels and not self.nonfinite else math.nan

    def outlier_rate(self, threshold: float) -> float:
        """Percentage of all valid pixels of all images with an error above ``threshold``.

        The threshold is one of ``OUTLIER_THRESHOLDS``. At 3 px on KITTI 2012 (Geiger et al., CVPR 2012) this
        is Out-All, and Out-Noc in region noc; at 1 px it is Spring's main measure (Mehl et al., CVPR 2023).
        """
        return percentage(self._outliers[OUTLIER_THRESHOLDS.index(threshold)], self.pixels)

    @property
    def fl(self) -> float:
        """Percentage of all valid pixels of all images with errors above 3 px and above 5 % of the motion.

        KITTI 2015's Fl-all, and Fl-fg and Fl-bg in those regions (Menze and Geiger, CVPR 2015): counted over
        the pixels of the whole set, not averaged over images.
        """
        return percentage(self._fl, self.pixels)

    @property
    def wauc(self) -> float:
        """Weighted area under the inlier curve up to 5 px over all valid pixels of all images, 0 to 100.

        See ``RegionErrors.wauc_score`` (Richter et al., ICCV 2017). Pixels of the whole set are pooled; with
        dense ground truth and one frame size that is also the mean of the images' scores.
        """
        return RegionErrors(pixels=self.pixels, wauc=self._wauc).wauc_score

    def metrics(self, region: str) -> dict[str, float]:
        """Every figure by its name in tables and files, such as ``epe_matched``; see ``metric_name``."""
        epe = self.epe_image if region in PER_IMAGE else self.epe_pixel
        rates = {outlier_name(threshold): self.outlier_rate(threshold) for threshold in OUTLIER_THRESHOLDS}
        figures = {"epe": epe, **rates, "fl": self.fl, "wauc": self.wauc}
        named = {metric_name(kind, region): value for kind, value in figures.items()}
        return {**named, "epe_pixel": self.epe_pixel} if region == "all" else named


@dataclass
class Total:
    """Errors of one method over many pairs, in every region, and what its solver did.

    Attributes:
        pairs: how many.
        unknown: further pairs, of which no pixel's flow is known; they are part of nothing else here.
        regions: by names of ``REGIONS``; one is missing if no pair has its mask.
        solved: pairs whose method iterates, which the following are about.
        steps: evaluations of the update operator, summed.
        converged: pairs that met the tolerance.
    """

    pairs: int = 0
    unknown: int = 0
    regions: dict[str, RegionTotal] = field(default_factory=dict)
    solved: int = 0
    steps: int = 0
    converged: int = 0
    _residual: Fraction = field(default_factory=Fraction, repr=False)
    _seconds: Fraction = field(default_factory=Fraction, repr=False)
    _log_epe: Fraction = field(default_factory=Fraction, repr=False)
    _perfect: int = field(default=0, repr=False)
    _unsound: int = field(default=0, repr=False)

    def add(
        self,
        regions: dict[str, RegionErrors],
        *,
        seconds: float = 0.0,
        steps: int | None = None,
        residual: float | None = None,
        converged: bool | None = None,
    ) -> None:
        """Include one more pair; None for a method that does not iterate."""
        if not regions["all"].pixels:
            self.unknown += 1
            return
        self.pairs += 1
        for name, errors in regions.items():
            self.regions.setdefault(name, RegionTotal()).add(errors)
        self._seconds += Fraction(seconds)
        if steps is not None:
            self.solved += 1
            self.steps += steps
            self.converged += bool(converged)
            if residual is not None and math.isfinite(residual):
                self._residual += Fraction(residual)
            else:
                self._unsound += 1
        epe = regions["all"].epe
        if epe == 0:
            self._perfect += 1
        elif math.isfinite(epe):
            self._log_epe += Fraction(math.log(epe))

    def merge(self, other: "Total") -> None:
        """Include all pairs of another total."""
        for name, region in other.regions.items():
            self.regions.setdefault(name, RegionTotal()).merge(region)
        for name in (
            "pairs",
            "unknown",
            "solved",
            "steps",
            "converged",
            "_residual",
            "_seconds",
            "_log_epe",
            "_perfect",
            "_unsound",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def all(self) -> RegionTotal:
        """Over every valid pixel."""
        return self.regions.get("all", RegionTotal())

    @property
    def mean_steps(self) -> float | None:
        """Evaluations of the update operator per pair; None if the method does not iterate."""
        return self.steps / self.solved if self.solved else None

    @property
    def mean_residual(self) -> float | None:
        """How far the flow moved in the last step, px RMS, mean over pairs; NaN if any is not finite."""
        if not self.solved:
            return None
        return math.nan if self._unsound else float(self._residual / self.solved)

    @property
    def mean_seconds(self) -> float:
        """Seconds per pair, reading left out; NaN of no pair."""
        return float(self._seconds / self.pairs) if self.pairs else math.nan

    @property
    def geometric_epe(self) -> float:
        """Geometric mean over pairs of their error in px: 0 if one is perfect, NaN if one is not finite."""
        if not self.all.images or self.all.nonfinite:
            return math.nan
        return 0.0 if self._perfect else math.exp(self._log_epe / self.all.images)

    def metrics(self) -> dict[str, float]:
        """Every figure of every region by its name; see ``metric_name``."""
        figures: dict[str, float] = {}
        for name, region in self.regions.items():
            figures |= region.metrics(name)
        return figures


def pair_metrics(regions: dict[str, RegionErrors]) -> dict[str, float]:
    """The figures of one pair by the names that ``Total.metrics`` gives them."""
    total = Total()
    total.add(regions)
    figures = total.metrics()
    figures.pop("epe_pixel", None)  # of one image both means are the same
    return figures


def metric_name(kind: str, region: str) -> str:
    """``epe``, ``1px``, ``fl`` or ``wauc`` in a region: ``epe``, ``fl_all``, ``epe_matched``, ``fl_fg``."""
    return kind if region == "all" and kind != "fl" else f"{kind}_{region}"


def outlier_name(threshold: float) -> str:
    """``1px`` for 1.0."""
    return f"{threshold:g}px"
