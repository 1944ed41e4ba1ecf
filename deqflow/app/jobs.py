"""What the page asks for: jobs, one clip or pair of frames each, solved one after the other."""

import logging
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from deqflow.app.options import AppOptions
from deqflow.commands.pairs import Image
from deqflow.commands.video import VideoOptions, flow_video
from deqflow.errors import ConfigError, DeqflowError, VideoError
from deqflow.estimator import DEQFlow
from deqflow.io import VideoFrame, VideoSource, VideoWriter, read_image, write_image
from deqflow.io.video import FrameWriter, ImageWriter
from deqflow.visualize import PICTURES

_NOTHING: Image = np.empty((0, 0, 3), np.uint8)

MOST_JOBS = 20
"""Are kept; the oldest that are not running make room."""

EVERYTHING = "deqflow.zip"
"""The file that holds all others."""

Stage = Literal["new", "waiting", "running", "done", "failed"]


class Canceled(DeqflowError):
    """Nobody waits for the job any more."""


@dataclass
class Job:
    """A clip or two frames, and what came of them.

    Attributes:
        folder: holds its files and nothing else.
        stage: how far it is.
        layouts: the renderings asked for.
        pairs: that are solved.
        total: that there are; None until that is known.
        error: what went wrong, a sentence; empty if nothing did.
        uploads: files by their place: 1 alone is a clip, 1 and 2 are two frames.
        names: what the visitor calls them.
    """

    folder: Path
    stage: Stage = "new"
    layouts: tuple[str, ...] = ()
    pairs: int = 0
    total: int | None = None
    error: str = ""
    uploads: dict[int, Path] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    canceled: threading.Event = field(default_factory=threading.Event)

    @property
    def results(self) -> Path:
        """The folder of what can be seen and downloaded."""
        return self.folder / "results"

    def place(self, number: int, name: str) -> Path:
        """Return where a file of the visitor's goes; of its name only a plain suffix is kept."""
        suffix = Path(name).suffix.lower()
        path = self.folder / f"upload{number}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else ''}"
        self.uploads[number], self.names[number] = path, Path(name).name or f"file {number}"
        return path

    def watch(self, number: int, picture: Image) -> None:
        """Note that a pair is done."""
        if self.canceled.is_set():
            raise Canceled("canceled")
        self.pairs = number

    def sentence(self, error: Exception) -> str:
        """Return what an error says, with the visitor's file names in place of ours."""
        said = " ".join(str(error).split())
        for number, path in self.uploads.items():
            for ours in (str(path), path.name):
                said = said.replace(ours, self.names[number])
        return said.replace(f"{self.folder}/", "")

    def described(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        files = (
            sorted(path for path in self.results.rglob("*") if path.is_file()) if self.stage == "done" else []
        )
        names = [path.relative_to(self.results).as_posix() for path in files]
        clip = next((name for name in names if name in ("clip.mp4", "frame_000001.png")), None)
        pictures = {
            layout: name
            for layout in self.layouts
            for name in names
            if re.fullmatch(rf"flow_{layout}(_\d+)?\.(mp4|png)", name)
        }
        return {
            "stage": self.stage,
            "pairs": self.pairs,
            "total": self.total,
            "error": self.error,
            "clip": clip,
            "pictures": pictures,
            "files": [name for name in names if "/" not in name],
        }


class Jobs:
    """All jobs: whoever has the name of one, which nobody can guess, sees that one and no other."""

    def __init__(
        self, options: AppOptions, model: DEQFlow, folder: Path, examples: Mapping[str, Path]
    ) -> None:
        """Begin with none.

        Args:
            options: limits, and which model it is.
            model: the estimator.
            folder: for their files, empty.
            examples: clips that are there already, by name.
        """
        self.options, self.model, self.folder, self.examples = options, model, folder, examples
        self.layouts = [name for name in PICTURES if name != "uncertainty" or model.uncertainty is not None]
        self._jobs: dict[str, Job] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="flow")

    def create(self) -> str:
        """Return the name of a new job."""
        idle = [name for name, job in self._jobs.items() if job.stage not in ("waiting", "running")]
        for name in idle[: max(0, len(self._jobs) + 1 - MOST_JOBS)]:
            self.remove(name)
        if len(self._jobs) >= MOST_JOBS:
            raise ConfigError("too many clips are waiting already, try again when some are done")
        name = secrets.token_urlsafe(16)
        job = self._jobs[name] = Job(self.folder / name)
        job.results.mkdir(parents=True)
        return name

    def __getitem__(self, name: str) -> Job:
        """Return a job; raise KeyError if there is none of this name."""
        return self._jobs[name]

    def remove(self, name: str) -> None:
        """Delete a job and its files; one that runs ends after its pair."""
        job = self._jobs.pop(name)
        job.canceled.set()
        if job.stage not in ("waiting", "running"):
            shutil.rmtree(job.folder, ignore_errors=True)

    def ahead(self, job: Job) -> int:
        """Return how many jobs are solved before this one."""
        before = list(self._jobs.values())[: list(self._jobs.values()).index(job)]
        return sum(other.stage in ("waiting", "running") for other in before)

    def start(self, job: Job, wanted: Mapping[str, Any]) -> None:
        """Let a job be solved when those before it are.

        Args:
            job: with its files, unless an example is asked for.
            wanted: ``layouts``, a list of renderings; ``max_side`` and ``max_frames``; ``example``, the name
                of a clip that is there; ``numbers``, whether to write the flow itself too.

        Raises:
            ConfigError: a choice that there is not, no file, or the job was started before.
        """
        if job.stage != "new":
            raise ConfigError("this clip was started already")
        layouts = wanted.get("layouts")
        if not isinstance(layouts, list) or not layouts or not set(layouts) <= set(self.layouts):
            raise ConfigError(f"choose at least one picture of {', '.join(self.layouts)}")
        job.layouts = tuple(name for name in self.layouts if name in layouts)
        limits = {}
        for name, least in (("max_side", 64), ("max_frames", 2)):
            value, most = wanted.get(name), getattr(self.options, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"{name.replace('_', ' ')} must be {least} to {most}, got {value}")
            limits[name] = value
        example = wanted.get("example")
        if example is not None:
            if example not in self.examples:
                raise ConfigError(f"there is no example {example!r}")
            job.uploads, job.names = {1: self.examples[example]}, {1: example}
        if sorted(job.uploads) not in ([1], [1, 2]):
            raise ConfigError("drop a clip or two frames first")
        job.stage = "waiting"
        self._worker.submit(self._run, job, limits, bool(wanted.get("numbers")))

    def close(self) -> None:
        """End what runs after its pair, and drop what waits."""
        for job in list(self._jobs.values()):
            job.canceled.set()
        self._worker.shutdown(cancel_futures=True)

    def _run(self, job: Job, limits: Mapping[str, int], numbers: bool) -> None:
        job.stage = "running"
        try:
            job.watch(0, _NOTHING)
            self._solve(job, limits, numbers)
            job.stage = "done"
        except (DeqflowError, OSError) as error:
            job.error, job.stage = job.sentence(error), "failed"
        except Exception:
            logging.getLogger(__name__).exception("a job failed")
            job.error, job.stage = "something went wrong; the terminal of the app says what", "failed"
        if job.canceled.is_set():
            shutil.rmtree(job.folder, ignore_errors=True)

    def _solve(self, job: Job, limits: Mapping[str, int], numbers: bool) -> None:
        source, pair = job.uploads[1], len(job.uploads) == 2
        if pair:
            source = _sequence(job)
        results = job.results
        one = job.layouts[0] if len(job.layouts) == 1 else ""
        options = VideoOptions(
            source=str(source),
            # The command names renderings in files only where there are several; the page wants them always.
            output=results / f"flow{one and f'_{one}'}.{'png' if pair else 'mp4'}",
            layout=job.layouts,
            flow_dir=results / "numbers" if numbers else None,
            flow_format="npz",
            record_dir=results,
            model=self.options.model,
            checkpoint=self.options.checkpoint,
            legend=True,
            quiet=True,
            max_side=limits["max_side"],
            max_frames=limits["max_frames"],
        )
        if options.flow_dir is not None:
            options.flow_dir.mkdir()
        opened = options.open()
        if opened.frame_count is not None:
            job.total = max(0, opened.frame_count - 1)
        with _for_browsers(results, opened, pair=pair) as writer:
            flow_video(options, _copied(opened, writer), options.output, self.model, watch=job.watch)
        with ZipFile(job.folder / EVERYTHING, "w", ZIP_STORED) as archive:
            for path in sorted(results.rglob("*")):
                archive.write(path, path.relative_to(results))
        (job.folder / EVERYTHING).rename(results / EVERYTHING)


