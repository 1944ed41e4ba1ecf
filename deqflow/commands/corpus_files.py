"""Clips and results of ``deqflow corpus``, in folders or in a storage that fsspec knows."""

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from deqflow.errors import ConfigError, DataError

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3gp", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg"),
        *("mpg", "mts", "mxf", "ogv", "ts", "webm", "wmv", "y4m"),
    )
)
"""What is taken from a folder; a clip that is named itself may be called anything."""

SETTINGS = "corpus.json"
UNFINISHED = ".unfinished"
"""Folder of the output where files lie until they are whole."""


@dataclass(frozen=True)
class Clip:
    """A clip, and the file of the output that its flow goes to.

    Attributes:
        source: path or URL.
        result: path below the output.
    """

    source: str
    result: str


def storage(url: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path there, without a slash at the end.

    Raises:
        ConfigError: a storage that fsspec does not know, or whose library is missing.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url} cannot be opened: {error}") from error
    return system, path.rstrip("/")


def find_clips(inputs: Sequence[str]) -> list[Clip]:
    """Return the clips of files, folders and patterns; a result is called as its clip is below the input.

    Raises:
        DataError: an input that does not exist or holds no clip, a name that leads out of the output.
        ConfigError: two clips whose results would be the same file.
    """
    clips: dict[str, Clip] = {}
    for given in inputs:
        system, path = storage(given)
        if system.isdir(path):
            found = {
                name[len(path) + 1 :]: name
                for name in system.find(path)
                if posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES
                and not posixpath.basename(name).startswith(".")
            }
        else:
            names = system.glob(path) if re.search(r"[*?\[]", path) else [path] if system.exists(path) else []
            found = {posixpath.basename(name): name for name in names}
        if not found:
            raise DataError(f"{given}: no clip is there; expected a video, a folder of such or a pattern")
        for name, source in sorted(found.items()):
            # The keys of an object store are not those of a file system: they may be anything.
            if ".." in re.split(r"[\\/]", name):
                raise DataError(f"{source}: its name leads out of the output folder")
            clip = Clip(system.unstrip_protocol(source), f"{name}.h5")
            if clips.setdefault(clip.result, clip).source != clip.source:
                other = clips[clip.result].source
                raise ConfigError(
                    f"{other} and {clip.source} would both be {clip.result}: take one at a time"
                )
    return list(clips.values())


def begin(output: str, settings: Mapping[str, Any], clips: Sequence[Clip]) -> set[str]:
    """Return which files the output holds already; into a new output, write what decides their content.

    Raises:
        ConfigError: the output holds results of another command, which are not replaced.
    """
    system, root = storage(output)
    system.makedirs(root, exist_ok=True)
    system.invalidate_cache()
    there = {name[len(root) + 1 :] for name in system.find(root)}
    if SETTINGS in there:
        try:
            before = json.loads(system.cat_file(f"{root}/{SETTINGS}"))
            differing = [name for name in settings if before.get(name) != settings[name]]
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{output}/{SETTINGS} is not of this command: {error}") from error
        if differing:
            name = differing[0]
            raise ConfigError(
                f"{output} is of another run, with {name} {before.get(name)!r} instead of "
                f"{settings[name]!r}: name another place"
            )
    else:
        foreign = next((clip.result for clip in clips if clip.result in there), None)
        if foreign is not None:
            raise ConfigError(f"{output}/{foreign} exists already and is not of this command")
        with TemporaryDirectory() as folder:
            file = Path(folder) / SETTINGS
            file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            put(output, file, SETTINGS)
    return there


def clear(output: str) -> None:
    """Remove what processes left that were killed while they wrote."""
    system, root = storage(output)
    if system.exists(f"{root}/{UNFINISHED}"):
        system.rm(f"{root}/{UNFINISHED}", recursive=True)


def put(output: str, file: Path, name: str) -> None:
    """Move a file into the output: under its name it is whole, whenever this ends."""
    system, root = storage(output)
    unfinished, target = f"{root}/{UNFINISHED}/{uuid4().hex}", f"{root}/{name}"
    for path in (unfinished, target):
        system.makedirs(posixpath.dirname(path), exist_ok=True)
    system.put_file(str(file), unfinished)
    system.mv(unfinished, target)
