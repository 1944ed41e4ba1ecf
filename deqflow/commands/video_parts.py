"""The working folder of a run: its results in segments, and after each the state from which it can go on."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from deqflow.commands.video_record import PairRecord, plain
from deqflow.errors import ConfigError
from deqflow.io import VideoSource
from deqflow.io.files import atomic_path, remove_leftovers, replace_bytes
from deqflow.io.outputs import read_journal

if TYPE_CHECKING:
    from torch import Tensor

    from deqflow.commands.video_options import VideoOptions

RUN = "run.json"
DONE = "done.json"
JOURNAL = "journal.jsonl"

_FORMAT = 2

_OURS = re.compile(r"(?s)(run|done)\.json|journal\.jsonl|\d{6}[._].*|\..*\.tmp")

_OF_NO_CONSEQUENCE = {"overwrite", "resume", "quiet"}
"""Options that may differ from those of the run that is continued."""


@dataclass(frozen=True)
class Snapshot:
    """Where a run is between two pairs.

    Attributes:
        frames: read from the source so far.
        stream: state of the stream, see `FlowStream.state_dict`.
    """

    frames: int
    stream: "Mapping[str, Tensor]"


class Parts:
    """Segments of a run beside its output, in ``NAME.parts``; a context manager that removes them in the end.

    A segment counts from the moment its state is there, which is written last and at once.

    Attributes:
        folder: where they are.
        overwrite: whether results may be replaced, as the run was begun.
        infos: what is known of each finished segment, as JSON takes it.
        snapshot: the state behind the last of them; None before the first.
    """

    def __init__(self, output: Path, options: "VideoOptions", source: VideoSource) -> None:
        """Look for the parts of a run with this output; ``load`` reads them."""
        self.folder = output.with_name(f"{output.name}.parts")
        self.overwrite = options.overwrite
        self.infos: list[dict[str, Any]] = []
        self.snapshot: Snapshot | None = None
        self._again = bool(source.files)  # a camera or a pipe cannot be read again
        self._description = _description(options, source)

    @property
    def journal(self) -> Path:
        """The file that says where results are written."""
        return self.folder / JOURNAL

    @property
    def found(self) -> bool:
        """Whether there is a run that was broken off."""
        return (self.folder / RUN).is_file()

    @property
    def records(self) -> list[PairRecord]:
        """The records of the pairs in finished segments."""
        return [PairRecord.read(record) for info in self.infos for record in info["records"]]

    def _read(self) -> dict[str, Any]:
        """Return the description of the run that is there.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            description: dict[str, Any] = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{self.folder / RUN} is not a description of a run: {error}") from error
        return description

    def require_ended(self) -> None:
        """Refuse to touch a run that still goes on.

        Raises:
            ConfigError: it does.
        """
        process = self._read().get("process")
        if process and process[0] != os.getpid() and _process(process[0]) == process:
            raise ConfigError(f"{self.folder} belongs to a run that still goes on, process {process[0]}")

    def load(self) -> None:
        """Read the finished segments of a run like this one.

        Raises:
            ConfigError: it is not like this one.
        """
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        before = self._read()
        differing = _differences(before, json.loads(json.dumps(self._description)))
        if differing:
            raise ConfigError(
                f"--resume: the run in {self.folder} was of another {differing}; "
                "the same command continues it, --overwrite without --resume starts anew"
            )
        self.overwrite = self.overwrite or bool(before.get("overwrite"))
        remove_leftovers(read_journal(self.journal).values())
        self._sign()
        with contextlib.suppress(OSError, SafetensorError):
            while True:
                path = self._state(len(self.infos) + 1)
                with safe_open(str(path), framework="pt") as file:
                    info = json.loads(file.metadata()["segment"])
                self.snapshot = Snapshot(info["frames"], load_file(path))
                self.infos.append(info)

    def begin(self) -> None:
        """Make the folder, unless the run goes on in it.

        Raises:
            ConfigError: there is one with other files in it.
        """
        if self.found:
            return
        strangers = [path for path in self.folder.glob("*") if not _OURS.fullmatch(path.name)]
        if strangers:
            raise ConfigError(
                f"{self.folder} is where segments go, but holds {strangers[0].name}: move it away"
            )
        self.clear()
        self.folder.mkdir(parents=True)
        self._sign()

    def _sign(self) -> None:
        """Describe the run, and say which process it is."""
        about = {**self._description, "overwrite": self.overwrite, "process": _process(os.getpid())}
        replace_bytes(self.folder / RUN, json.dumps(about, indent=2).encode())

    def file(self, number: int, name: str) -> Path:
        """Return where a part of a segment is."""
        return self.folder / f"{number:06d}_{name}"

    def commit(self, snapshot: Snapshot, info: dict[str, Any]) -> None:
        """Say that a segment is finished: what is known of it, and the state behind it."""
        from safetensors.torch import save_file

        info = {"frames": snapshot.frames, **info}
        with atomic_path(self._state(len(self.infos) + 1)) as temporary:
            save_file(dict(snapshot.stream), temporary, metadata={"segment": json.dumps(info)})
        self.infos.append(info)
        self.snapshot = snapshot

    def _state(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    @property
    def complete(self) -> bool:
        """Whether all of a run was written, and only its parts were not removed wholly."""
        return (self.folder / DONE).is_file()

    def clear(self) -> None:
        """Remove the folder and what is ours in it."""
        if not self.folder.is_dir():
            return
        remove_leftovers(read_journal(self.journal).values())
        (self.folder / RUN).unlink(missing_ok=True)  # from now on there is no run to go on with
        for path in self.folder.glob("*"):
            if _OURS.fullmatch(path.name) and path.name != DONE:
                path.unlink()
        (self.folder / DONE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not self._again:
            if self.found:
                (self.folder / RUN).replace(self.folder / DONE)
            self.clear()


@contextlib.contextmanager
def told_how_to_go_on(parts: Parts) -> Iterator[None]:
    """Say, if a run fails that can be continued, how."""
    try:
        yield
    except BaseException:
        if parts.found:
            print(f"the same command with --resume goes on behind pair {len(parts.records)}", file=sys.stderr)
        raise


def open_parts(options: "VideoOptions", source: VideoSource, output: Path) -> Parts:
    """Return the parts of the run that is to be continued, or of a new one.

    Raises:
        ConfigError: there is a broken run and nobody said what is to become of it, or it cannot be continued.
    """
    parts = Parts(output, options, source)
    if options.resume and not source.files:
        raise ConfigError(f"--resume: {source.name} cannot be read again from its start")
    if not parts.found:
        if not (parts.complete and options.resume):
            parts.clear()  # what a run that was killed in the very end has left
        return parts
    parts.require_ended()
    if options.resume:
        parts.load()
    elif options.overwrite:
        parts.clear()
    else:
        raise ConfigError(
            f"{parts.folder} holds a run that was broken off: --resume continues it, --overwrite starts anew"
        )
    return parts


def _process(number: int) -> list[float] | None:
    """Return what tells a process from others of its number before and after it; None if there is none."""
    import psutil

    try:
        return [number, round(psutil.Process(number).create_time(), 2)]
    except psutil.Error:
        return None


def _description(options: "VideoOptions", source: VideoSource) -> dict[str, Any]:
    """Return what a run depends on, to be compared."""
    from deqflow.zoo import file_sha256, shipped_weights

    files = [(str(file), file.stat()) for file in source.files if file.is_file()]
    return {
        "format": _FORMAT,
        "version": metadata.version("deqflow"),
        "weights": file_sha256(options.checkpoint or shipped_weights(options.model)),
        "source": [[name, status.st_size, status.st_mtime_ns] for name, status in files],
        "options": {
            name: plain(value) for name, value in asdict(options).items() if name not in _OF_NO_CONSEQUENCE
        },
    }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in what two descriptions differ; nothing if they do not."""
    if before.get("options") != now["options"]:
        old = before.get("options") or {}
        names = [name for name in now["options"] if now["options"][name] != old.get(name)]
        return ", ".join(f"--{name.replace('_', '-')}" for name in names) or "set of options"
    return ", ".join(name for name in now if before.get(name) != now[name])