def _for_browsers(folder: Path, source: VideoSource, *, pair: bool) -> FrameWriter:
    """Return what writes the frames of a source as images, or as a video that browsers play."""
    if pair:
        return ImageWriter(folder / "frame.png")
    return VideoWriter(
        folder / "clip.mp4", source.fps, time_base=source.time_base, pixel_aspect=source.pixel_aspect
    )


def _copied(source: VideoSource, writer: FrameWriter) -> VideoSource:
    """Return a source whose frames are written too, as they are read."""

    def read() -> Iterator[VideoFrame]:
        for frame in source.frames():
            writer.write(frame)
            yield frame

    return replace(source, read=read)


def _sequence(job: Job) -> Path:
    """Return a folder that holds the two frames as a sequence of images, once they are of one size."""
    images = {number: read_image(path) for number, path in sorted(job.uploads.items())}
    (height1, width1), (height2, width2) = (image.shape[:2] for image in images.values())
    if (height1, width1) != (height2, width2):
        raise VideoError(
            f"{job.names[1]} is {width1}x{height1} pixels and {job.names[2]} {width2}x{height2}, "
            "expected two frames of one size"
        )
    folder = job.folder / "frames"
    folder.mkdir()
    for number, image in images.items():
        write_image(folder / f"{number}.png", image)
    return folder
