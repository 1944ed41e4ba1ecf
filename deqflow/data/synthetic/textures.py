"""Where surfaces get their looks: photographs, cut-outs and patterns computed on the spot."""

import csv
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deqflow.errors import DataError
from deqflow.io.files import visible
from deqflow.io.images import read_pixels, to_bytes

Image = NDArray[np.uint8]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def _decode(path: Path) -> Image:
    """RGB (h, w, 3) or RGBA (h, w, 4)."""
    image = to_bytes(read_pixels(path), str(path))
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def _fit(image: Image, side: int) -> Image:
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _has_real_alpha(path: Path) -> bool:
    if path.suffix.lower() in (".jpg", ".jpeg", ".bmp"):
        return False
    image = _decode(path)
    return image.shape[2] == 4 and bool((image[..., 3] < 128).mean() > 0.01)


@dataclass(frozen=True)
class Textures:
    """The files that surfaces are cut from. Either list may be empty: patterns and drawn shapes step in."""

    photos: tuple[Path, ...] = ()
    objects: tuple[Path, ...] = ()

    @classmethod
    def from_folder(cls, root: str | Path | None, permissive_only: bool = True) -> "Textures":
        """List the images below `root`; None has none.

        With a `manifest.tsv` (columns path, permissive) its entries are taken, those under `objects/` as
        cut-outs; `permissive_only` keeps those marked "yes". Without one, every image below the folder is
        taken; those with transparent parts are cut-outs.

        Raises:
            DataError: no such folder, a manifest without the columns, or no image in it.
        """
        if root is None:
            return cls()
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder of textures")
        manifest = root / "manifest.tsv"
        if manifest.is_file():
            with manifest.open(newline="", encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines, delimiter="\t"))
            if not rows or not {"path", "permissive"} <= rows[0].keys():
                raise DataError(f"{manifest} must have the columns path and permissive")
            names = sorted(row["path"] for row in rows if not permissive_only or row["permissive"] == "yes")
            photos = [root / name for name in names if not name.startswith("objects/")]
            objects = [root / name for name in names if name.startswith("objects/")]
        else:
            files = [path for path in visible(root, "**/*") if path.suffix.lower() in SUFFIXES]
            objects = [path for path in files if _has_real_alpha(path)]
            cut_outs = set(objects)
            photos = [path for path in files if path not in cut_outs]
        if not photos and not objects:
            raise DataError(f"{root} holds no image to take textures from")
        return cls(tuple(photos), tuple(objects))


Pyramid = tuple[Image, ...]
"""An image, and the same halved again and again."""


def _pyramid(image: Image) -> Pyramid:
    levels = [image]
    while min(levels[-1].shape[:2]) >= 16:
        height, width = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half, np.uint8))
    return tuple(levels)


@dataclass
class TextureCache:
    """Decoded images at reduced size, the least recently used dropped beyond `capacity` bytes."""

    side: int
    capacity: int = 1 << 30
    _held: OrderedDict[Path, Pyramid] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def photo(self, path: Path) -> Pyramid:
        """Return RGB (h, w, 3)."""

        def load() -> Image:
            return np.ascontiguousarray(_fit(_decode(path), self.side)[..., :3])

        return self._get(path, load)

    def cut_out(self, path: Path) -> Pyramid:
        """Return RGBA (h, w, 4), colors premultiplied."""

        def load() -> Image:
            image = _decode(path)
            if image.shape[2] == 3:
                image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), np.uint8)
            left, top, w, h = cv2.boundingRect((image[..., 3] > 16).astype(np.uint8))
            image = image[top : top + h, left : left + w] if w * h else image
            # Glass and smoke would need two flows per pixel: what is half there is either there or not.
            alpha = np.clip((image[..., 3].astype(np.int16) - 128) * 4 + 128, 0, 255).astype(np.uint8)
            return _fit(premultiply(np.ascontiguousarray(image[..., :3]), alpha), 320)

        return self._get(path, load)

    def _get(self, path: Path, load: Callable[[], Image]) -> Pyramid:
        if path in self._held:
            self._held.move_to_end(path)
            return self._held[path]
        levels = _pyramid(load())
        self._held[path] = levels
        self._bytes += sum(level.nbytes for level in levels)
        while self._bytes > self.capacity and len(self._held) > 1:
            self._bytes -= sum(level.nbytes for level in self._held.popitem(last=False)[1])
        return levels


def premultiply(color: Image, alpha: Image) -> Image:
    """Join RGB (h, w, 3) and alpha (h, w) to RGBA whose colors are already times alpha."""
    opaque = cv2.merge([alpha, alpha, alpha])
    return np.dstack([cv2.multiply(color, opaque, scale=1 / 255), alpha])


def color_matrix(angle: float, saturation: float) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that turns hue by `angle` radians and scales saturation; gray stays gray."""
    gray = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(angle) * (np.eye(3) - gray) + np.sin(angle) * cross
    return np.asarray(gray + saturation * turn)


def recolor(rng: np.random.Generator, image: Image, strength: float = 1.0) -> Image:
    """Turn hue, saturation and gain of RGB or premultiplied RGBA by a random color matrix."""
    matrix = color_matrix(rng.normal(0, 0.35) * strength, np.exp(rng.normal(0, 0.3) * strength))
    matrix *= np.exp(rng.normal(0, 0.2) * strength)
    if image.shape[2] == 4:
        alpha = image[..., 3]
        changed = cv2.transform(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), matrix)
        return np.asarray(cv2.merge([*cv2.split(cv2.min(changed, cv2.merge([alpha] * 3))), alpha]), np.uint8)
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def color(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw an RGB color, 0..255, more often dull than bright."""
    gray = rng.uniform(20, 235)
    return np.clip(gray + rng.normal(0, rng.uniform(2, 55), 3), 4, 250).astype(np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> NDArray[np.float32]:
    """Return noise (h, w) of unit variance at its nodes, smooth between `cells` per side."""
    nodes = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    how = cv2.INTER_CUBIC if cells < 20 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(nodes, (width, height), interpolation=how), np.float32)


