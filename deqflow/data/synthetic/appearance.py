"""What cameras, air and light do to the two frames: effects that must not change the flow.

Every function takes and returns float32 RGB (h, w, 3), 0..255, unless its name says otherwise.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .motion import Homography
from .textures import color_matrix, smooth_noise

Floats = NDArray[np.float32]


def photometric(rng: np.random.Generator, image: Floats, strength: float) -> Floats:
    """Change exposure, white balance, contrast, gamma, saturation and hue."""
    gain = np.exp(rng.normal(0, 0.22 * strength)) * np.exp(rng.normal(0, 0.06 * strength, 3))
    contrast = np.exp(rng.normal(0, 0.18 * strength))
    gamma = np.exp(rng.normal(0, 0.2 * strength))
    ramp = (np.arange(256, dtype=np.float32) / 255) ** gamma * 255
    table = np.stack([(ramp * g - 127) * contrast + 127 + rng.normal(0, 6 * strength) for g in gain], -1)
    # The table is piecewise linear: look up at 8 bits; both frames get the same rounding.
    table = np.clip(table, 0, 255).astype(np.uint8)[None]
    matrix = color_matrix(rng.normal(0, 0.1 * strength), np.exp(rng.normal(0, 0.3 * strength)))
    return np.asarray(cv2.transform(cv2.LUT(to_bytes(image), table), matrix), np.float32)


def to_bytes(image: Floats) -> NDArray[np.uint8]:
    """Round and clip to uint8."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(image, 0)), np.uint8)


def defocus(image: Floats, sigma: float) -> Floats:
    """Blur by a Gaussian of `sigma` pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def grain(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return normal noise of unit variance (h, w, 3): a quarter block and its mirror images."""
    block = rng.standard_normal(((height + 1) // 2, (width + 1) // 2, 3), dtype=np.float32)
    whole = cv2.copyMakeBorder(block, 0, height // 2, 0, width // 2, cv2.BORDER_REFLECT)
    return np.asarray(whole[:height, :width], np.float32)


def noise(rng: np.random.Generator, image: Floats, read: float, shot: float) -> Floats:
    """Add sensor noise: standard deviation sqrt(read^2 + shot * value), in gray levels."""
    height, width = image.shape[:2]
    variance = np.maximum(image, 0) * np.float32(shot) + np.float32(read * read)
    return np.asarray(
        image + cv2.multiply(cv2.sqrt(variance), np.ascontiguousarray(grain(rng, height, width)))
    )


def shade(rng: np.random.Generator, images: Sequence[Floats], motion: Homography | None) -> list[Floats]:
    """Lay a large soft pattern of light over frames; in the last it has moved, by `motion` or on its own."""
    height, width = images[0].shape[:2]
    pattern = smooth_noise(rng, height, width, int(rng.integers(1, 5)))
    if rng.random() < 0.6:  # cast shadow rather than haze of light
        edge = rng.uniform(1, 12)
        pattern = np.tanh(pattern * edge)
    strength = rng.uniform(0.1, 0.4)
    light = (1 - strength + strength * pattern).astype(np.float32)
    drift = np.array([[1.0, 0, rng.normal(0, 6)], [0, 1, rng.normal(0, 6)], [0, 0, 1]])
    matrix = drift if motion is None else motion
    moved = cv2.warpPerspective(light, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    lights = [*[light] * (len(images) - 1), moved]
    return [image * one[..., None] for image, one in zip(images, lights, strict=True)]


def vignette(image: Floats, strength: float) -> Floats:
    """Darken the corners by `strength` (0..1)."""
    height, width = image.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return np.asarray(image * (1 - 0.5 * strength * (x * x + y * y))[..., None], np.float32)


def sharpen(image: Floats, amount: float) -> Floats:
    """Unsharp-mask by `amount`."""
    return np.asarray(
        cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (5, 5), 1.2), -amount, 0), np.float32
    )


def soft_video(image: Floats, factor: float) -> Floats:
    """Scale down by `factor` and up again."""
    height, width = image.shape[:2]
    small = cv2.resize(
        image, (max(8, int(width / factor)), max(8, int(height / factor))), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def erase(rng: np.random.Generator, image: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Paint one to three patches over with the mean color of each; also returns where (h, w)."""
    height, width = image.shape[:2]
    result, erased = image.copy(), np.zeros((height, width), np.bool_)
    for _ in range(rng.integers(1, 4)):
        w, h = (int(rng.uniform(0.08, 0.25) * s) for s in (width, height))
        left, top = rng.integers(width - w), rng.integers(height - h)
        result[top : top + h, left : left + w] = image[top : top + h, left : left + w].mean((0, 1))
        erased[top : top + h, left : left + w] = True
    return result, erased


def jpeg_of_bytes(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress and restore uint8 (h, w, 3)."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
