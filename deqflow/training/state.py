"""A training run's states on disk: everything that a resumed run needs to go on as if it had not stopped."""

import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deqflow.errors import CheckpointError, TrainingError
from deqflow.io.files import atomic_path

FORMAT = 2
READABLE = (1, 2)
"""Format 1 (``state.pt``) lacks the checksum and what a format 2 state says of skips, scores and data."""
SEAL = b"sha256 "


def seal(data: bytes) -> bytes:
    """The bytes of a zip archive with their SHA-256 as the archive's comment: still the same archive."""
    comment = SEAL + hashlib.sha256(data).hexdigest().encode()
    return data[:-2] + len(comment).to_bytes(2, "little") + comment


def read_sealed(path: Path) -> bytes:
    """The bytes of a state file, checked.

    Raises:
        CheckpointError: the file is cut short or changed.
    """
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            comment = archive.comment
            # Older files carry no seal, but the CRC-32 of each of their records, as every zip archive does.
            broken = None if comment else archive.testzip()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if broken is not None or (comment and seal(data[: -len(comment) - 2] + bytes(2)) != data):
        raise CheckpointError(f"{path} is damaged: its checksum does not match")
    return data


class StateStore:
    """The last few states in a run's folder, ``state-<step>.pt``, newest last.

    A file gets its name once it is whole and on the disk, so a kill at any instant leaves the earlier ones
    and perhaps this one.

    Args:
        folder: of the run.
        keep: how many states to keep, at least 1.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._damaged: list[Path] = []

    def paths(self) -> list[Path]:
        """Every state, oldest first; the one file of format 1 counts as older than the numbered ones."""
        numbered = [path for path in self.folder.glob("state-*.pt") if re.fullmatch(r"state-\d+", path.stem)]
        first = self.folder / "state.pt"
        return ([first] if first.is_file() else []) + sorted(numbered, key=lambda path: int(path.stem[6:]))

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest state that is whole, and its path; None in a folder without states.

        Damaged ones before it are named in a warning and set aside when the next state is written.

        Raises:
            CheckpointError: there are states, but none is whole, or one has a format of another version.
        """
        self._damaged = []
        for path in reversed(self.paths()):
            try:
                content = torch.load(io.BytesIO(read_sealed(path)), map_location="cpu", weights_only=True)
                version = content["format"]
            except Exception as error:
                # A foreign file can fail in many ways inside torch.load; all mean the same to the user.
                self._damaged.append(path)
                reason = str(error).splitlines()[0] if isinstance(error, CheckpointError) else "is no state"
                warnings.warn(f"{path} cannot be resumed ({reason}); trying the one before", stacklevel=2)
                continue
            if version not in READABLE:
                raise CheckpointError(f"{path} has training state format {version}, expected {FORMAT}")
            return path, content
        if self._damaged:
            raise CheckpointError(
                f"{self._damaged[0]} is not a whole training state and no earlier one is at hand; move it "
                "away to start anew"
            )
        return None

    def save(self, content: Mapping[str, Any]) -> Path:
        """Write a state and remove the oldest beyond ``keep``.

        Raises:
            TrainingError: it cannot be written (a full disk, say); the states before it are as they were.
        """
        path = self.folder / f"state-{content['step']:08d}.pt"
        buffer = io.BytesIO()
        torch.save({**content, "format": FORMAT}, buffer)
        try:
            for damaged in self._damaged:
                damaged.rename(damaged.with_name(f"{damaged.name}.damaged"))
            self._damaged = []
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                file.write(seal(buffer.getvalue()))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            before = self.paths()
            kept = f"{before[-1]} is intact" if before else "there is no earlier one"
            raise TrainingError(
                f"the state cannot be written to {path}: {error.strerror or error}; {kept}"
            ) from error
        killed_while_writing = self.folder.glob(".*.[0-9]*.tmp")
        for old in [*self.paths()[: -self.keep], *killed_while_writing]:
            old.unlink(missing_ok=True)
        return path
