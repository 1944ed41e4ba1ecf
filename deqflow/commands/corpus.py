"""``deqflow corpus``: the flow of many clips, a file each, by processes of one machine or of a cluster."""

import json
import os
import platform
import posixpath
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Self

import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from deqflow.commands.common import ModelOptions, require_memory
from deqflow.commands.corpus_files import Clip, begin, clear, find_clips, put, storage
from deqflow.errors import ConfigError, one_sentence
from deqflow.extras import requires
from deqflow.io import open_video, quantize_flow
from deqflow.io.clip_file import ClipFile, check_clip_library
from deqflow.io.images import SMALLEST_SIDE
from deqflow.io.quantized import BOUND

if TYPE_CHECKING:
    from deqflow.estimator import DEQFlow


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(ModelOptions):
    """Write the flow of many clips, an HDF5 file each, in several processes of one machine or of a cluster.

    A clip that fails, or whose process dies, is tried again; in the end those that could not be done are
    named, and the exit code is 1. The same command goes on where a run was broken off: files of the output
    are whole, and what is there is not computed again. Needs `pip install 'deqflow[corpus]'`.

    Attributes:
        inputs: Clips, folders (with all clips below) and patterns; paths, or URLs of a storage that fsspec
            knows (s3://bucket/clips).
        output: Folder or URL for the results: of folder/a/b.mp4 it is a/b.mp4.h5.
        write: flow is float32 in pixels; features is 8 bits, as two-stream networks read it:
            (flow - 127.5) * bound / 127.5 gives pixels.
        bound: Length in pixels, either way, at which features are clipped.
        max_side: Scale frames down to this many pixels on the longer side; the flow is that of these.
        max_frames: Read no more frames of a clip than this.
        tries: How often a clip is tried at most.
        workers: Processes of --threads cores each; without it, as many as there are cores for.
        gpus: Share of a GPU that a process takes (0.5: two processes a GPU).
        address: Of the Ray cluster that computes (auto: the one that this machine is part of); local is
            this machine alone. Clips, weights and output must be in the reach of all its machines.
        quiet: Print nothing but warnings and errors.
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    output: str
    write: Literal["flow", "features"] = "flow"
    bound: float = BOUND
    max_side: int | None = None
    max_frames: int | None = None
    tries: int = 3
    workers: int | None = None
    gpus: float = 0.0
    address: str = "local"
    quiet: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        for name, value, least in (
            ("--tries", self.tries, 1),
            ("--workers", self.workers, 1),
            ("--gpus", self.gpus, 0),
            ("--max-frames", self.max_frames, 2),
            ("--max-side", self.max_side, SMALLEST_SIDE),
        ):
            if value is not None and not value >= least:
                raise ConfigError(f"{name} must be {least} or more, got {value:g}")
        if not self.bound > 0:
            raise ConfigError(f"--bound must be positive, got {self.bound:g}")
        if self.workers is not None and self.address != "local":
            raise ConfigError("--workers is for this machine; a cluster has as many as it has cores for")

    @property
    def cores(self) -> int:
        """Cores, and threads, of a process."""
        return self.threads or 1

    def settings(self) -> dict[str, Any]:
        """Return what decides the content of the files, as JSON takes it."""
        from deqflow.zoo import file_sha256, shipped_weights

        how = {"checkpoint", "device", "threads", "deterministic"}
        solve = [field.name for field in fields(ModelOptions) if field.name not in how]
        names = (*solve, "write", "max_side", "max_frames")
        weights = file_sha256(self.checkpoint or shipped_weights(self.model))
        bound = self.bound if self.write == "features" else None
        chosen = {name: getattr(self, name) for name in names} | {"weights": weights, "bound": bound}
        return dict(json.loads(json.dumps(chosen)))

    def anywhere(self) -> Self:
        """Return the same for a process in another folder, which is not told its cores by others."""
        system, root = storage(self.output)
        checkpoint = self.checkpoint and self.checkpoint.resolve()
        return replace(self, output=system.unstrip_protocol(root), checkpoint=checkpoint, threads=self.cores)


def run(options: CorpusOptions) -> int:
    """Compute what is not there yet; return 0, or 1 if clips could not be done.

    Raises:
        DeqflowError, OSError: an input or an option does not hold; said in one sentence.
    """
    require_ray()
    check_clip_library("deqflow corpus")
    clips = find_clips(options.inputs)
    there = begin(options.output, options.settings(), clips)
    left = [clip for clip in clips if clip.result not in there]
    failed = 0
    progress = tqdm(total=len(clips), initial=len(clips) - len(left), unit="clip", disable=options.quiet)
    with progress:
        for clip, reason in in_parallel(options, left) if left else ():
            progress.update()
            if reason is not None:
                failed += 1
                tqdm.write(f"deqflow: error: {clip.source}: {reason}", file=sys.stderr)
    if not options.quiet:
        done = len(left) - failed
        print(f"{options.output}: {len(clips) - len(left)} clips were there, {done} done, {failed} failed")
    return 1 if failed else 0


def require_ray() -> None:
    """Raise an error that names the extra, unless Ray is installed; ConfigError where there is none."""
    intel_mac = sys.platform == "darwin" and platform.machine() == "x86_64"
    if intel_mac and sys.version_info[:2] >= (3, 14):
        raise ConfigError("deqflow corpus needs Ray, which has no release for Intel Macs and Python 3.14")
    # No reports of usage unless the user wants to send them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with requires("corpus", "deqflow corpus"):
        import ray  # noqa: F401


def in_parallel(options: CorpusOptions, clips: Sequence[Clip]) -> Iterator[tuple[Clip, str | None]]:
    """Compute clips by processes of a Ray cluster; yield each as it ends, and why if it could not be done.

    Ray's tasks, not its data sets: those start a task whose process dies again without end.
    """
    import ray

    local = options.address == "local"
    ray.init(
        address=options.address,
        num_cpus=options.workers * options.cores if local and options.workers else None,
        include_dashboard=False if local else None,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        task = ray.remote(
            num_cpus=options.cores,
            num_gpus=options.gpus,
            max_retries=options.tries - 1,
            retry_exceptions=True,
            max_calls=0,  # a process keeps its model for the next clip, on a GPU too
        )(write_clip)
        sent = ray.put(options.anywhere())
        queue = iter(clips)
        running: dict[Any, Clip] = {}
        while True:
            # A few more than run, so that no process waits; not all, which may be millions.
            most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / options.cores))
            for clip in islice(queue, most - len(running)):
                running[task.remote(sent, clip)] = clip
            if not running:
                break
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(ready), _failure(ready)
        clear(options.output)
    finally:
        ray.shutdown()


def _failure(result: Any) -> str | None:
    """Return why a task has failed at last; None if it has not."""
    import ray

    try:
        ray.get(result)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None) or error
        return one_sentence(cause) or type(cause).__name__
    except ray.exceptions.RayError as error:
        return f"its process died each time ({type(error).__name__})"
    return None


def write_clip(options: CorpusOptions, clip: Clip) -> int:
    """Estimate a clip and put its file into the output; return the number of pairs.

    Raises:
        DeqflowError, OSError: the clip cannot be read or its result not be written.
    """
    system, path = storage(clip.source)
    with TemporaryDirectory(prefix="deqflow-corpus-") as folder:
        if "file" not in system.protocol:
            local = Path(folder) / ("clip" + posixpath.splitext(path)[1])
            system.get_file(path, str(local))
            path = str(local)
        result = Path(folder) / "result.h5"
        pairs = estimate_clip(options, path, result)
        put(options.output, result, clip.result)
    return pairs


@cache
def _model(options: CorpusOptions) -> "DEQFlow":
    """Load the model once in a process."""
    return options.load()


def estimate_clip(options: CorpusOptions, source: str, result: Path) -> int:
    """Write the numbers of a clip's pairs to a file, as `deqflow video --hdf5` does; return how many.

    Raises:
        VideoError: the clip cannot be read or has no two neighboring frames.
    """
    from deqflow.stream import FlowStream
    from deqflow.video import check_enough_frames, take

    model = _model(options)
    frames = open_video(source, max_side=options.max_side, max_frames=options.max_frames)
    stream, last, count, pairs = FlowStream(model), None, 0, 0
    with ClipFile(result, _about(options, source)) as file:
        for frame in frames.frames():
            count += 1
            if last is None:
                require_memory(model, frame.image.shape[:2])
            if take(stream, frame) and last is not None:
                flow: NDArray[Any] = stream.forward().flow
                known = {"frame": last.number, "time": float(last.time), "cut": stream.cut}
                if options.write == "features":
                    flow = quantize_flow(flow, options.bound)
                file.add({**known, "duplicate": stream.duplicate, "forward/flow": flow})
                pairs += 1
            last = frame
    check_enough_frames(count, pairs, "it")
    return pairs


def _about(options: CorpusOptions, source: str) -> dict[str, str]:
    unit = (
        "in pixels"
        if options.write == "flow"
        else f"8 bits: pixels are (value - 127.5) * {options.bound:g} / 127.5"
    )
    return {
        "source": posixpath.basename(source),
        "model": options.model,
        "flow": f"(u right, v down) {unit}, from a frame to the next",
        "size": "that of the frames",
    }
