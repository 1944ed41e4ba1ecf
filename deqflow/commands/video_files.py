"""The files of ``deqflow video``: a video or images, and flow, written as the pairs come."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from deqflow.visualize import PICTURES, ColorScale, ShownPair

if TYPE_CHECKING:
    from deqflow.commands.video import VideoOptions
    from deqflow.estimate import FlowEstimate

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Timed:
    """An estimate, what it cost, and what pictures need besides: the flow back, and what still moves."""

    estimate: "FlowEstimate"
    milliseconds: float
    reused: bool
    cut: bool = False
    backward: NDArray[np.float32] | None = None
    movement: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Pair:
    """The first frame of a pair, shown until the second comes; its estimate, and the one from zero."""

    frame: VideoFrame
    second: Image
    shown: Timed
    cold: Timed | None


def planned_files(options: "VideoOptions", source: VideoSource, output: Path) -> Iterator[Path]:
    """Yield what is to be written: the videos, and of numbered files the first and those that are there.

    Not every one: how many there are going to be is a header's word.
    """
    numbers = (source.numbers or range(1, 10**9))[:-1] or (1,)
    for path in picture_files(options, output).values():
        if path.suffix.lower() == FRAME_SUFFIX:
            yield from _first_and_existing(partial(ImageWriter.file, path), numbers)
        else:
            yield path
    if options.flow_dir is not None:
        yield from _first_and_existing(partial(flow_file, options), numbers)


def picture_files(options: "VideoOptions", output: Path) -> dict[str, Path]:
    """Return the video of each layout: of a single one the output itself, of several one named after each."""
    if len(options.layout) == 1:
        return {options.layout[0]: output}
    return {layout: output.with_stem(f"{output.stem}_{layout}") for layout in options.layout}


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
        self.writers: dict[str, FrameWriter] = {}
        self.places: list[Path] = []
        self.notes: list[str] = []

    def add(self, pair: "Pair") -> None:
        """Write the pictures of a pair and its flow."""
        flow = pair.shown.estimate.flow
        if not self.writers:
            for layout, path in picture_files(self.options, self.output).items():
                self.writers[layout] = self._open(path)
        shown = _shown(pair, self.scale.update(flow, cut=pair.shown.cut))
        pictures = [PICTURES[layout](shown) for layout in self.writers]
        for writer, picture in zip(self.writers.values(), pictures, strict=True):
            writer.write(replace(pair.frame, image=picture))
        if self.options.flow_dir is not None:
            if self.options.flow_size == "source" and self.source.unscaled_size is not None:
                from deqflow.geometry import resize_flow

                flow = resize_flow(flow, self.source.unscaled_size)
            write_flow(self.files.place(flow_file(self.options, pair.frame.number)), flow)
        if self.watch is not None:
            self.watch(next(iter(self.writers.values())).frames_written, pictures[0])

    def _open(self, path: Path) -> FrameWriter:
        if path.suffix.lower() == FRAME_SUFFIX:
            self.places.append(path)
            return ImageWriter(path, self.files.place)
        place, source = self.files.place(path), self.source
        self.places.append(place)
        return VideoWriter(
            place,
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
        with ExitStack() as stack:  # finishes all of them, whatever one of them says
            for writer in self.writers.values():
                stack.push(writer)
        self.notes = [note for writer in self.writers.values() for note in writer.notes]
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            for writer, place in zip(self.writers.values(), self.places, strict=True):
                print(f"{writer.frames_written} pairs are in {place}", file=sys.stderr)


def _shown(pair: Pair, scale: float) -> ShownPair:
    """Return a pair as the renderings take it."""
    estimate, backward = pair.shown.estimate, pair.shown.backward
    hidden = None
    if backward is not None:
        from deqflow.geometry import occlusion

        hidden = occlusion(estimate.flow, backward)
    return ShownPair(
        pair.frame.image,
        pair.second,
        estimate.flow,
        scale,
        backward=backward,
        occlusion=hidden,
        uncertainty=estimate.uncertainty,
        movement=pair.shown.movement,
    )


def flow_size(options: "VideoOptions", source: VideoSource) -> str:
    """Say in brackets of which size flow files are, if they are not simply that of the source."""
    if source.unscaled_size in (None, source.size):
        return ""
    (height, width), whole = source.size, source.unscaled_size
    assert whole is not None
    if options.flow_size == "source":
        return f" ({whole[1]}x{whole[0]}, brought back from frames of {width}x{height})"
    return f" ({width}x{height} of {whole[1]}x{whole[0]}; --flow-size source brings them back)"
