"""Augmentation of training pairs: scale, stretch, crop, flips, color, noise, and occlusion by an eraser.

Kinds and ranges are RAFT's (Teed & Deng, ECCV 2020, and its published configuration), which DEQ-Flow trains
with. Differences: flow scales by the exact ratio of the rounded sizes; colors change and the eraser strikes
after cropping; a frame that is too small for its crop is padded, not enlarged.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from deqflow.data.sample import Sample
from deqflow.data.transforms import cropped, flipped, hidden, resized
from deqflow.errors import ConfigError

Image = NDArray[np.uint8]

_GRAY = np.array([0.299, 0.587, 0.114])  # luma of RGB, ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a pair, and of its ground truth with it.

    Attributes:
        crop: height and width of every result, pixels.
        sparse: resizing never mixes vectors, as published for KITTI and HD1K: see `transforms.resized`.
        scale: lowest and highest log2 of the size. A frame is not shrunk below the crop.
        scale_probability: of changing the size at all.
        stretch: width and height change by up to this log2 each, beside the common scale.
        stretch_probability: of that, where the size changes.
        flip_horizontal: probability of mirroring left to right.
        flip_vertical: probability of turning upside down.
        crop_margin: how far beyond the frame's edges, bottom and sides, crops are drawn before they are moved
            back inside; the edges come more often that way.
        brightness: factor is drawn from 1 - brightness to 1 + brightness.
        contrast: likewise, about the mean gray of the pair.
        saturation: likewise.
        hue: turn of the color circle, in whole turns, drawn from -hue to hue.
        asymmetric_probability: of drawing these for each frame alone rather than for both.
        noise: largest standard deviation of Gaussian noise, gray levels; each pair draws its own from 0 on.
        noise_probability: of any noise.
        eraser_probability: of painting rectangles of frame 2 over with its mean color.
        eraser_count: fewest and most of them.
        eraser_side: shortest and longest side, pixels.

    Raises:
        ConfigError: a field outside its range.
    """

    crop: tuple[int, int]
    sparse: bool = False
    scale: tuple[float, float] = (-0.2, 0.6)
    scale_probability: float = 0.8
    stretch: float = 0.2
    stretch_probability: float = 0.8
    flip_horizontal: float = 0.5
    flip_vertical: float = 0.1
    crop_margin: tuple[int, int] = (0, 0)
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.5 / math.pi
    asymmetric_probability: float = 0.2
    noise: float = 0.0
    noise_probability: float = 0.5
    eraser_probability: float = 0.5
    eraser_count: tuple[int, int] = (1, 2)
    eraser_side: tuple[int, int] = (50, 100)

    def __post_init__(self) -> None:
        """Rejects what cannot be drawn from, naming the field."""
        for name in (
            field for field in self.__dataclass_fields__ if "probability" in field or "flip" in field
        ):
            self._check(name, 0, 1)
        for name in ("brightness", "contrast", "saturation"):
            self._check(name, 0, 1)
        self._check("hue", 0, 0.5)
        self._check("crop", 16, math.inf)
        self._check("crop_margin", 0, math.inf)
        self._check("stretch", 0, 4)
        self._check("scale", -4, 4, ordered=True)
        self._check("noise", 0, 255)
        self._check("eraser_count", 1, math.inf, ordered=True)
        self._check("eraser_side", 1, math.inf, ordered=True)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return a changed sample, of the crop's size; the same for the same state of ``rng``.

        Masks that the sample has follow, ``occlusion`` and ``noc`` also what cropping and the eraser hide;
        ``subpixels`` are dropped.
        """
        sample = self._scaled(sample, rng)
        sample = self._cropped(sample, rng)
        horizontal, vertical = rng.random(2) < (self.flip_horizontal, self.flip_vertical)
        sample = flipped(sample, horizontal=bool(horizontal), vertical=bool(vertical))
        sample = self._colored(sample, rng)
        if self.noise > 0 and rng.random() < self.noise_probability:
            sample = self._noisy(sample, rng)
        return self._erased(sample, rng) if rng.random() < self.eraser_probability else sample

    def _check(self, name: str, low: float, high: float, *, ordered: bool = False) -> None:
        value = getattr(self, name)
        values = value if isinstance(value, tuple) else (value,)
        if not all(low <= number <= high for number in values):
            limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise ConfigError(f"augmentation: {name} must be {limits}, got {value}")
        if ordered and values[0] > values[1]:
            raise ConfigError(f"augmentation: {name} must be (lowest, highest), got {value}")

    def _scaled(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.scale_probability:
            return sample
        log_scale = np.full(2, rng.uniform(*self.scale))
        if rng.random() < self.stretch_probability:
            log_scale += rng.uniform(-self.stretch, self.stretch, 2)
        size = np.array(sample.valid.shape)
        smallest = min(1.0, max(np.array(self.crop) / size))
        height, width = (int(side) for side in np.rint(size * np.maximum(2**log_scale, smallest)))
        return resized(sample, height, width, sparse=self.sparse)

    def _cropped(self, sample: Sample, rng: np.random.Generator) -> Sample:
        corner: list[int] = []
        for axis, room in enumerate(np.subtract(sample.valid.shape, self.crop)):
            if room < 0:  # padding, on both sides
                corner.append(-int(rng.integers(-room, endpoint=True)))
                continue
            margin = self.crop_margin[axis]
            drawn = rng.integers(-margin if axis else 0, room + margin, endpoint=True)
            corner.append(int(np.clip(drawn, 0, room)))
        top, left = corner
        return cropped(sample, top, left, *self.crop)

    def _colored(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() < self.asymmetric_probability:
            frame1, frame2 = self._jittered(sample.frame1, rng), self._jittered(sample.frame2, rng)
        else:
            both = self._jittered(np.concatenate([sample.frame1, sample.frame2]), rng)
            frame1, frame2 = np.split(both, 2)
        return replace(sample, frame1=frame1, frame2=frame2)

    def _jittered(self, image: Image, rng: np.random.Generator) -> Image:
        """Change brightness, contrast, saturation and hue in random order, rounding after each."""
        spread = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        amounts = rng.uniform(-spread, spread)
        changes = (brightened, contrasted, saturated, hue_turned)
        for kind in rng.permutation(4):
            if amounts[kind] != 0:
                image = changes[kind](image, amounts[kind] + (kind < 3))
        return image

    def _noisy(self, sample: Sample, rng: np.random.Generator) -> Sample:
        deviation = np.float32(rng.uniform(0, self.noise))

        def noisy(image: Image) -> Image:
            noise = deviation * rng.standard_normal(image.shape, np.float32)
            return _to_bytes(image + noise)

        return replace(sample, frame1=noisy(sample.frame1), frame2=noisy(sample.frame2))

    def _erased(self, sample: Sample, rng: np.random.Generator) -> Sample:
        frame2, covered = sample.frame2.copy(), np.zeros_like(sample.valid)
        color = _to_bytes(sample.frame2.mean((0, 1)))
        for _ in range(rng.integers(*self.eraser_count, endpoint=True)):
            top, left = rng.integers(sample.valid.shape)
            height, width = rng.integers(*self.eraser_side, 2, endpoint=True)
            covered[top : top + height, left : left + width] = True
        frame2[covered] = color
        return hidden(replace(sample, frame2=frame2), covered)


def brightened(image: Image, factor: float) -> Image:
    """RGB (H, W, 3) times ``factor``."""
    return _looked_up(image, factor * np.arange(256.0))


def contrasted(image: Image, factor: float) -> Image:
    """RGB (H, W, 3) with its distance from the mean gray times ``factor``."""
    mean = float(image.reshape(-1, 3).mean(0) @ _GRAY)
    return _looked_up(image, mean + factor * (np.arange(256.0) - mean))


def saturated(image: Image, factor: float) -> Image:
    """RGB (H, W, 3) with each pixel's distance from its own gray times ``factor``."""
    matrix = factor * np.eye(3) + (1 - factor) * _GRAY
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def hue_turned(image: Image, turns: float) -> Image:
    """RGB (H, W, 3) with the hue moved by ``turns`` of the color circle, in steps of 1/256."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(256 * turns) % 256)  # wraps around, as the circle does
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)


def _looked_up(image: Image, table: NDArray[np.floating]) -> Image:
    return np.asarray(cv2.LUT(image, _to_bytes(table)), np.uint8)


def _to_bytes(values: NDArray[np.floating]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


SPARSE = Augmentation(
    crop=(288, 960),
    sparse=True,
    scale=(-0.2, 0.4),
    stretch=0.0,
    flip_horizontal=0.0,
    flip_vertical=0.0,
    crop_margin=(20, 50),
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.3 / math.pi,
    asymmetric_probability=0.0,
)
"""The ranges published for sparse ground truth, at the crop of KITTI's own stage."""

SINTEL_CROP = (368, 768)
"""Of the stage that mixes Sintel with other data sets."""
