"""Numbered images as a video: folders and patterns of names."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import translate
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from deqflow.errors import VideoError, VideoWarning
from deqflow.io.files import counted_step, is_meant_as_file, list_files, natural_key, visible
from deqflow.io.images import IMAGE_SUFFIXES, read_image
from deqflow.io.openexr_image import read_openexr
from deqflow.io.video.frames import FALLBACK_FPS, Image, VideoFrame, VideoSource, check_size
from deqflow.io.video.selection import WHOLE, Place, Span

_NUMBER = re.compile(r"%0?(\d*)d")
_OPENEXR = ".exr"
_DIGITS = re.compile(r"\d+")


def is_pattern(path: Path) -> bool:
    """Return whether the last part of a path is a pattern of names; that of a folder is just a name."""
    return not path.exists() and (re.search(r"[*?\[]", path.name) or _NUMBER.search(path.name)) is not None


def open_folder(folder: Path, rate: Fraction | None = None, span: Span = WHOLE) -> VideoSource:
    """Make a video of the images in a folder, in natural order of their names.

    Raises:
        VideoError: no images, several series of them, or frames below 16 pixels.
        ImageError: the first one cannot be read.
    """
    # Beside other pictures, OpenEXR files are what was computed from them: depth, motion.
    images = list_files(folder, IMAGE_SUFFIXES) or list_files(folder, {_OPENEXR})
    return open_images(images, f"the folder {folder}", rate, span)


def open_pattern(pattern: Path, rate: Fraction | None = None, span: Span = WHOLE) -> VideoSource:
    """Make a video of the files whose names fit ``*``, ``?`` and ``[]``, or ``%d``, ``%04d`` for a number.

    Raises:
        VideoError: as `open_folder`.
        ImageError: the first one cannot be read.
    """
    if _NUMBER.search(pattern.name):
        plain = _NUMBER.split(pattern.name)  # text and the digits of each number in turn
        plain[::2] = map(re.escape, plain[::2])
        # As many digits as are said; more only where the number is that large.
        counts = [int(digits or 1) for digits in plain[1::2]]
        plain[1::2] = (rf"(?:\d{{{count}}}|[1-9]\d{{{count},}})" for count in counts)
        expression = re.compile("".join(plain))
    else:
        expression = re.compile(translate(pattern.name))
    folder = pattern.parent
    if not folder.is_dir():
        raise VideoError(f"there is no folder {folder}, in which to look for {pattern.name}")
    images = [path for path in visible(folder) if expression.fullmatch(path.name) and is_meant_as_file(path)]
    return open_images(images, f"the pattern {pattern}", rate, span)


def open_images(
    paths: list[Path],
    name: str = "the image sequence",
    rate: Fraction | None = None,
    span: Span = WHOLE,
) -> VideoSource:
    """Make a video of image files, in natural order of their names; see `open_folder`."""
    paths = sorted(paths, key=natural_key)
    if not paths:
        raise VideoError(
            f"{name} holds no images (looked for {', '.join(sorted({*IMAGE_SUFFIXES, _OPENEXR}))})"
        )
    _check_series(paths, name)
    numbers = frame_numbers(paths)
    gaps = find_gaps(numbers)
    if gaps:
        warnings.warn(f"{name} has gaps: {_describe(gaps)}", VideoWarning, stacklevel=3)
    behind = {after for _, after in gaps}
    rate = rate or Fraction(FALLBACK_FPS)
    places = [
        Place(index / rate, number, path, number not in behind)
        for index, (path, number) in enumerate(zip(paths, numbers, strict=True))
    ]
    picked = list(span.pick(places, name))

    def read() -> Iterator[VideoFrame]:
        for time, number, path, follows in picked:
            called = f"frame {round(time * rate) + 1} of {name}"
            yield VideoFrame(_read(path), time, number, called, path, follows)

    height, width = _read(picked[0].content).shape[:2]
    source = VideoSource(
        name,
        float(rate / span.stride),
        (height, width),
        [place.number for place in picked],
        read,
        time_base=1 / rate,
        files=tuple(paths),
    )
    return check_size(source)


def _read(path: Path) -> Image:
    return read_openexr(path) if path.suffix.lower() == _OPENEXR else read_image(path)


def frame_numbers(paths: list[Path]) -> list[int]:
    """Return the numbers in the names, if a single one in them tells them apart; else 1, 2, ..."""
    varying = _varying(paths)
    if len(varying) == 1 and len(set(varying[0])) == len(paths):
        return list(varying[0])
    return list(range(1, len(paths) + 1))


def find_gaps(numbers: list[int]) -> list[tuple[int, int]]:
    """Return neighbors (before, after) between which frames are missing."""
    step = counted_step([after - before for before, after in pairwise(numbers)])
    return [] if step is None else [pair for pair in pairwise(numbers) if pair[1] - pair[0] > step]


def _describe(gaps: list[tuple[int, int]]) -> str:
    missing = [
        f"{before + 1}" if after == before + 2 else f"{before + 1} to {after - 1}" for before, after in gaps
    ]
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return f"no frame {shown}; there is no flow across"


def _check_series(paths: list[Path], name: str) -> None:
    """Raise VideoError if the images are several series rather than one."""
    series: dict[object, Path] = {}
    for path in paths:
        numbered = _DIGITS.search(path.stem) is not None
        series.setdefault(_DIGITS.sub("#", path.name.lower()) if numbered else None, path)
    varying = _varying(paths) if len(series) == 1 else []
    if len(varying) == 2:
        which, _ = sorted(varying, key=lambda column: len(set(column)))
        other = varying[1] if which is varying[0] else varying[0]
        numbers = defaultdict(list)
        for key, number in zip(which, other, strict=True):
            numbers[key].append(number)
        each = {tuple(sorted(found)) for found in numbers.values()}
        # The same numbers for each: two cameras or eyes. A time of day (minute, second) is not so even.
        if len(each) == 1 and len(each.pop()) > 1:
            series = {key: paths[which.index(key)] for key in numbers}
    if len(series) > 1:
        first, second = (path.name for path in list(series.values())[:2])
        raise VideoError(
            f"{name} holds {len(series)} series of images, such as {first} and {second}: "
            "name one by a pattern, 'left_*.png' for example"
        )


def _varying(paths: list[Path]) -> list[tuple[int, ...]]:
    """Return the numbers at each place in the names at which they are not all the same."""
    rows = [tuple(map(int, _DIGITS.findall(path.stem))) for path in paths]
    if len(set(map(len, rows))) != 1:
        return []
    return [column for column in zip(*rows, strict=True) if len(set(column)) > 1]
