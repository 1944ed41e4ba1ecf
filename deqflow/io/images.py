"""Still images: files to and from uint8 RGB, and arrays of any usual kind to uint8 RGB."""

import contextlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from deqflow.errors import ImageError
from deqflow.io.files import replace_bytes

SMALLEST_SIDE = 16
"""Frames with a side below this many pixels are refused: the network works at an eighth of the resolution."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".jp2", ".avif"}
)
"""What counts as a frame when a folder is read."""


def read_image(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """Reads an image file as uint8 RGB (H, W, 3), converted as by `to_rgb`; EXIF rotation is applied.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, too large to decode or too small to use.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the image {path}: {error.strerror or error}") from error
    # JPEGs carry a rotation that people rely on; the others may carry alpha, which "colour" would drop.
    jpeg = data.startswith(b"\xff\xd8")
    image = decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH if jpeg else cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ImageError(f"{path} is not an image that can be decoded, or is cut short")
    if image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]
    return to_rgb(image, str(path))


def decode(data: bytes, flags: int) -> NDArray[Any] | None:
    """Decodes an image file's bytes with OpenCV; None if they are no whole image or past its pixel limit."""
    if data.startswith(b"\x89PNG") and b"IEND" not in data:
        return None  # libpng would print a line of its own about this
    if not data:
        return None
    with quiet_opencv(), contextlib.suppress(cv2.error, MemoryError):
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None


def to_rgb(array: ArrayLike, name: str = "image") -> NDArray[np.uint8]:
    """Converts a frame to uint8 RGB (H, W, 3).

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, either side at least 16. uint8 is taken as
            it is, uint16 is scaled from 0..65535; floating point is 0..1 if its largest value is at most 1,
            else 0..255. Gray is repeated in three channels, RGBA is blended over black.
        name: what to call the frame in a message.

    Raises:
        ImageError: another shape, type or range, NaN or infinity, or too small.
    """
    image = np.asarray(array)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ImageError(f"{name} has shape {np.shape(array)}, expected (H, W) or (H, W, 1, 3 or 4)")
    if min(image.shape[:2]) < SMALLEST_SIDE:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise ImageError(f"{name} is {size} pixels, expected at least {SMALLEST_SIDE}x{SMALLEST_SIDE}")
    image = _to_bytes(image, name)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] == 4:
        image = (image[..., :3].astype(np.uint16) * image[..., 3:] + 127) // 255
    return np.ascontiguousarray(image, dtype=np.uint8)


def _to_bytes(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"{name} holds {image.dtype} values, expected uint8, uint16 or floating point")
    if not np.isfinite(image).all():
        raise ImageError(f"{name} contains NaN or infinite values")
    low, high = float(image.min()), float(image.max())
    if low < -1 or high > 256:
        raise ImageError(f"{name} has values from {low:g} to {high:g}, expected 0 to 1 or 0 to 255")
    scaled = image.astype(np.float32) * (255 if high <= 1 else 1)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def write_image(path: str | PathLike[str], rgb: NDArray[np.uint8]) -> None:
    """Writes uint8 RGB (H, W, 3) in the format that the suffix names, replacing what was there.

    Raises:
        ImageError: the suffix is not one of an image format.
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    try:
        with quiet_opencv():
            done, data = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        raise ImageError(f"cannot write {path}: no image format for the suffix {path.suffix!r}, try .png")
    replace_bytes(path, data.tobytes())


def shrink(rgb: NDArray[np.uint8], longest_side: int | None) -> NDArray[np.uint8]:
    """Scales a frame down, by area averaging, until its longer side is ``longest_side``; never up."""
    height, width = rgb.shape[:2]
    if longest_side is None or max(height, width) <= longest_side:
        return rgb
    scale = longest_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV's own account of a bad file off the terminal: the error raised says it in one sentence."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