def pattern(rng: np.random.Generator, height: int, width: int) -> Image:
    """Compute a surface: flat, gradient, clouds, grain, stripes, checks or bricks. RGB (h, w, 3)."""
    kind = rng.choice(["flat", "gradient", "clouds", "grain", "stripes", "checks", "bricks"])
    first, second = color(rng), color(rng)
    if kind == "flat":
        mix = np.zeros((height, width), np.float32)
    elif kind == "clouds":
        mix = 0.5 + 0.3 * smooth_noise(rng, height, width, int(rng.integers(2, 12)))
        mix = mix + 0.1 * smooth_noise(rng, height, width, int(rng.integers(12, 50)))
    elif kind == "grain":
        mix = 0.5 + rng.uniform(0.03, 0.25) * smooth_noise(
            rng, height, width, max(8, max(height, width) // 3)
        )
    else:
        angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
        y, x = np.ogrid[0:height, 0:width]
        along = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
        across = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32)
        if kind == "gradient":
            mix = (along - along.min()) / max(float(np.ptp(along)), 1.0)
        else:
            period = np.exp(rng.uniform(np.log(6), np.log(60)))
            wave = np.sin(along * (2 * np.pi / period)) * period / 4
            if kind == "checks":
                wave = wave * np.sin(across * (2 * np.pi / period))
            if kind == "bricks":
                row = np.floor(across / period)
                wave = np.minimum(
                    np.abs((along + row % 2 * period) % (2 * period) - period) - 1.0,
                    np.abs(across % period - period / 2) - 1.0,
                )
            mix = np.clip(wave + 0.5, 0, 1)
    if rng.random() < 0.5:
        block = rng.standard_normal((height // 2 + 1, width // 2 + 1), dtype=np.float32)
        mix = mix + rng.uniform(0, 0.05) * cv2.resize(block, (width, height))
    mix = mix.astype(np.float32)
    planes = [
        cv2.convertScaleAbs(np.maximum(a + mix * (b - a), 0)) for a, b in zip(first, second, strict=True)
    ]
    return np.asarray(cv2.merge(planes), np.uint8)


def _nearest_level(shrink: float, count: int) -> int:
    """Choose the level that bilinear sampling at `shrink` pixels per pixel neither blurs nor aliases."""
    return min(max(math.floor(math.log2(shrink) + 0.5), 0), count - 1)


def _resized(image: Image, width: int, height: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


@dataclass
class Surfaces:
    """Draws surfaces for one scene from files, patterns and their mixtures."""

    textures: Textures
    cache: TextureCache
    procedural: float
    low_contrast: float

    def opaque(self, rng: np.random.Generator, height: int, width: int, *, whole: bool = False) -> Image:
        """Return RGB (height, width, 3); with `whole`, most of a photograph rather than a detail."""
        if not self.textures.photos or rng.random() < self.procedural * (0.4 if whole else 1):
            image = pattern(rng, height, width)
        else:
            levels = self.cache.photo(self.textures.photos[rng.integers(len(self.textures.photos))])
            rows, columns = levels[0].shape[:2]
            most = min(columns / width, rows / height)
            least = min(0.55 * most if whole else 0.25 * most, 1.0)
            scale = rng.uniform(least, most) if least < most else most
            photo = levels[_nearest_level(scale, len(levels))]
            share = photo.shape[0] / rows
            rows, columns = photo.shape[:2]
            h, w = (
                min(most, max(2, int(side * scale * share)))
                for side, most in ((height, rows), (width, columns))
            )
            top, left = rng.integers(rows - h + 1), rng.integers(columns - w + 1)
            image = _resized(photo[top : top + h, left : left + w], width, height)
            if rng.random() < 0.5:
                image = image[:, ::-1]
            image = recolor(rng, np.ascontiguousarray(image))
        if rng.random() < self.low_contrast:
            keep = rng.uniform(0.08, 0.5)
            lift = float(rng.uniform(0, 255 * (1 - keep)))
            image = np.asarray(cv2.convertScaleAbs(image, alpha=keep, beta=lift), np.uint8)
        return image

    def cut_out(self, rng: np.random.Generator, side: int) -> Image | None:
        """Return a premultiplied RGBA cut-out with long side `side`, or None without files of objects."""
        if not self.textures.objects:
            return None
        levels = self.cache.cut_out(self.textures.objects[rng.integers(len(self.textures.objects))])
        image = levels[0]
        scale = side / max(image.shape[:2])
        stretch = np.exp(rng.normal(0, 0.12))
        size = (
            max(3, round(image.shape[1] * scale * stretch)),
            max(3, round(image.shape[0] * scale / stretch)),
        )
        image = _resized(levels[_nearest_level(1 / scale, len(levels))], *size)
        if scale > 1.6:  # a matte magnified that much is mush: harden it again
            alpha = np.clip((image[..., 3].astype(np.float32) - 128) * scale + 128, 0, 255).astype(np.uint8)
            image = premultiply(image[..., :3], alpha)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        if rng.random() < 0.45:  # keep the outline, change the material
            return premultiply(self.opaque(rng, size[1], size[0]), np.ascontiguousarray(image[..., 3]))
        return recolor(rng, image)
