"""Animated WebP and AVIF, which FFmpeg does not read or reads without alpha, with Pillow."""

import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from deqflow.errors import VideoError, VideoWarning
from deqflow.io.images import to_rgb
from deqflow.io.video.frames import Image, VideoFrame, VideoSource, check_size, plausible_rate
from deqflow.io.video.selection import WHOLE, Place, Span

_TICK = Fraction(1, 1000)

_UNSAID = 100
"""Milliseconds that browsers show a frame that does not say for how long."""


def is_animation(path: Path) -> bool:
    """Return whether a file is WebP or AVIF, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(12)
    return (head[:4], head[8:]) == (b"RIFF", b"WEBP") or (head[4:8], head[8:11]) == (b"ftyp", b"avi")


def open_animation(path: Path, rate: Fraction | None = None, span: Span = WHOLE) -> VideoSource:
    """Open an animated WebP or AVIF; transparent parts are blended over black.

    Args:
        path: the file.
        rate: frames per second, instead of the durations that the frames have.
        span: which frames to take.

    Raises:
        VideoError: it cannot be read, or its frames are too small.
    """
    name = str(path)
    try:
        with Pillow.open(path) as file:
            count = int(getattr(file, "n_frames", 1))
            image = _picture(file)
            usual = rate or plausible_rate(Fraction(1000, _milliseconds(file)))
    except Exception as error:  # Pillow's readers let all kinds through
        raise VideoError(f"{name} is not an animation that can be decoded, or is cut short") from error

    def read() -> Iterator[VideoFrame]:
        for time, number, picture, _ in span.pick(_places(path, rate), name):
            yield VideoFrame(picture, time, number, f"frame {number} of {name}")

    height, width = image.shape[:2]
    source = VideoSource(
        name,
        float(usual / span.stride),
        (height, width),
        span.numbers(count, usual),
        read,
        time_base=1 / rate if rate else _TICK,
        files=(path,),
    )
    return check_size(source)


def _places(path: Path, rate: Fraction | None) -> Iterator[Place[Image]]:
    time = Fraction(0)
    with Pillow.open(path) as file:
        count = int(getattr(file, "n_frames", 1))
        for index in range(count):
            try:
                file.seek(index)
                image = _picture(file)
            except Exception:  # as above
                warnings.warn(
                    f"{path} is damaged: {index} of {count} announced frames read", VideoWarning, stacklevel=2
                )
                return
            yield Place(index / rate if rate else time, index + 1, image)
            time += _milliseconds(file) * _TICK


def _picture(file: Pillow.Image) -> Image:
    """Return the frame at which a file is, which also makes its duration known."""
    file.load()
    return to_rgb(np.asarray(file.convert("RGBA" if file.has_transparency_data else "RGB")))


def _milliseconds(file: Pillow.Image) -> int:
    return round(file.info.get("duration") or 0) or _UNSAID
