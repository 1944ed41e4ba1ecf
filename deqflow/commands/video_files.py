"""The files of ``deqflow video``: pictures, numbers and records, written as the pairs come."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from deqflow.commands.pairs import Image, Pair, Solved
from deqflow.commands.video_parts import Parts, Snapshot
from deqflow.commands.video_record import MANIFEST, TABLE, FrameTable, PairRecord
from deqflow.io import VideoSource, write_flow
from deqflow.io.clip_file import ClipFile
from deqflow.io.files import replace_bytes
from deqflow.io.flow_files import SUFFIXES
from deqflow.io.formats.arrays import npy_bytes
from deqflow.io.outputs import Replacements
from deqflow.io.video import FrameWriter, ImageWriter
from deqflow.io.video.segments import Segment, SegmentedVideo
from deqflow.io.video.writer import FRAME_SUFFIX
from deqflow.visualize import PICTURES, ColorScale

if TYPE_CHECKING:
    from deqflow.commands.video_options import VideoOptions
    from deqflow.stream import Direction


def planned_files(options: "VideoOptions", source: VideoSource, output: Path) -> Iterator[Path]:
    """Yield what is to be written: single files, and of numbered ones the first and those that are there.

    Not every one: how many there are going to be is a header's word.
    """
    numbers = (source.numbers or range(1, 10**9))[:-1] or (1,)
    for path in picture_files(options, output).values():
        if path.suffix.lower() == FRAME_SUFFIX:
            yield from _first_and_existing(partial(ImageWriter.file, path), numbers)
        else:
            yield path
    for kind in number_files(options, 1):
        yield from _first_and_existing(partial(_number_file, options, kind), numbers)
    if options.hdf5 is not None:
        yield options.hdf5
    if options.record_dir is not None:
        yield options.record_dir / TABLE
        yield options.record_dir / MANIFEST


def results_of(options: "VideoOptions", output: Path) -> list[Path]:
    """Return the files and folders that a run writes, images and files of numbers not one by one."""
    more = (options.flow_dir, options.hdf5, options.record_dir)
    return [*picture_files(options, output).values(), *(path for path in more if path is not None)]


def picture_files(options: "VideoOptions", output: Path) -> "dict[tuple[Direction, str], Path]":
    """Return the video of each direction and layout: a single one is the output itself, else named after."""
    files = {}
    for direction in options.directions:
        back = "_backward" if direction == "backward" and len(options.directions) > 1 else ""
        for layout in options.layout:
            of = f"_{layout}" if len(options.layout) > 1 else ""
            files[direction, layout] = output.with_stem(f"{output.stem}{of}{back}")
    return files


def number_files(options: "VideoOptions", number: int) -> "dict[tuple[Direction, str], Path]":
    """Return the files of numbers of the pair that begins with a frame, by direction and kind."""
    files: dict[tuple[Direction, str], Path] = {}
    if options.flow_dir is None:
        return files
    for direction in options.directions:
        stem = f"frame_{number:06d}{'_backward' if direction == 'backward' else ''}"
        for kind in options.numbers:
            ending = SUFFIXES[options.flow_format] if kind == "flow" else f"_{kind}.npy"
            files[direction, kind] = options.flow_dir / f"{stem}{ending}"
    return files


def _number_file(options: "VideoOptions", kind: "tuple[Direction, str]", number: int) -> Path:
    return number_files(options, number)[kind]


def _first_and_existing(file: Callable[[int], Path], numbers: Sequence[int]) -> Iterator[Path]:
    first = file(numbers[0])
    yield first
    for path in first.parent.iterdir() if first.parent.is_dir() else ():
        for number in map(int, re.findall(r"\d{6,}", path.name)):
            if path == file(number) and path != first and number in numbers:
                yield path


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
    """The files of a run, written as the pairs come; a context manager that finishes them.

    Attributes:
        records: of the pairs so far.
        notes: what could not be done, a sentence each.
    """

    def __init__(
        self,
        options: "VideoOptions",
        source: VideoSource,
        output: Path,
        files: Replacements,
        strides: Sequence[int],
        parts: Parts,
        watch: Callable[[int, Image], None] | None,
    ) -> None:
        self.options, self.source, self.output, self.files = options, source, output, files
        self.strides, self.parts, self.watch = strides, parts, watch
        self.scale = ColorScale(fixed=options.max_flow)
        if parts.infos:
            self.scale = ColorScale(**parts.infos[-1]["scale"])
        self.writers: dict[tuple[Direction, str], FrameWriter] = {}
        self.places: list[Path] = []
        self.records: list[PairRecord] = parts.records
        self.notes: list[str] = []
        self._table: FrameTable | None = None
        self._clip: ClipFile | None = None  # of the segment that is being written
        self._whole_clip: Path | None = None

    def add(self, pair: Pair, snapshot: Snapshot | None = None) -> None:
        """Write the pictures of a pair, its numbers and its record; with a snapshot, a segment ends there."""
        if not self.writers:
            self._open_all()
        record = pair.record()
        self.records.append(record)
        flow = next(iter(pair.solved.values())).estimate.flow
        scale = self.scale.update(flow, cut=pair.cut)
        legend = self.options.legend
        shown = {direction: pair.shown(direction, scale, legend=legend) for direction in pair.solved}
        pictures = [PICTURES[layout](shown[direction]) for direction, layout in self.writers]
        for writer, picture in zip(self.writers.values(), pictures, strict=True):
            writer.write(replace(pair.frame, image=picture))
        self._write_numbers(pair)
        if self._table is not None:
            self._table.add(record)
        if self.watch is not None:
            self.watch(len(self.records), pictures[0])
        if snapshot is not None:
            self._end_segment(snapshot)

    def _end_segment(self, snapshot: Snapshot) -> None:
        """Finish the files of a segment, and then say so."""
        videos = {}
        for writer in self.writers.values():
            if isinstance(writer, SegmentedVideo):
                writer.cut()
                videos[writer.path.name] = writer.segments[-1].stored()
        self._close_clip()
        begins = sum(len(info["records"]) for info in self.parts.infos)
        scale = {"fixed": self.scale.fixed, "current": self.scale.current}
        records = [asdict(record) for record in self.records[begins:]]
        self.parts.commit(snapshot, {"records": records, "scale": scale, "videos": videos})

    def _close_clip(self) -> None:
        if self._clip is not None:
            clip, self._clip = self._clip, None
            clip.close()

    def _open_all(self) -> None:
        self.parts.begin()
        for kind, path in picture_files(self.options, self.output).items():
            self.writers[kind] = self._open(path)
        if self.options.hdf5 is not None:
            self._whole_clip = self.files.place(self.options.hdf5)
        if self.options.record_dir is not None:
            self._table = FrameTable(
                self.files.place(self.options.record_dir / TABLE), self.strides, self.options.directions
            )
            for record in self.records:
                self._table.add(record)

    def _open(self, path: Path) -> FrameWriter:
        if path.suffix.lower() == FRAME_SUFFIX:
            self.places.append(path)
            return ImageWriter(path, self.files.place)
        place, source = self.files.place(path), self.source
        self.places.append(place)
        return SegmentedVideo(
            place,
            lambda number: self.parts.file(number, path.stem),
            source.fps,
            time_base=source.time_base,
            pixel_aspect=source.pixel_aspect,
            sound=source.sound,
            segments=[Segment.read(info["videos"][place.name]) for info in self.parts.infos],
        )

    def _open_clip(self) -> ClipFile:
        return ClipFile(self._clip_part(len(self.parts.infos) + 1), self._about())

    def _clip_part(self, number: int) -> Path:
        return self.parts.file(number, "numbers.h5")

    def _about(self) -> dict[str, str]:
        return {
            "source": self.source.name,
            "model": self.options.model,
            "flow": "(u right, v down) in pixels, from a frame to the next (forward) or from that back",
            "size": f"that of the {self.options.flow_size}",
        }

    def _write_numbers(self, pair: Pair) -> None:
        paths = number_files(self.options, pair.frame.number)
        if not paths and self._whole_clip is None:
            return
        arrays = {
            (direction, kind): array
            for direction, solved in pair.solved.items()
            for kind, array in self._numbers(solved).items()
        }
        for key, path in paths.items():
            if key[1] == "flow":
                write_flow(self.files.place(path), arrays[key].astype(np.float32, copy=False))
            else:
                replace_bytes(self.files.place(path), npy_bytes(arrays[key]))
        if self._whole_clip is not None:
            self._clip = self._clip or self._open_clip()
            known = {"frame": pair.frame.number, "time": float(pair.frame.time), "cut": pair.cut}
            named = {f"{direction}/{kind}": array for (direction, kind), array in arrays.items()}
            self._clip.add({**known, "duplicate": pair.duplicate, **named})

    def _numbers(self, solved: Solved) -> dict[str, NDArray[Any]]:
        """Return the arrays that were asked for, of the size that was."""
        known, asked = solved.numbers(), self.options.numbers
        arrays: dict[str, NDArray[Any]] = {kind: known[kind] for kind in asked if kind in known}
        size = self.source.unscaled_size
        if self.options.flow_size == "source" and size is not None:
            return {kind: _resized(kind, array, size) for kind, array in arrays.items()}
        return arrays

    def _join_clip(self) -> None:
        """Put the numbers of all segments into one file."""
        unfinished = self._clip is not None
        self._close_clip()
        if self._whole_clip is not None:
            with ClipFile(self._whole_clip, self._about()) as whole:
                for number in range(1, len(self.parts.infos) + unfinished + 1):
                    whole.extend(self._clip_part(number))

    def __enter__(self) -> Self:
        if self.records:
            self._open_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # finishes all of them, whatever one of them says
            for writer in self.writers.values():
                stack.push(writer)
            stack.callback(self._join_clip)
        self.notes = [note for writer in self.writers.values() for note in writer.notes]
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            for writer, place in zip(self.writers.values(), self.places, strict=True):
                print(f"{writer.frames_written} pairs are in {place}", file=sys.stderr)


def _resized(kind: str, array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return numbers of a kind as those of frames of another size, height and width."""
    if kind == "flow":
        from deqflow.geometry import resize_flow

        return resize_flow(array, size)
    if kind == "occlusion":
        return cv2.resize(array.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    # The two components grow by as much as the sides.
    growth = (size[0] / array.shape[0] + size[1] / array.shape[1]) / 2
    return np.asarray(growth * cv2.resize(array, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def flow_size(options: "VideoOptions", source: VideoSource) -> str:
    """Say in brackets of which size flow files are, if they are not simply that of the source."""
    if source.unscaled_size in (None, source.size):
        return ""
    (height, width), whole = source.size, source.unscaled_size
    assert whole is not None
    if options.flow_size == "source":
        return f" ({whole[1]}x{whole[0]}, brought back from frames of {width}x{height})"
    return f" ({width}x{height} of {whole[1]}x{whole[0]}; --flow-size source brings them back)"
