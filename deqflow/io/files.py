"""What every format shares: whole files replaced at once, names sorted as people count."""

import os
import re
from pathlib import Path


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` so that the file is complete or absent, never cut short.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    # In the same folder, because a rename is only atomic within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def natural_key(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sorts ``frame_2`` before ``frame_10``."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part)
