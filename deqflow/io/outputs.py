"""Where results go: never onto what they are made from, and onto other files only when asked and done."""

import contextlib
import itertools
import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from deqflow.errors import ConfigError
from deqflow.io.files import append_text

FileIdentity = tuple[int, int]
"""Device and number of a file on it."""


class Replacements:
    """Files that take the place of others only when everything is done.

    A context manager. What is not there yet is written where it belongs; what is there stays until the end
    and is then replaced, if the end is not an error. After an error the new file is kept beside the old one.

    Attributes:
        placed: where each file is written, by where it is to be.
    """

    def __init__(self, *, overwrite: bool, sources: Iterable[Path] = (), journal: Path | None = None) -> None:
        """Begin, or go on where another run has been broken off.

        Args:
            overwrite: allows files to be replaced.
            sources: which never are.
            journal: file that says what was written where, so that another run can go on with it; what is in
                it belongs to this run.
        """
        self.overwrite, self.sources = overwrite, identities(sources)
        self._journal = journal
        self._before = {} if journal is None else read_journal(journal)
        self.placed = dict(self._before)

    @property
    def beside(self) -> dict[Path, Path]:
        """Files that are written beside those they are to replace, by the latter."""
        return {path: place for path, place in self.placed.items() if path != place}

    def place(self, path: Path) -> Path:
        """Return where to write a file that is to be at ``path``.

        Raises:
            ConfigError: it exists and may not be replaced.
        """
        if path in self._before:
            return self._before.pop(path)
        check_output(path, overwrite=self.overwrite, sources=self.sources)
        if not os.path.lexists(path):
            return self._note(path, path)
        names = (f"{path.stem}.partial{count or ''}{path.suffix}" for count in itertools.count())
        free = next(place for name in names if not os.path.lexists(place := path.with_name(name)))
        return self._note(path, free)

    def _note(self, path: Path, place: Path) -> Path:
        self.placed[path] = place
        if self._journal is not None:
            append_text(self._journal, json.dumps([str(path), str(place)]) + "\n")
        return place

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for path, beside in self.beside.items():
                if beside.exists():
                    os.replace(beside, path)


def read_journal(path: Path) -> dict[Path, Path]:
    """Return where files are written, by where they are to be; nothing if there is no journal."""
    placed: dict[Path, Path] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(
                ValueError
            ):  # the last line may be cut short: then nothing was written yet
                name, place = json.loads(line)
                placed[Path(name)] = Path(place)
    return placed


def check_output(path: Path, *, overwrite: bool, sources: Collection[FileIdentity] = ()) -> None:
    """Check that a file may be written.

    Raises:
        ConfigError: it is a folder, one of ``sources`` by whatever name, or exists and may not be replaced.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected a place for a file")
    if not identities([path]).isdisjoint(sources):
        raise ConfigError(f"the output {path} is the source itself; name another place")
    if os.path.lexists(path) and not overwrite:
        raise ConfigError(f"{path} exists already; --overwrite replaces it, --output names another place")


def identities(paths: Iterable[Path]) -> set[FileIdentity]:
    """Return what tells files apart whatever their names and links; of those that exist."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return found
