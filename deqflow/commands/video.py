"""``deqflow video``: the flow of a video, as a video."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from deqflow.commands.common import EstimatorOptions, is_file_name, prepare_outputs, require_memory
from deqflow.errors import ConfigError
from deqflow.io import Deinterlace, VideoSource, VideoWriter, open_video, shrink, write_flow
from deqflow.io.flow_files import SUFFIXES
from deqflow.visualize import ColorScale, draw_arrows, flow_to_color, side_by_side

if TYPE_CHECKING:
    from deqflow.estimator import DEQFlow, FlowEstimate
    from deqflow.stream import FlowStream

    FlowFormatName = str
else:
    FlowFormatName = tyro.extras.literal_type_from_choices(SUFFIXES)

LONGEST_TABLE = 100
"""Of a longer video the summary alone is printed."""

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class VideoOptions(EstimatorOptions):
    """Flow of a video: every solve starts from where the one before ended, carried along the motion.

    Attributes:
        source: A video file (whatever FFmpeg reads), a folder or pattern of images, a webcam's index, or -
            for standard input.
        output: The mp4 to write, or a folder for it. Ctrl-C ends it early; it plays.
        layout: What the video shows: frame and flow beside each other, flow alone, or arrows on the frame.
        reuse: Start each solve from the last one's fixed point.
        compare: Also solve every pair from zero, and print steps and milliseconds of both.
        flow_dir: Folder for a flow file per pair of frames.
        flow_format: Of the files in it.
        max_frames: Read no more frames than this.
        fps: Frames per second, instead of the times that the source gives (image sequences: 25).
        stream: Index of the video stream; without it, the largest that is not an attached picture.
        deinterlace: Make whole pictures of the frames that say that they are interlaced, of all, or of none.
    """

    source: tyro.conf.Positional[str]
    output: Path = Path("output")
    layout: Literal["side-by-side", "flow", "arrows"] = "side-by-side"
    reuse: bool = True
    compare: bool = False
    flow_dir: Path | None = None
    flow_format: FlowFormatName = "flo"
    max_frames: int | None = None
    fps: float | None = None
    stream: int | None = None
    deinterlace: Deinterlace = "auto"

    def __post_init__(self) -> None:
        """Rejects what cannot be run, naming the option."""
        super().__post_init__()
        if self.max_frames is not None and self.max_frames < 2:
            raise ConfigError(f"--max-frames must be at least 2, got {self.max_frames}")
        if self.compare and not self.reuse:
            raise ConfigError("--compare needs reuse: it compares with and without")


@dataclass(frozen=True)
class Timed:
    """An estimate and what it cost."""

    estimate: "FlowEstimate"
    milliseconds: float
    reused: bool


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
    """Estimates and writes; the exit code.

    Raises:
        DeqflowError, OSError: an input or an option does not hold; said in one sentence.
    """
    source = open_video(
        options.source, fps=options.fps, stream=options.stream, deinterlace=options.deinterlace
    )
    for note in source.notes:
        print(note, file=sys.stderr)
    output = options.output
    if not is_file_name(str(output), (".mp4",)):
        output = output / f"{_stem(options.source)}_flow.mp4"
    if output.exists() and Path(options.source).exists() and output.samefile(options.source):
        raise ConfigError(f"the output {output} is the source itself")
    prepare_outputs([output], overwrite=options.overwrite)
    if options.flow_dir is not None:
        first = options.flow_dir / flow_file_name(1, options.flow_format)
        prepare_outputs([first], overwrite=options.overwrite)
    records = flow_video(options, source, output, options.load())
    print_costs(records)
    print(f"Flow video: {output}")
    if options.flow_dir is not None:
        print(f"Flow files: {options.flow_dir}")
    return 0


def flow_video(
    options: VideoOptions,
    source: VideoSource,
    output: Path,
    model: "DEQFlow",
    *,
    watch: Callable[[int, Image], None] | None = None,
) -> list[PairRecord]:
    """Writes the flow video (and files) of ``source`` and returns the cost of every pair.

    However it ends, by an error or Ctrl-C too, the video holds the pairs so far and plays. It is created with
    the first flow: a source that gives none leaves no file.

    Args:
        options: how.
        source: the frames.
        output: the mp4.
        model: the estimator.
        watch: is shown the number of each pair, from 1, and its picture.
    """
    from deqflow.equilibrium import Outcome

    records: list[PairRecord] = []
    scale = ColorScale(fixed=options.max_flow)
    writer: VideoWriter | None = None
    total = _pairs(source, options.max_frames)
    try:
        with ExitStack() as stack:
            progress = stack.enter_context(tqdm(total=total, unit="pair", desc=Path(source.name).name))
            for frame, shown, cold in _estimates(options, source, model):
                picture = _picture(options.layout, frame, shown.estimate.flow, scale)
                if writer is None:
                    writer = stack.enter_context(VideoWriter(output, source.fps))
                writer.write(picture)
                records.append(_record(shown, cold))
                if shown.estimate.outcome is Outcome.DIVERGED:
                    tqdm.write(f"pair {len(records)}: the solve diverged, this is the last finite flow")
                if options.flow_dir is not None:
                    name = flow_file_name(len(records), options.flow_format)
                    write_flow(options.flow_dir / name, shown.estimate.flow)
                if watch is not None:
                    watch(len(records), picture)
                progress.set_postfix(steps=shown.estimate.steps, refresh=False)
                progress.update()
    except KeyboardInterrupt:
        if writer is not None:
            print(f"{writer.frames_written} pairs are in {output}", file=sys.stderr)
        raise
    return records


def flow_file_name(number: int, flow_format: str) -> str:
    """Name of the flow file of a pair, counted from 1."""
    return f"frame_{number:06d}{SUFFIXES[flow_format]}"


def _estimates(
    options: VideoOptions, source: VideoSource, model: "DEQFlow"
) -> Iterator[tuple[Image, Timed, Timed | None]]:
    """The first frame of each pair, its estimate, and the one from zero if it is compared."""
    from deqflow.stream import FlowStream, check_enough_frames

    stream = FlowStream(model, reuse=options.reuse, steps=options.steps, tolerance=options.tolerance)
    cold = FlowStream(model, reuse=False, steps=options.steps, tolerance=options.tolerance)
    last: Image | None = None
    count = 0
    for frame in islice(source.frames(), options.max_frames):
        count += 1
        if not frame.follows:
            stream.reset()
            cold.reset()
        image = shrink(frame.image, options.max_side)
        if count == 1:
            require_memory(model, image.shape[:2])
        shown = _timed(stream, image)
        # Turn by turn rather than run after run: a machine whose speed drifts slows both alike.
        compared = _timed(cold, image) if options.compare else None
        if shown is not None and last is not None:
            yield last, shown, compared
        last = image
    check_enough_frames(count, source.name)


def _timed(stream: "FlowStream", image: Image) -> Timed | None:
    began = time.perf_counter()
    estimate = stream.push(image)
    milliseconds = 1000 * (time.perf_counter() - began)
    return None if estimate is None else Timed(estimate, milliseconds, stream.reused)


def _record(shown: Timed, cold: Timed | None) -> PairRecord:
    record = (shown.estimate.steps, shown.milliseconds, shown.reused)
    if cold is None:
        return PairRecord(*record)
    gap = shown.estimate.flow - cold.estimate.flow
    difference = float(np.hypot(gap[..., 0], gap[..., 1]).mean())
    return PairRecord(*record, cold.estimate.steps, cold.milliseconds, difference)


def _picture(layout: str, frame: Image, flow: NDArray[np.float32], scale: ColorScale) -> Image:
    if layout == "arrows":
        return draw_arrows(frame, flow)
    colored = flow_to_color(flow, scale.update(flow), clip=True)
    return colored if layout == "flow" else side_by_side([frame, colored])


def _pairs(source: VideoSource, max_frames: int | None) -> int | None:
    counts = [count for count in (source.frame_count, max_frames) if count is not None]
    return max(0, min(counts) - 1) if counts else None


def _stem(source: str) -> str:
    if source == "-":
        return "stdin"
    if source.isdecimal() and not Path(source).exists():
        return f"webcam{source}"
    stem = Path(source).stem if not Path(source).is_dir() else Path(source).resolve().name
    return "".join(letter for letter in stem if letter not in "*?[]%") or "video"


def print_costs(records: list[PairRecord]) -> None:
    """Prints steps and milliseconds per pair (of up to 100), and their mean and median."""
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
