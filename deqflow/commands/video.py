"""``deqflow video``: the flow of a video, as a video."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from deqflow.commands.common import (
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
from deqflow.commands.video_options import VideoOptions
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
from deqflow.io import VideoFrame, VideoSource
from deqflow.io.files import replace_bytes
from deqflow.io.outputs import Replacements, read_journal
from deqflow.io.video import OUTPUT_SUFFIXES, Behind, ahead

if TYPE_CHECKING:
    from deqflow.estimator import DEQFlow
    from deqflow.stream import Direction, FlowStream


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
