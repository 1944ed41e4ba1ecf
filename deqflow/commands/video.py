"""``deqflow video``: the flow of a video, as a video."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from tqdm import tqdm

from deqflow.commands.common import (
    EstimatorOptions,
    check_folder_names,
    is_file_name,
    prepare_outputs,
    require_memory,
)
from deqflow.commands.video_files import (
    Image,
    Pair,
    Results,
    Timed,
    flow_size,
    picture_files,
    planned_files,
    told_where,
)
from deqflow.errors import ConfigError, VideoError
from deqflow.io import Deinterlace, VideoFrame, VideoSource, open_video
from deqflow.io.flow_files import SUFFIXES
from deqflow.io.images import SMALLEST_SIDE
from deqflow.io.outputs import Replacements
from deqflow.io.video import OUTPUT_SUFFIXES, Behind, ahead
from deqflow.visualize import PICTURES

if TYPE_CHECKING:
    from deqflow.estimator import DEQFlow
    from deqflow.stream import FlowStream

    FlowFormatName = str
    Layout = str
else:
    Layout = tyro.extras.literal_type_from_choices(PICTURES)
    FlowFormatName = tyro.extras.literal_type_from_choices(SUFFIXES)

LONGEST_TABLE = 100
"""Of a longer video the summary alone is printed."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions(EstimatorOptions):
    """Flow of a video: every solve starts from where the one before ended, carried along the motion.

    Attributes:
        source: A video file (whatever FFmpeg reads), a folder or pattern of images, a webcam's index, or -
            for standard input.
        output: What to write: .mp4, .mov, .mkv, .webm, .gif, .webp, or .png for an image per pair; or a
            folder for an mp4. Ctrl-C ends it early; it plays.
        layout: What the video shows: color is the flow alone, in the usual color wheel; side-by-side has the
            frame beside it; arrows and overlay lie on the frame; warped is frame 2 carried back, which should
            be frame 1; occlusion is where forward and backward flow disagree, uncertainty the error that the
            model expects of itself, movement how far one more step would move the flow. Of several there is a
            video each, named after them.
        reuse: Start each solve from the last one's fixed point.
        compare: Also solve every pair from zero, and print steps and milliseconds of both.
        flow_dir: Folder for a flow file per pair of frames.
        flow_format: Of the files in it.
        flow_size: Of the flow in them: that of the frames that were solved, or that of the source, where
            frames are scaled by --max-side or --resize.
        start: Where to begin: seconds (12.5), a time (1:02:03.5) or the number of a frame (300f).
        end: Where to stop, before the frame that is there.
        stride: Take every so many frames.
        max_frames: Read no more frames than this.
        roi: Left, top, width and height of the part of every frame to read, pixels.
        resize: Width and height to scale frames to; they are shown in the shape that they have.
        fps: Frames per second, instead of the times that the source gives (image sequences: 25).
        stream: Index of the video stream; without it, the largest that is not an attached picture.
        deinterlace: Make whole pictures of the frames that say that they are interlaced, of all, or of none.
    """

    source: tyro.conf.Positional[str]
    output: Path = Path("output")
    layout: tuple[Layout, ...] = ("side-by-side",)
    reuse: bool = True
    compare: bool = False
    flow_dir: Path | None = None
    flow_format: FlowFormatName = "flo"
    flow_size: Literal["frames", "source"] = "frames"
    start: str | None = None
    end: str | None = None
    stride: int = 1
    max_frames: int | None = None
    roi: tuple[int, int, int, int] | None = None
    resize: tuple[int, int] | None = None
    fps: float | None = None
    stream: int | None = None
    deinterlace: Deinterlace = "auto"

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        if self.max_frames is not None and self.max_frames < 2:
            raise ConfigError(f"--max-frames must be at least 2, got {self.max_frames}")
        check_folder_names(flow_dir=self.flow_dir)
        if not self.layout or len(set(self.layout)) < len(self.layout):
            raise ConfigError(f"--layout must name different pictures, got {' '.join(self.layout) or 'none'}")
        if self.stride < 1:
            raise ConfigError(f"--stride must be at least 1, got {self.stride}")
        if self.resize is not None and self.max_side is not None:
            raise ConfigError("--resize and --max-side both say the size of the frames: give one")
        if self.resize is not None and min(self.resize) < SMALLEST_SIDE:
            width, height = self.resize
            raise ConfigError(f"--resize must be at least {SMALLEST_SIDE} each way, got {width}x{height}")
        if self.compare and not self.reuse:
            raise ConfigError("--compare needs reuse: it compares with and without")

    def open(self) -> VideoSource:
        """Open the source."""
        return open_video(
            self.source,
            fps=self.fps,
            stream=self.stream,
            deinterlace=self.deinterlace,
            start=self.start,
            end=self.end,
            stride=self.stride,
            max_frames=self.max_frames,
            roi=self.roi,
            resize=self.resize,
            max_side=self.max_side,
        )


