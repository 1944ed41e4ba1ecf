"""What every format shares: whole files replaced at once, names sorted as people count."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name to write to that becomes ``path`` at the end: the file is whole or the old one, never cut short.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    # In the same folder, because a rename is only atomic within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file by `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def natural_key(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sorts ``frame_2`` before ``frame_10``."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part)
