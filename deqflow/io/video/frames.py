"""What every source of frames gives: frames that know their time, number and name."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqflow.errors import VideoError
from deqflow.io.images import SMALLEST_SIDE

MOST_PIXELS = 2**28
"""Of a frame. A header that announces more is not believed."""

Image = NDArray[np.uint8]

FALLBACK_FPS = 25.0
"""Assumed of sources that do not say: image sequences, raw streams."""

FASTEST, SLOWEST = 1000, Fraction(1, 86400)
"""Frame rates outside these are slips of a header: from a frame a day to a thousand a second."""


@dataclass(frozen=True)
class VideoFrame:
    """A frame and its place in the source.

    Attributes:
        image: uint8 RGB (H, W, 3), upright.
        time: seconds since the source began, exact; increasing from frame to frame.
        number: counted from 1 in the source; of an image, the number in its file's name.
        name: what to call it in a message.
        file: of an image, its own.
        follows: whether the frame before is its neighbor; false after a gap in numbered images.
        duration: for how long it is shown, seconds; None if unknown.
    """

    image: Image
    time: Fraction
    number: int
    name: str
    file: Path | None = None
    follows: bool = True
    duration: Fraction | None = None


@dataclass(frozen=True)
class Sound:
    """Where the sound of a source is.

    Attributes:
        place: the file or address.
        stream: index of the stream in it.
        begins: time of the container at which the frames have time 0, seconds.
        codec: what it is coded with, by FFmpeg's name.
    """

    place: str
    stream: int
    begins: Fraction
    codec: str


@dataclass(frozen=True)
class VideoSource:
    """Images in order, uint8 RGB (H, W, 3), all of one size; iterating again starts over (not for a pipe).

    Attributes:
        name: what to call the source in a message.
        fps: frames per second, on average.
        size: (height, width).
        numbers: of the frames that are announced; None if unknown. Files sometimes announce wrongly.
        read: starts reading, one frame at a time.
        pixel_aspect: width of a pixel over its height, as shown.
        time_base: seconds of which all times are multiples; a writer that keeps it keeps times exactly.
        files: what is read, which nobody may write to.
        sound: what is heard with the frames.
        notes: what was decided about the source, a sentence each.
        unscaled_size: height and width of what is seen in the frames, before they were scaled; None if they
            were not.
    """

    name: str
    fps: float
    size: tuple[int, int]
    numbers: Sequence[int] | None
    read: Callable[[], Iterator[VideoFrame]]
    pixel_aspect: Fraction = Fraction(1)
    time_base: Fraction = Fraction(1, 90000)
    files: tuple[Path, ...] = ()
    sound: Sound | None = None
    notes: tuple[str, ...] = ()
    unscaled_size: tuple[int, int] | None = None

    @property
    def frame_count(self) -> int | None:
        """How many frames are announced."""
        return None if self.numbers is None else len(self.numbers)

    def __iter__(self) -> Iterator[Image]:
        """Read the images alone; see `frames`."""
        return (frame.image for frame in self.frames())

    def frames(self) -> Generator[VideoFrame]:
        """Read from the start.

        Raises:
            VideoError: a frame has another size than those before it; or a source is read again that cannot.
        """
        with contextlib.closing(self.read()) as frames:  # type: ignore[type-var]
            for frame in frames:
                if frame.image.shape[:2] != self.size:
                    found, before = pixels(frame.image.shape), pixels(self.size)
                    which = f": {frame.file}" if frame.file else ""
                    raise VideoError(f"{frame.name} is {found} pixels, those before are {before}{which}")
                yield frame


def pixels(shape: tuple[int, ...]) -> str:
    """Return ``width x height`` of an array's shape, as people write it."""
    return f"{shape[1]}x{shape[0]}"


def check_size(source: VideoSource) -> VideoSource:
    """Return the source.

    Raises:
        VideoError: its frames are too small to have flow.
    """
    if min(source.size) < SMALLEST_SIDE:
        raise VideoError(
            f"{source.name} has frames of {pixels(source.size)} pixels, "
            f"expected at least {SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )
    return source


def plausible_rate(*rates: Fraction | float | None) -> Fraction:
    """Return the first of some frame rates that can be meant, else 25."""
    for rate in rates:
        if rate and SLOWEST <= rate <= FASTEST:
            return Fraction(rate)
    return Fraction(FALLBACK_FPS)


def forced_rate(fps: float) -> Fraction:
    """Return a frame rate that a user asked for as a fraction of small numbers.

    Raises:
        VideoError: not positive, or not a number.
    """
    if not SLOWEST <= fps <= FASTEST:
        raise VideoError(f"frames per second must be positive and at most {FASTEST}, got {fps:g}")
    return Fraction(fps).limit_denominator(86400 if fps < 1 else 1001)