@dataclass(frozen=True)
class PairRecord:
    """Cost of a pair of frames: as shown, and solved anew if that was compared.

    Attributes:
        steps: evaluations of the update operator; in a summary not a whole number.
        milliseconds: for one more frame: encoding, solving, upsampling.
        reused: whether the solve started from the one before.
        cold_steps: the same from zero; None if not compared.
        cold_milliseconds: the same from zero.
        difference: mean end-point difference of the two flows, pixels.
    """

    steps: float
    milliseconds: float
    reused: bool
    cold_steps: float | None = None
    cold_milliseconds: float | None = None
    difference: float | None = None


def run(options: VideoOptions) -> int:
    """Estimate and write; return the exit code.

    Raises:
        DeqflowError, OSError: an input or an option does not hold; said in one sentence.
    """
    source = options.open()
    for note in source.notes:
        print(note, file=sys.stderr)
    output = options.output
    if not is_file_name(str(output), OUTPUT_SUFFIXES):
        output = output / f"{_stem(options.source)}_flow.mp4"
    prepare_outputs(planned_files(options, source, output), overwrite=options.overwrite, sources=source.files)
    model = options.load()
    if "uncertainty" in options.layout and model.uncertainty is None:
        raise ConfigError(f"--layout uncertainty: {options.model} does not tell how far its flow may be off")
    records = flow_video(options, source, output, model)
    print_costs(records)
    for path in picture_files(options, output).values():
        print(f"Flow video: {path}")
    if options.flow_dir is not None:
        print(f"Flow files: {options.flow_dir}{flow_size(options, source)}")
    return 0


def flow_video(
    options: VideoOptions,
    source: VideoSource,
    output: Path,
    model: "DEQFlow",
    *,
    watch: Callable[[int, Image], None] | None = None,
) -> list[PairRecord]:
    """Write the flow video (and files) of ``source`` and return the cost of every pair.

    However it ends, by an error or Ctrl-C too, the video holds the pairs so far and plays. It is created with
    the first flow: a source that gives none leaves no file. Files that are replaced are so at the end.

    Args:
        options: how.
        source: the frames.
        output: the video, or what the images are named after.
        model: the estimator.
        watch: is shown the number of each pair, from 1, and its picture.
    """
    from deqflow.equilibrium import Outcome

    records: list[PairRecord] = []
    total = None if source.frame_count is None else max(0, source.frame_count - 1)
    with ExitStack() as stack:
        files = stack.enter_context(Replacements(overwrite=options.overwrite, sources=source.files))
        stack.enter_context(told_where(files))
        results = stack.enter_context(Results(options, source, output, files, watch))
        progress = stack.enter_context(tqdm(total=total, unit="pair", desc=Path(source.name).name))
        drawing = stack.enter_context(Behind())
        for pair in _estimates(options, source, model):
            drawing.call(partial(results.add, pair))
            records.append(_record(pair.shown, pair.cold))
            if pair.shown.estimate.outcome is Outcome.DIVERGED:
                tqdm.write(f"pair {len(records)}: the solve diverged, this is the last finite flow")
            progress.set_postfix(steps=pair.shown.estimate.steps, refresh=False)
            progress.update()
    for note in results.notes:
        print(note, file=sys.stderr)
    return records


