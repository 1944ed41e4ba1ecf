"""The files of ``deqflow video``: a video or images, and flow, written as the pairs come."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from deqflow.io import VideoFrame, VideoSource, VideoWriter, write_flow
from deqflow.io.flow_files import SUFFIXES
from deqflow.io.outputs import Replacements
from deqflow.io.video import FrameWriter, ImageWriter
from deqflow.io.video.writer import FRAME_SUFFIX
from deqflow.visualize import ColorScale, draw_arrows, flow_to_image, side_by_side

if TYPE_CHECKING:
    from deqflow.commands.video import VideoOptions
    from deqflow.estimate import FlowEstimate

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Timed:
    """An estimate and what it cost."""

    estimate: "FlowEstimate"
    milliseconds: float
    reused: bool


@dataclass(frozen=True)
class Pair:
    """The first frame of a pair, shown until the second comes; its estimate, and the one from zero."""

    frame: VideoFrame
    shown: Timed
    cold: Timed | None


def planned_files(options: "VideoOptions", source: VideoSource, output: Path) -> Iterator[Path]:
    """Yield what is to be written: the video, and of numbered files the first and those that are there.

    Not every one: how many there are going to be is a header's word.
    """
    numbers = (source.numbers or range(1, 10**9))[:-1] or (1,)
    if output.suffix.lower() == FRAME_SUFFIX:
        yield from _first_and_existing(partial(ImageWriter.file, output), numbers)
    else:
        yield output
    if options.flow_dir is not None:
        yield from _first_and_existing(partial(flow_file, options), numbers)


def _first_and_existing(file: Callable[[int], Path], numbers: Sequence[int]) -> Iterator[Path]:
    first = file(numbers[0])
    yield first
    for path in first.parent.iterdir() if first.parent.is_dir() else ():
        for number in map(int, re.findall(r"\d{6,}", path.name)):
            if path == file(number) and path != first and number in numbers:
                yield path


def flow_file(options: "VideoOptions", number: int) -> Path:
    """Return the flow file of the pair that begins with a frame."""
    assert options.flow_dir is not None
    return options.flow_dir / f"frame_{number:06d}{SUFFIXES[options.flow_format]}"


@contextmanager
def told_where(files: Replacements) -> Iterator[None]:
    """Say, if the run fails, where the files are that were not to replace others yet."""
    try:
        yield
    except BaseException:
        for path, beside in islice(files.beside.items(), 1):
            more = f" and {len(files.beside) - 1} more" if len(files.beside) > 1 else ""
            print(f"{path}{more} as before; what there is of the new pairs: {beside}", file=sys.stderr)
        raise


class Results:
    """The files of a run, written as the pairs come; a context manager that finishes them."""

    def __init__(
        self,
        options: "VideoOptions",
        source: VideoSource,
        output: Path,
        files: Replacements,
        watch: Callable[[int, Image], None] | None,
    ) -> None:
        self.options, self.source, self.output, self.files = options, source, output, files
        self.watch = watch
        self.scale = ColorScale(fixed=options.max_flow)
        self.writer: FrameWriter | None = None
        self.place = output
        self.notes: list[str] = []

    def add(self, pair: "Pair") -> None:
        """Write the picture of a pair and its flow."""
        flow = pair.shown.estimate.flow
        picture = _picture(self.options.layout, pair.frame.image, flow, self.scale)
        if self.writer is None:
            self.writer = self._open()
        self.writer.write(replace(pair.frame, image=picture))
        if self.options.flow_dir is not None:
            if self.options.flow_size == "source" and self.source.unscaled_size is not None:
                from deqflow.geometry import resize_flow

                flow = resize_flow(flow, self.source.unscaled_size)
            write_flow(self.files.place(flow_file(self.options, pair.frame.number)), flow)
        if self.watch is not None:
            self.watch(self.writer.frames_written, picture)

    def _open(self) -> FrameWriter:
        if self.output.suffix.lower() == FRAME_SUFFIX:
            return ImageWriter(self.output, self.files.place)
        self.place = self.files.place(self.output)
        source = self.source
        return VideoWriter(
            self.place,
            source.fps,
            time_base=source.time_base,
            pixel_aspect=source.pixel_aspect,
            sound=source.sound,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is None:
            return
        self.writer.__exit__(kind, error, trace)
        self.notes = self.writer.notes
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            print(f"{self.writer.frames_written} pairs are in {self.place}", file=sys.stderr)


def _picture(layout: str, frame: Image, flow: NDArray[np.float32], scale: ColorScale) -> Image:
    if layout == "arrows":
        return draw_arrows(frame, flow)
    colored = flow_to_image(flow, scale.update(flow), clip=True)
    return colored if layout == "flow" else side_by_side([frame, colored])


def flow_size(options: "VideoOptions", source: VideoSource) -> str:
    """Say in brackets of which size flow files are, if they are not simply that of the source."""
    if source.unscaled_size in (None, source.size):
        return ""
    (height, width), whole = source.size, source.unscaled_size
    assert whole is not None
    if options.flow_size == "source":
        return f" ({whole[1]}x{whole[0]}, brought back from frames of {width}x{height})"
    return f" ({width}x{height} of {whole[1]}x{whole[0]}; --flow-size source brings them back)"
