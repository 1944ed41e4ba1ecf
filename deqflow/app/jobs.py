"""What the page asks for: jobs, one clip or pair of frames each, solved one after the other."""

import json
import logging
import os
import re
import secrets
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from deqflow.app.options import LEAST, AppOptions
from deqflow.commands.pairs import Image
from deqflow.commands.video import flow_video
from deqflow.commands.video_options import VideoOptions
from deqflow.commands.video_record import MANIFEST, warnings_kept
from deqflow.errors import (
    ConfigError,
    DeqflowError,
    DeqflowWarning,
    VideoError,
    one_sentence,
    out_of_memory,
)
from deqflow.estimator import DEQFlow
from deqflow.io import VideoFrame, VideoSource, VideoWriter, read_image, write_image
from deqflow.io.video import FrameWriter, ImageWriter
from deqflow.visualize import PICTURES

_NOTHING: Image = np.empty((0, 0, 3), np.uint8)

MOST_JOBS = 20
"""Are kept; the oldest that are not running make room."""

LONGEST_NAME = 80
"""Of a file, as it is shown: letters."""

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
        notes: what is to be known of the clip (that it is damaged, say), a sentence each.
    """

    folder: Path
    stage: Stage = "new"
    layouts: tuple[str, ...] = ()
    pairs: int = 0
    total: int | None = None
    error: str = ""
    uploads: dict[int, Path] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    canceled: threading.Event = field(default_factory=threading.Event)

    @property
    def results(self) -> Path:
        """The folder of what can be seen and downloaded."""
        return self.folder / "results"

    @property
    def frames(self) -> Path:
        """The folder of two frames as a sequence, by their numbers."""
        return self.folder / "frames"

    def place(self, number: int, name: str) -> Path:
        """Return where a file of the visitor's goes; of its name only a plain suffix is kept."""
        suffix = Path(name).suffix.lower()
        path = self.folder / f"upload{number}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else ''}"
        shown = "".join(letter if letter.isprintable() else "?" for letter in Path(name).name)
        if len(shown) > LONGEST_NAME:
            shown = f"{shown[: LONGEST_NAME // 2]}...{shown[-LONGEST_NAME // 2 :]}"
        self.uploads[number], self.names[number] = path, shown or f"file {number}"
        return path

    def watch(self, number: int, picture: Image) -> None:
        """Note that a pair is done."""
        if self.canceled.is_set():
            raise Canceled("canceled")
        self.pairs = number

    def named(self, text: str, spelled: Callable[[str], str] = str) -> str:
        """Return a text with the visitor's names of files in place of our paths, spelled as in the text."""
        names = {f"the folder {self.frames}": " and ".join(self.names.values())}
        for number, name in self.names.items():
            ours = self.uploads[number]
            names |= dict.fromkeys((str(ours), ours.name, str(self.frames / f"{number}.png")), name)
        names |= dict.fromkeys((f"{self.results}{os.sep}", f"{self.folder}{os.sep}"), "")
        spelling = {spelled(ours): spelled(name) for ours, name in names.items()}
        longest_first = sorted(spelling, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), lambda found: spelling[found[0]], text)

    def described(self) -> dict[str, Any]:
        """Return what the page shows of it; raise KeyError if its results have been deleted meanwhile."""
        if self.stage == "done" and not self.results.is_dir():
            raise KeyError(self.results)
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
            "notes": [self.named(note) for note in self.notes],
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
            _delete(job.folder)

    def ahead(self, job: Job) -> int:
        """Return how many jobs are solved before this one."""
        before = takewhile(lambda other: other is not job, self._jobs.values())
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
        if not isinstance(layouts, list) or not layouts or any(one not in self.layouts for one in layouts):
            raise ConfigError(f"choose at least one picture of {', '.join(self.layouts)}")
        job.layouts = tuple(name for name in self.layouts if name in layouts)
        limits = {}
        for name, least in LEAST.items():
            value, most = wanted.get(name), getattr(self.options, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"{name.replace('_', ' ')} must be {least} to {most}, got {value}")
            limits[name] = value
        example = wanted.get("example")
        if example is not None:
            if not isinstance(example, str) or example not in self.examples:
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
        ends: Stage = "failed"
        try:
            job.watch(0, _NOTHING)
            with warnings.catch_warnings(), warnings_kept() as job.notes:
                warnings.simplefilter("always", DeqflowWarning)  # of the next clip too
                self._solve(job, limits, numbers)
            for path in (job.frames, *job.folder.glob("upload*")):
                _delete(path)
            ends = "done"
        except (DeqflowError, OSError) as error:
            job.error = job.named(one_sentence(error))
        except Exception as error:
            job.error = "something went wrong; the terminal of the app says what"
            if out_of_memory(error):
                job.error = "there is too little memory for frames of this size: choose a shorter side"
            logging.getLogger(__name__).exception("a job failed")
        if ends == "failed":
            _delete(job.folder)
        job.stage = ends
        if job.canceled.is_set():  # looked at after the stage is set, as `remove` does the other way round
            _delete(job.folder)

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
        model = copy(self.model)  # it shares the weights
        if pair:
            model.defaults = model.defaults.on_stills(*opened.size)
        with _for_browsers(results, opened, pair=pair) as writer:
            frames = _copied(opened, writer)
            flow_video(options, frames, options.output, model, said=job.notes, watch=job.watch)
        job.notes[:0] = opened.notes
        written = results / MANIFEST
        written.write_text(job.named(written.read_text("utf-8"), _spelled_in_json), "utf-8")
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
    job.frames.mkdir()
    for number, image in images.items():
        write_image(job.frames / f"{number}.png", image)
    return job.frames


def _spelled_in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _delete(path: Path) -> None:
    """Delete a file or folder that may be gone already."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
