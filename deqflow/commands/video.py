"""``deqflow video``: the flow of a video, as a video."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from tqdm import tqdm

from deqflow.commands.common import (
    EstimatorOptions,
    check_folder_names,
    is_file_name,
    prepare_outputs,
    require_memory,
)
from deqflow.commands.first_look import clip_scale
from deqflow.commands.pairs import Image, Pair, Solved, push
from deqflow.commands.video_files import (
    Results,
    flow_size,
    picture_files,
    planned_files,
    results_of,
    told_where,
)
from deqflow.commands.video_parts import Parts, Snapshot, open_parts, told_how_to_go_on
from deqflow.commands.video_record import (
    MANIFEST,
    TABLE,
    PairRecord,
    manifest,
    print_costs,
    warnings_kept,
)
from deqflow.errors import ConfigError
from deqflow.io import Deinterlace, VideoFrame, VideoSource, open_video
from deqflow.io.clip_file import CLIP_SUFFIXES, check_clip_library
from deqflow.io.files import replace_bytes
from deqflow.io.flow_files import SUFFIXES
from deqflow.io.images import SMALLEST_SIDE
from deqflow.io.outputs import Replacements, read_journal
from deqflow.io.video import OUTPUT_SUFFIXES, Behind, ahead
from deqflow.visualize import PICTURES

if TYPE_CHECKING:
    from deqflow.estimator import DEQFlow
    from deqflow.stream import Direction, FlowStream

    FlowFormatName = str
    Layout = str
else:
    Layout = tyro.extras.literal_type_from_choices(PICTURES)
    FlowFormatName = tyro.extras.literal_type_from_choices(SUFFIXES)


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
        color_scale: What is drawn at full saturation: running follows the motion, calmly within a shot and
            anew after a cut; clip is one length for the whole clip, from a first look at some of its pairs.
        direction: forward is the flow from a frame to the next, backward that from the next back to it; of
            both there are two of every result, those of the flow back named with _backward, and columns of
            frames.csv.
        reuse: Start each solve from the last one's fixed point.
        compare: Also solve every pair from zero, and print what both cost in evaluations and milliseconds.
        flow_dir: Folder for files of numbers per pair of frames, named after the number of its first frame.
        flow_format: Of the flow files in it.
        flow_size: Of the numbers: that of the frames that were solved, or that of the source, where frames
            are scaled by --max-side or --resize.
        numbers: What to write in --flow-dir and --hdf5: flow; uncertainty, the error in pixels that the model
            expects (.npy); occlusion, true where flow forward and back do not return to within
            sqrt(0.01 (|f|^2 + |b|^2) + 0.5) pixels (Sundaram 2010) or leave the frame (.npy).
        hdf5: One file for the numbers of all pairs, .h5: datasets forward/flow (pair, H, W, 2) and so on.
        resume: Continue a run of the same command that was broken off (Ctrl-C, kill, full disk): what comes
            out is what an unbroken run would have written.
        segment: Pairs after which a run can be continued; a broken one repeats fewer than these.
        record_dir: Folder for frames.csv, a row per pair (time, evaluations, residual, cuts, motion, ...),
            and manifest.json (hashes of source and weights, settings, versions, counts, warnings).
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
    color_scale: Literal["running", "clip"] = "running"
    direction: Literal["forward", "backward", "both"] = "forward"
    reuse: bool = True
    compare: bool = False
    flow_dir: Path | None = None
    flow_format: FlowFormatName = "flo"
    flow_size: Literal["frames", "source"] = "frames"
    numbers: tuple[Literal["flow", "uncertainty", "occlusion"], ...] = ("flow",)
    hdf5: Path | None = None
    record_dir: Path | None = None
    resume: bool = False
    segment: int = 24
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
        check_folder_names(flow_dir=self.flow_dir, record_dir=self.record_dir)
        for option, chosen in (("layout", self.layout), ("numbers", self.numbers)):
            if not chosen or len(set(chosen)) < len(chosen):
                raise ConfigError(f"--{option} must name different things, got {' '.join(chosen) or 'none'}")
        if self.numbers != ("flow",) and self.flow_dir is None and self.hdf5 is None:
            raise ConfigError("--numbers go to --flow-dir or --hdf5: give one of them")
        if self.hdf5 is not None:
            if self.hdf5.suffix.lower() not in CLIP_SUFFIXES:
                raise ConfigError(f"--hdf5 {self.hdf5}: expected a name ending in {', '.join(CLIP_SUFFIXES)}")
            check_clip_library("--hdf5")
        if self.color_scale == "clip" and self.max_flow is not None:
            raise ConfigError("--color-scale clip and --max-flow both say what is full color: give one")
        if self.segment < 1:
            raise ConfigError(f"--segment must be at least 1, got {self.segment}")
        if self.stride < 1:
            raise ConfigError(f"--stride must be at least 1, got {self.stride}")
        if self.resize is not None and self.max_side is not None:
            raise ConfigError("--resize and --max-side both say the size of the frames: give one")
        if self.resize is not None and min(self.resize) < SMALLEST_SIDE:
            width, height = self.resize
            raise ConfigError(f"--resize must be at least {SMALLEST_SIDE} each way, got {width}x{height}")
        if self.compare and not self.reuse:
            raise ConfigError("--compare needs reuse: it compares with and without")

    @property
    def directions(self) -> "tuple[Direction, ...]":
        """The directions to write, the one that records are of first."""
        return ("forward", "backward") if self.direction == "both" else (self.direction,)

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


def run(options: VideoOptions) -> int:
    """Estimate and write; return the exit code.

    Raises:
        DeqflowError, OSError: an input or an option does not hold; said in one sentence.
    """
    with warnings_kept() as said:
        return _run(options, said)


def _run(options: VideoOptions, said: list[str]) -> int:
    source = options.open()
    if not options.quiet:
        for note in source.notes:
            print(note, file=sys.stderr)
    output = options.output
    if not is_file_name(str(output), OUTPUT_SUFFIXES):
        output = output / f"{_stem(options.source)}_flow.mp4"
    parts = open_parts(options, source, output)
    if parts.complete:
        parts.clear()
        print("the run was complete already", file=sys.stderr)
        return 0
    if options.color_scale == "clip" and not source.files:
        raise ConfigError(f"--color-scale clip reads the clip twice, which {source.name} cannot be")
    written = read_journal(parts.journal)
    planned = (path for path in planned_files(options, source, output) if path not in written)
    prepare_outputs(planned, overwrite=parts.overwrite, sources=source.files)
    model = options.load()
    for option, chosen in (("--layout", options.layout), ("--numbers", options.numbers)):
        if "uncertainty" in chosen and model.uncertainty is None:
            raise ConfigError(
                f"{option} uncertainty: {options.model} does not tell how far its flow may be off"
            )
    with told_how_to_go_on(parts):
        records = flow_video(options, source, output, model, parts=parts, said=said)
    if options.quiet:
        return 0
    print_costs(records)
    for path in picture_files(options, output).values():
        print(f"Flow video: {path}")
    if options.flow_dir is not None:
        print(f"Flow files: {options.flow_dir}{flow_size(options, source)}")
    if options.hdf5 is not None:
        print(f"Numbers: {options.hdf5}{flow_size(options, source)}")
    if options.record_dir is not None:
        print(f"Record: {options.record_dir / TABLE}, {options.record_dir / MANIFEST}")
    return 0


def flow_video(
    options: VideoOptions,
    source: VideoSource,
    output: Path,
    model: "DEQFlow",
    *,
    parts: Parts | None = None,
    said: Sequence[str] = (),
    watch: Callable[[int, Image], None] | None = None,
) -> list[PairRecord]:
    """Write the flow video of ``source`` and what else is asked for, and return the record of every pair.

    However it ends, by an error or Ctrl-C too, the video holds the pairs so far and plays. It is created with
    the first flow: a source that gives none leaves no file. Files that are replaced are so at the end.

    Args:
        options: how.
        source: the frames.
        output: the video, or what the images are named after.
        model: the estimator.
        parts: of the run to be continued; None finds out.
        said: warnings, up to the end.
        watch: is shown the number of each pair, from 1, and its (first) picture.
    """
    parts = parts or open_parts(options, source, output)
    with ExitStack() as stack:
        stack.enter_context(parts)
        files = Replacements(overwrite=parts.overwrite, sources=source.files, journal=parts.journal)
        stack.enter_context(files)
        stack.enter_context(told_where(files))
        results = Results(options, source, output, files, model.defaults.scales, parts, watch)
        if options.color_scale == "clip" and results.scale.fixed is None:
            results.scale.fixed = clip_scale(source, model, quiet=options.quiet)
        stack.enter_context(_described(options, source, model, results, said))
        stack.enter_context(results)
        done = len(results.records)
        progress = stack.enter_context(_progress(options, source, done))
        drawing = stack.enter_context(Behind())
        for number, (pair, snapshot) in enumerate(
            _pairs(options, source, model, parts.snapshot, done), done + 1
        ):
            drawing.call(partial(results.add, pair, snapshot))
            _advance(progress, number, pair)
    if not options.quiet:
        for note in results.notes:
            print(note, file=sys.stderr)
    return results.records


def _progress(options: VideoOptions, source: VideoSource, done: int) -> "tqdm[None]":
    total = None if source.frame_count is None else max(0, source.frame_count - 1)
    name = Path(source.name).name
    return tqdm(total=total, initial=done, unit="pair", desc=name, disable=options.quiet)


def _advance(progress: "tqdm[None]", number: int, pair: Pair) -> None:
    from deqflow.equilibrium import Outcome

    first = next(iter(pair.solved.values()))
    if first.estimate.outcome is Outcome.DIVERGED:
        tqdm.write(f"pair {number}: the solve diverged, this is the last finite flow", file=sys.stderr)
    progress.set_postfix(cost=f"{first.cost:.3g}", refresh=False)
    progress.update()


@contextmanager
def _described(
    options: VideoOptions, source: VideoSource, model: "DEQFlow", results: Results, said: Sequence[str]
) -> Iterator[None]:
    """Write manifest.json at the end, however it ends; after an error, only if there is a record at all."""
    ended = "complete"
    try:
        yield
    except BaseException as error:
        ended = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)
        raise
    finally:
        if options.record_dir is not None and results.records:
            text = manifest(
                options,
                source,
                model,
                results.records,
                outputs=results_of(options, results.output),
                said=[*source.notes, *results.notes, *said],
                full_color=results.scale.fixed,
                ended=ended,
            )
            replace_bytes(results.files.place(options.record_dir / MANIFEST), text.encode())


def _pairs(
    options: VideoOptions, source: VideoSource, model: "DEQFlow", begin: Snapshot | None, done: int
) -> Iterator[tuple[Pair, Snapshot | None]]:
    """Solve the pairs of neighboring frames; at the end of a segment, say where the run is.

    Args:
        options: how.
        source: the frames; those that were read before are decoded again and passed over.
        model: the estimator.
        begin: where to go on; None means at the first frame.
        done: pairs before that.
    """
    from deqflow.stream import FlowStream
    from deqflow.video import check_enough_frames

    stream = FlowStream(model, reuse=options.reuse)
    cold = FlowStream(model, reuse=False) if options.compare else None
    passed, pairs = (0, done) if begin is None else (begin.frames, done)
    if begin is not None:
        for one in (stream, cold):
            if one is not None:
                one.load_state_dict(begin.stream)
    last: VideoFrame | None = None
    count = 0
    with closing(ahead(source.frames())) as frames:
        for count, frame in enumerate(frames, 1):
            if count > passed:
                if last is None:
                    require_memory(model, frame.image.shape[:2])
                solved, compared = _both(stream, cold, frame, options, cold_first=pairs % 2 == 1)
                if solved and last is not None:
                    pairs += 1
                    shown = replace(last, duration=frame.time - last.time)
                    pair = Pair(shown, frame.image, solved, stream.cut, stream.duplicate, compared)
                    ends = pairs % options.segment == 0
                    yield pair, Snapshot(count, stream.state_dict()) if ends else None
            last = frame
    check_enough_frames(count, pairs, source.name)


def _both(
    stream: "FlowStream",
    cold: "FlowStream | None",
    frame: VideoFrame,
    options: VideoOptions,
    *,
    cold_first: bool,
) -> "tuple[dict[Direction, Solved], Solved | None]":
    """Solve the pair that a frame ends, and from zero as well if there is a stream for that.

    Pair by pair rather than run by run, and in turns: what slows a machine for a while slows both alike.
    """
    solved: dict[Direction, Solved] = {}
    compared: Solved | None = None
    turns = (cold, stream) if cold_first else (stream, cold)
    for one in turns:
        if one is None:
            continue
        if one is stream:
            solved = push(stream, frame, options.directions, {*options.layout, *options.numbers})
        else:
            compared = next(iter(push(one, frame, options.directions[:1]).values()), None)
    return solved, compared


def _stem(source: str) -> str:
    if source == "-":
        return "stdin"
    if source.isdecimal() and not Path(source).exists():
        return f"webcam{source}"
    stem = Path(source).stem if not Path(source).is_dir() else Path(source).resolve().name
    return "".join(letter for letter in stem if letter not in "*?[]%") or "video"
