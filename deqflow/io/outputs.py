"""Where results go: never onto what they are made from, and onto other files only when asked and done."""

import contextlib
import itertools
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from deqflow.errors import ConfigError

FileIdentity = tuple[int, int]
"""Device and number of a file on it."""


class Replacements:
    """Files that take the place of others only when everything is done.

    A context manager. What is not there yet is written where it belongs; what is there stays until the end
    and is then replaced, if the end is not an error. After an error the new file is kept beside the old one.

    Attributes:
        placed: where each file is written, by where it is to be.
    """

    def __init__(self, *, overwrite: bool, sources: Iterable[Path] = ()) -> None:
        """Begin; ``overwrite`` allows files to be replaced, other than ``sources``."""
        self.overwrite, self.sources = overwrite, identities(sources)
        self.placed: dict[Path, Path] = {}

    @property
    def beside(self) -> dict[Path, Path]:
        """Files that are written beside those they are to replace, by the latter."""
        return {path: place for path, place in self.placed.items() if path != place}

    def place(self, path: Path) -> Path:
        """Return where to write a file that is to be at ``path``.

        Raises:
            ConfigError: it exists and may not be replaced.
        """
        check_output(path, overwrite=self.overwrite, sources=self.sources)
        if not os.path.lexists(path):
            self.placed[path] = path
            return path
        names = (f"{path.stem}.partial{count or ''}{path.suffix}" for count in itertools.count())
        free = next(place for name in names if not os.path.lexists(place := path.with_name(name)))
        self.placed[path] = free
        return free

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for path, beside in self.beside.items():
                if beside.exists():
                    os.replace(beside, path)


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
