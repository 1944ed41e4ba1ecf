"""What every format shares: whole files replaced at once, folders listed, names read as people count."""

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self


class Closing(ABC):
    """A context manager that is closed where it is left, by an exception too."""

    @abstractmethod
    def close(self) -> None:
        """Finish what is written."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


@contextlib.contextmanager
def named_errors(path: Path, instead: Path | None = None) -> Iterator[None]:
    """Name ``path`` in errors of the operating system that name no file (a full disk's), or ``instead``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(instead)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a name to write to that becomes ``path`` at the end: whole or the old file, never cut short.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full; it names ``path``.
    """
    # In the same folder, because a rename is only atomic within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with named_errors(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove what processes that were killed within `atomic_path` have left of these files."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, own in names.items():
        for file in folder.glob(".*.tmp"):
            found = re.fullmatch(r"(?s)\.(.+)\.\d+\.tmp", file.name)
            if found and found[1] in own:
                file.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Append to a file, in UTF-8.

    Raises:
        OSError: it cannot be written, or the disk is full; it names ``path``.
    """
    with named_errors(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a whole file by `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def ffmpeg_name(path: Path | str) -> str:
    """Return the name by which FFmpeg takes a path for a file: it would read ``12:30.mp4`` as an address."""
    return str(Path(path).absolute())


def natural_key(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sorts ``frame_2`` before ``frame_10``."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part)


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what below a folder matches a glob pattern, sorted; names that begin with a dot are left out.

    Such are the ``._name`` companions that macOS leaves beside every file on foreign disks, and files that
    are still being written.
    """
    return sorted(
        path
        for path in folder.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return a folder's files with one of these suffixes, in natural order; none if it does not exist."""
    files = (path for path in visible(folder) if path.suffix.lower() in suffixes and is_meant_as_file(path))
    return sorted(files, key=natural_key)


def is_meant_as_file(path: Path) -> bool:
    """Return whether what a folder lists is a file, or a link that leads nowhere: reading it will tell."""
    return path.is_file() or not path.exists()


def followers(stems: Sequence[str]) -> list[str]:
    """Return the name that should follow each one but the last, to notice what is missing of a sequence.

    Numbers decide where names differ in a single one and are counted (`counted_step`); else whatever comes
    next follows.

    Args:
        stems: names in natural order.
    """
    split = [re.split(r"(\d+)", stem) for stem in stems]
    following = list(stems[1:])
    places = [_counted_part(*pair) for pair in pairwise(split)]
    steps = {
        index: int(split[index + 1][place]) - int(split[index][place])
        for index, place in enumerate(places)
        if place is not None
    }
    step = counted_step(list(steps.values()))
    if step is None:
        return following
    for index, other in steps.items():
        place = places[index]
        if other > step and place is not None:
            parts = split[index]
            number = f"{int(parts[place]) + step:0{len(parts[place])}d}"
            following[index] = "".join([*parts[:place], number, *parts[place + 1 :]])
    return following


def counted_step(differences: Sequence[int]) -> int | None:
    """Return by how much the numbers of a sequence go on, larger differences being gaps; None if unknown.

    It is the most common difference, the smallest of equally common ones. Where another is no multiple of it
    the numbers are no counts (but times, say), and tell nothing of gaps.
    """
    counts = Counter(differences)
    step = min(counts, key=lambda difference: (-counts[difference], difference), default=0)
    return None if step < 1 or any(difference % step for difference in counts) else step


def _counted_part(before: list[str], after: list[str]) -> int | None:
    """Which part of two split names is a number and all that differs; None if there is no such part."""
    if len(before) != len(after):
        return None
    differing = [index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    return differing[0] if len(differing) == 1 and differing[0] % 2 == 1 else None
