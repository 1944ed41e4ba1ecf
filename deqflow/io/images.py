"""Still images: files to and from uint8 RGB, and arrays of any usual kind to uint8 RGB."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from deqflow.errors import ImageError
from deqflow.io.files import replace_bytes

SMALLEST_SIDE = 16
"""Frames with a side below this many pixels are refused: the network works at an eighth of the resolution."""

ValueRange = tuple[float, float]
"""Lowest and highest value of an image."""

UNIT_RANGE, BYTE_RANGE = (0.0, 1.0), (0.0, 255.0)

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".jp2", ".avif"}
)
"""What counts as a frame when a folder is read."""

ORIENTATION = 0x0112
"""EXIF's tag for how a picture must be turned to be upright."""

_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.swapaxes(image, 0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.swapaxes(np.rot90(image, 2), 0, 1),
    8: np.rot90,
}
"""By the value of that tag, what turns a picture upright."""

_PNM = re.compile(rb"P[2356]" + 3 * rb"(?:\s|#[^\n]*\n)+(\d{1,10})" + rb"\s")


def read_image(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """Read an image file as uint8 RGB (H, W, 3), converted as by `to_rgb`; EXIF rotation is applied.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, too large to decode or too small to use.
    """
    return to_rgb(read_pixels(path), str(path))


def read_mask(path: str | PathLike[str]) -> NDArray[Any]:
    """Read an image file as gray (H, W), the brightest of its colors, at the depth that it is stored with.

    Raises:
        ImageError: as `read_image`, but for the size.
    """
    image = read_pixels(path)
    if image.ndim == 2:
        return image
    colors = image[..., :3] if image.shape[2] < 4 else image[..., :3] * (image[..., 3:] > 0)
    return np.asarray(colors.max(axis=2))


def read_pixels(path: str | PathLike[str]) -> NDArray[Any]:
    """Read an image file, upright, with its values as stored: see `to_bytes` for what they mean.

    Returns:
        (H, W), (H, W, 3) RGB or (H, W, 4) RGBA with straight alpha; uint8 or uint16 over the whole of their
        range, or floating point.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, or too large to decode.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the image {path}: {error.strerror or error}") from error
    # Depths other than 8 and 16 bits OpenCV passes on as they are, so that 10 bits would look nearly black.
    any_depth = data[4:8] in (b"ftyp", b"jP  ") or data.startswith(b"\xff\x4f\xff\x51")  # AVIF, JPEG 2000
    image = _with_pillow(data) if any_depth else _with_opencv(data)
    if image is None:
        raise ImageError(f"{path} is not an image that can be decoded, or is cut short")
    return image


_PILLOW_FORMATS = ("AVIF", "JPEG2000", "TIFF", "PNG", "WEBP")  # no others: some run programs (PostScript)
_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, MemoryError)


def _with_pillow(data: bytes, *, alpha_only: bool = False) -> NDArray[Any] | None:
    with contextlib.suppress(*_PILLOW_ERRORS), Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
        if alpha_only and "A" not in image.getbands():
            return None
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "I;16":
            return np.asarray(upright)
        return np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    return None


def _with_opencv(data: bytes) -> NDArray[Any] | None:
    # OpenCV turns JPEG and TIFF upright itself. Others may carry alpha, which "color" would drop.
    jpeg = data.startswith(b"\xff\xd8")
    image = decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH if jpeg else cv2.IMREAD_UNCHANGED)
    if image is None:
        return None
    if data.startswith((b"II", b"MM")):
        # OpenCV multiplies TIFF's alpha in or drops it. Pillow, for its part, lacks floating point.
        straight = _with_pillow(data, alpha_only=True)
        if straight is not None:
            return straight
    if image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]
    header = _PNM.match(data)
    if header is not None:
        return _full_range(image, int(header[3]))
    turn = _TURNS.get(_orientation(data))
    return image if turn is None else np.ascontiguousarray(turn(image))


def decode(data: bytes, flags: int) -> NDArray[Any] | None:
    """Decode an image file's bytes with OpenCV; None if they are no whole image or past its pixel limit."""
    if data.startswith(b"\x89PNG") and b"IEND" not in data:
        return None  # libpng would print a line of its own about this
    if not data:
        return None
    with quiet_opencv(), contextlib.suppress(cv2.error, MemoryError):
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None


def _full_range(image: NDArray[Any], maximum: int) -> NDArray[Any]:
    """Integers of 0..maximum as those of the whole range of their type."""
    limit = np.iinfo(image.dtype).max
    if maximum in (0, limit):
        return image
    scaled = (image.astype(np.uint32) * limit + maximum // 2) // maximum
    return np.minimum(scaled, limit).astype(image.dtype)


def _orientation(data: bytes) -> int:
    """EXIF orientation of a PNG or WebP file."""
    if b"eXIf" not in data and b"EXIF" not in data:
        return 1
    with contextlib.suppress(*_PILLOW_ERRORS), Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def to_rgb(array: ArrayLike, name: str = "image", value_range: ValueRange | None = None) -> NDArray[np.uint8]:
    """Convert a frame to uint8 RGB (H, W, 3).

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, either side at least 16, in values as
            `to_bytes` takes them. Gray is repeated in three channels, RGBA is blended over black.
        name: what to call the frame in a message.
        value_range: of floating-point values, see `to_bytes`.

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
    image = to_bytes(image, name, value_range)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] == 4:
        image = (image[..., :3].astype(np.uint16) * image[..., 3:] + 127) // 255
    return np.ascontiguousarray(image, dtype=np.uint8)


def to_bytes(
    image: NDArray[Any], name: str = "image", value_range: ValueRange | None = None
) -> NDArray[np.uint8]:
    """Convert values of an image to uint8.

    uint8 is taken as it is, uint16 is scaled from 0..65535, floating point from its range; what lies a little
    outside, as resizing leaves it, is clipped.

    Args:
        image: of any shape.
        name: what to call it in a message.
        value_range: lowest and highest floating-point value; None decides, see `value_range_of`.

    Raises:
        ImageError: another type, values outside the range, NaN or infinity.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"{name} holds {image.dtype} values, expected uint8, uint16 or floating point")
    if not np.isfinite(image).all():
        raise ImageError(f"{name} contains NaN or infinite values")
    low, high = value_range_of([image], name) if value_range is None else value_range
    margin = 1.0 if (low, high) == BYTE_RANGE else 0.1 * (high - low)
    if image.size and not low - margin <= image.min() <= image.max() <= high + margin:
        raise ImageError(
            f"{name} has values from {image.min():g} to {image.max():g}, expected {low:g} to {high:g}"
        )
    scaled = (image.astype(np.float32) - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def value_range_of(images: Sequence[NDArray[Any]], name: str = "image") -> ValueRange:
    """Return the range of floating-point values that belong together, 0..1 or 0..255.

    It is 0..1 if all lie within -0.1..1.1 (resizing gives 1.02 and -0.02), else 0..255.

    Args:
        images: those that are not floating point are passed over.
        name: what to call them in a message.

    Raises:
        ImageError: values that are neither; -1..1 is refused, since it could be either.
    """
    finite = [image[np.isfinite(image)] for image in images if np.issubdtype(image.dtype, np.floating)]
    low = min((float(values.min()) for values in finite if values.size), default=0.0)
    high = max((float(values.max()) for values in finite if values.size), default=255.0)
    if low >= -0.1 and high <= 1.1:
        return UNIT_RANGE
    told = f"{name} has values from {low:g} to {high:g}, expected 0 to 1 or 0 to 255"
    if low < -0.1 and high <= 1.1 and low >= -1.1:
        raise ImageError(f"{told}; what lies in -1 to 1 needs value_range=(-1, 1)")
    if low < -1 or high > 256:
        raise ImageError(told)
    return BYTE_RANGE


def write_image(path: str | PathLike[str], rgb: NDArray[np.uint8]) -> None:
    """Write uint8 RGB (H, W, 3) in the format that the suffix names, replacing what was there.

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
    """Keep OpenCV's own account of a bad file off the terminal: the error raised says it in one sentence."""
    logging = getattr(cv2.utils, "logging", cv2)  # its place in OpenCV 5, and in 4
    level = logging.getLogLevel()
    logging.setLogLevel(0)  # silent
    try:
        yield
    finally:
        logging.setLogLevel(level)