def _estimates(options: VideoOptions, source: VideoSource, model: "DEQFlow") -> Iterator[Pair]:
    """Solve the pairs of neighboring frames."""
    from deqflow.stream import FlowStream, check_enough_frames

    stream = FlowStream(model, reuse=options.reuse)
    cold = FlowStream(model, reuse=False)
    last: VideoFrame | None = None
    count = pairs = 0
    with closing(ahead(source.frames())) as frames:
        for frame in frames:
            count += 1
            if not frame.follows:
                stream.reset()
                cold.reset()
            if count == 1:
                require_memory(model, frame.image.shape[:2])
            shown = _timed(stream, frame.image, options.layout)
            # Turn by turn rather than run after run: a machine whose speed drifts slows both alike.
            compared = _timed(cold, frame.image) if options.compare else None
            if shown is not None and last is not None:
                pairs += 1
                yield Pair(replace(last, duration=frame.time - last.time), frame.image, shown, compared)
            last = frame
    check_enough_frames(count, source.name)
    if not pairs:
        raise VideoError(f"{source.name} has no two neighboring frames")


def _timed(stream: "FlowStream", image: Image, layouts: Sequence[str] = ()) -> Timed | None:
    began = time.perf_counter()
    estimate = stream.push(image)
    milliseconds = 1000 * (time.perf_counter() - began)
    if estimate is None:
        return None
    backward = stream.backward().flow if "occlusion" in layouts else None
    movement = stream.movement() if "movement" in layouts else None
    return Timed(estimate, milliseconds, stream.reused, stream.cut, backward, movement)


def _record(shown: Timed, cold: Timed | None) -> PairRecord:
    record = (shown.estimate.steps, shown.milliseconds, shown.reused)
    if cold is None:
        return PairRecord(*record)
    gap = shown.estimate.flow - cold.estimate.flow
    difference = float(np.hypot(gap[..., 0], gap[..., 1]).mean())
    return PairRecord(*record, cold.estimate.steps, cold.milliseconds, difference)


def _stem(source: str) -> str:
    if source == "-":
        return "stdin"
    if source.isdecimal() and not Path(source).exists():
        return f"webcam{source}"
    stem = Path(source).stem if not Path(source).is_dir() else Path(source).resolve().name
    return "".join(letter for letter in stem if letter not in "*?[]%") or "video"


def print_costs(records: list[PairRecord]) -> None:
    """Print steps and milliseconds per pair (of up to 100), and their mean and median."""
    compared = records[0].cold_steps is not None
    head = f"{'pair':>6}  {'steps':>6}  {'ms':>8}"
    if compared:
        head += f"  {'steps from zero':>15}  {'ms from zero':>12}  {'difference px':>13}"
    print(head)
    for number, record in enumerate(records if len(records) <= LONGEST_TABLE else [], 1):
        # A star: this solve started from zero (the first one, or after a cut).
        print(_row(f"{number}{' ' if record.reused else '*'}", record))
    for name, summary in (("mean", mean), ("median", median)):
        print(_row(f"{name} ", _summary(records, summary)))
    if not all(record.reused for record in records):
        print("* solved anew")


def _summary(records: list[PairRecord], summary: Callable[[list[float]], float]) -> PairRecord:
    def over(name: str) -> float:
        return summary([getattr(record, name) for record in records])

    if records[0].cold_steps is None:
        return PairRecord(over("steps"), over("milliseconds"), True)
    return PairRecord(
        over("steps"),
        over("milliseconds"),
        True,
        over("cold_steps"),
        over("cold_milliseconds"),
        over("difference"),
    )


def _row(name: str, record: PairRecord) -> str:
    row = f"{name:>7} {record.steps:>6.4g}  {record.milliseconds:>8.1f}"
    if record.cold_steps is not None:
        row += f"  {record.cold_steps:>15.4g}  {record.cold_milliseconds:>12.1f}  {record.difference:>13.3f}"
    return row
