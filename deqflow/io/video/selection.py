"""Which frames of a source are read, and which part of each, at which size."""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Generic, NamedTuple, TypeVar

import cv2
import numpy as np

from deqflow.errors import VideoError
from deqflow.io.images import SMALLEST_SIDE, shrink
from deqflow.io.video.frames import MOST_PIXELS, Image, VideoFrame, VideoSource, pixels

T = TypeVar("T")

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)s?")


@dataclass(frozen=True)
class Moment:
    """A place in a source: a time in seconds or the number of a frame."""

    seconds: Fraction | None = None
    number: int | None = None

    @classmethod
    def parse(cls, text: str | float) -> "Moment":
        """Read ``12.5`` (seconds), ``1:02:03.5`` (hours, minutes, seconds) or ``300f`` (a frame's number).

        Raises:
            VideoError: none of these.
        """
        written = str(text)
        if re.fullmatch(r"\d+f", written):
            return cls(number=int(written[:-1]))
        if (match := _TIME.fullmatch(written)) is None:
            raise VideoError(
                f"{written!r} is no place in a video: expected seconds (12.5), a time (1:02:03.5) or the "
                "number of a frame (300f)"
            )
        hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
        return cls(3600 * hours + 60 * minutes + seconds)

    def reached(self, place: "Place[T]") -> bool:
        """Return whether a frame is here or later."""
        if self.number is not None:
            return place.number >= self.number
        assert self.seconds is not None
        return place.time >= self.seconds

    def number_at(self, rate: Fraction) -> int:
        """Return the number of the first frame from here on, at a constant rate."""
        return self.number if self.number is not None else math.ceil((self.seconds or 0) * rate) + 1

    def __str__(self) -> str:
        return f"frame {self.number}" if self.number is not None else f"{float(self.seconds or 0):g} s"


class Place(NamedTuple, Generic[T]):
    """A frame before its picture is made."""

    time: Fraction
    number: int
    content: T
    follows: bool = True


@dataclass(frozen=True)
class Span:
    """Frames from one moment until before another, every so many, at most so many.

    Attributes:
        start: the first frame is the first one there or later.
        end: the last frame is the last one before it.
        stride: 2 takes every second frame, and so on.
        most: number of frames.
    """

    start: Moment | None = None
    end: Moment | None = None
    stride: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        """Refuse what takes nothing."""
        if self.stride < 1:
            raise VideoError(f"the stride must be at least 1, got {self.stride}")

    def pick(self, places: Iterable[Place[T]], name: str) -> Iterator[Place[T]]:
        """Yield the frames of the span.

        Raises:
            VideoError: there are none.
        """
        seen = taken = 0
        follows = True
        for place in places:
            if self.start is not None and not self.start.reached(place):
                continue
            if self.end is not None and self.end.reached(place):
                break
            follows = follows and place.follows
            if seen % self.stride == 0:
                yield place._replace(follows=follows or not taken)
                follows = True
                taken += 1
                if taken == self.most:
                    break
            seen += 1
        if not taken:
            begin = f" from {self.start}" if self.start else ""
            raise VideoError(f"{name} has no frames{begin}" + (f" until {self.end}" if self.end else ""))

    def numbers(self, count: int, rate: Fraction) -> range:
        """Return the numbers that are picked of frames 1 to ``count``, at a constant rate."""
        first = 1 if self.start is None else max(1, self.start.number_at(rate))
        end = count + 1 if self.end is None else min(count + 1, self.end.number_at(rate))
        return range(first, end, self.stride)[: self.most]


WHOLE = Span()
"""All frames."""


@dataclass(frozen=True)
class View:
    """A part of every frame, at some size.

    Attributes:
        roi: left, top, width and height of the part, in pixels of the upright frame.
        resize: width and height that it is scaled to.
        max_side: instead, what its longer side is scaled down to.
    """

    roi: tuple[int, int, int, int] | None = None
    resize: tuple[int, int] | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize[0] * self.resize[1] > MOST_PIXELS:
            raise VideoError(
                f"frames of {self.resize[0]}x{self.resize[1]} pixels are too large, "
                f"expected at most {MOST_PIXELS} pixels"
            )

    def crop(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Return rows and columns of the part of a frame of this height and width.

        Raises:
            VideoError: it is not inside.
        """
        if self.roi is None:
            return slice(None), slice(None)
        left, top, width, height = self.roi
        inside = left >= 0 and top >= 0 and left + width <= size[1] and top + height <= size[0]
        if not inside or min(width, height) < SMALLEST_SIDE:
            raise VideoError(
                f"the region of {width}x{height} pixels at ({left}, {top}) must lie inside the frames of "
                f"{pixels(size)} pixels and have sides of {SMALLEST_SIDE} or more"
            )
        return slice(top, top + height), slice(left, left + width)

    def apply(self, image: Image) -> Image:
        """Return the part of an image (H, W, 3), scaled."""
        part = image[self.crop(image.shape[:2])]
        if self.resize is None:
            return np.ascontiguousarray(shrink(part, self.max_side))
        smaller = self.resize[0] * self.resize[1] < part.shape[0] * part.shape[1]
        how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(part, self.resize, interpolation=how), np.uint8)


def view_source(source: VideoSource, view: View) -> VideoSource:
    """Return a source of parts of the frames of another, scaled, that are shown in the same shape.

    Raises:
        VideoError: the part is not inside the frames, or too small once it is scaled.
    """
    if view == View():
        return source
    rows, columns = view.crop(source.size)
    part = np.zeros(source.size, np.uint8)[rows, columns].shape
    size = view.apply(np.zeros((*source.size, 3), np.uint8)).shape
    aspect = source.pixel_aspect
    if view.resize is not None:
        aspect *= Fraction(part[1] * size[0], part[0] * size[1])

    def read() -> Iterator[VideoFrame]:
        with contextlib.closing(source.frames()) as frames:
            for frame in frames:
                yield replace(frame, image=view.apply(frame.image))

    if min(size[:2]) < SMALLEST_SIDE:
        raise VideoError(
            f"the frames of {source.name} are {pixels(part)} pixels, scaled down to {pixels(size)}, "
            f"expected at least {SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )
    viewed = replace(
        source,
        size=(size[0], size[1]),
        unscaled_size=(part[0], part[1]),
        read=read,
        pixel_aspect=aspect,
    )
    return viewed
