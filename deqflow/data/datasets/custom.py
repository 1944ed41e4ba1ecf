"""Own footage with flow: a folder of frames beside one of flow files, or a list of pairs."""

import csv
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from deqflow.data.datasets.family import Family
from deqflow.data.datasets.pairs import PairDataset, PairFiles
from deqflow.errors import DataError, DataWarning
from deqflow.io.files import followers, list_files, natural_key, visible
from deqflow.io.flow_files import FLOW_FORMATS
from deqflow.io.images import IMAGE_SUFFIXES

LIST_SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("frame1", "frame2", "flow", "mask", "sequence")


def custom(root: Path, split: str) -> list[PairDataset]:
    """Pairs of a folder or of a list; the testing split is all frames, with or without flow.

    A folder holds ``frames/`` and ``flow/`` (and ``masks/``, bright where the flow is known), either directly
    with files or with one folder per sequence. Frames follow each other in natural order, numbered ones
    where none is missing between them; the flow from a frame to the next one, and its mask, are called like
    the frame. A picture of the flow (``.png``) may lie beside a flow file.

    Pairs that lack a file are named by a `DataWarning` and left out.

    A list is a CSV file with a header or one JSON object per line, with ``frame1``, ``frame2``, ``flow`` and,
    if wanted, ``mask`` and ``sequence``; paths are relative to the list.

    Raises:
        DataError: no complete pair, a list that does not parse, or a file in it that is missing.
    """
    testing = split == "testing"
    pairs = _listed(root, testing) if root.is_file() else _in_folders(root, testing)
    name = root.resolve().name  # of ".", too
    found = PairDataset(name, name, pairs, root)
    if found.incomplete:
        share = f"{len(found.incomplete)} of {len(found.incomplete) + len(found)} pairs"
        told = f"{root}: {share} lack a file and are left out, the first {found.incomplete[0].missing()}"
        warnings.warn(told, DataWarning, stacklevel=2)
    return [found]


def _in_folders(root: Path, testing: bool) -> Iterator[PairFiles]:
    frames = root / "frames"
    if not frames.is_dir():
        raise DataError(
            f"{frames} is not a folder: expected frames/ and flow/, or a {_lists()} list of pairs"
        )
    nested = sorted((path for path in visible(frames) if path.is_dir()), key=natural_key)
    for folder in nested or [frames]:
        sequence = folder.relative_to(frames).as_posix() if nested else root.resolve().name
        images = list(_by_stem(folder, IMAGE_SUFFIXES).values())
        flows = _by_stem(root / "flow" / folder.relative_to(frames), FLOW_FORMATS, beside=".png")
        masks = _by_stem(root / "masks" / folder.relative_to(frames), IMAGE_SUFFIXES)
        following = followers([image.stem for image in images])
        for index, (frame1, frame2) in enumerate(pairwise(images)):
            flow = flows.get(frame1.stem)
            if frame2.stem != following[index]:  # a frame is missing, and with it this pair
                frame2 = frame2.with_stem(following[index])
            if testing or flow is not None:
                name = f"{sequence}/{frame1.stem}" if nested else frame1.stem
                yield PairFiles(
                    name,
                    frame1,
                    frame2,
                    None if testing else flow,
                    sequence=sequence,
                    index=index,
                    known=masks.get(frame1.stem),
                )


def _by_stem(folder: Path, suffixes: Collection[str], *, beside: str = "") -> dict[str, Path]:
    """Files by their stems, in natural order; one with the suffix ``beside`` counts where there is no other.

    Raises:
        DataError: two files have one stem.
    """
    found: dict[str, Path] = {}
    for path in list_files(folder, suffixes):
        other = found.get(path.stem)
        if other is None or other.suffix.lower() == beside:
            found[path.stem] = path
        elif path.suffix.lower() != beside:
            raise DataError(f"{other} and {path.name} have one name: expected a single file of that name")
    return found


def _listed(file: Path, testing: bool) -> Iterator[PairFiles]:
    """Return the pairs of a list; the index goes on where a pair starts with the last one's second frame."""
    last: PairFiles | None = None
    for line, row in _rows(file):
        paths = {name: _path(file, line, row, name) for name in COLUMNS[:4]}
        frame1, frame2, flow = paths["frame1"], paths["frame2"], paths["flow"]
        needed = ("frame1", "frame2") if testing else ("frame1", "frame2", "flow")
        absent = [name for name in needed if paths[name] is None]
        if absent or frame1 is None or frame2 is None:
            raise DataError(f"{file}, line {line}: no {absent[0]}, expected {', '.join(needed)}")
        stem = Path(str(row["frame1"])).with_suffix("")
        sequence = str(row.get("sequence") or stem.parent.as_posix())
        index = 0
        if last is not None and last.sequence == sequence:
            index = last.index + (1 if last.frame2 == frame1 else 2)
        last = PairFiles(
            f"{stem.as_posix()} to {frame2.stem}",
            frame1,
            frame2,
            None if testing else flow,
            sequence=sequence,
            index=index,
            known=paths["mask"],
        )
        yield last


def _path(file: Path, line: int, row: Mapping[str, Any], name: str) -> Path | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    path = file.parent / str(value)
    if not os.path.isfile(path):  # unlike Path.is_file it takes any text for a name
        raise DataError(f"{file}, line {line}: the {name} {path} does not exist")
    return path


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers and their named values."""
    if file.suffix.lower() not in LIST_SUFFIXES:
        raise DataError(f"{file} is neither a folder nor a {_lists()} list of pairs")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".csv":
                reader = csv.DictReader(lines, strict=True)
                absent = [name for name in COLUMNS[:2] if name not in (reader.fieldnames or ())]
                if absent:
                    raise DataError(f"{file} has no column {absent[0]!r}, expected {', '.join(COLUMNS[:3])}")
                for row in reader:
                    yield reader.line_num, row
                return
            for number, text in enumerate(lines, 1):
                if text.strip():
                    value = json.loads(text)
                    if not isinstance(value, dict):
                        raise DataError(f"{file}, line {number}: expected a JSON object")
                    yield number, value
    except DataError:
        raise
    except (csv.Error, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as a list of pairs: {error}") from error


def _lists() -> str:
    return " or ".join(LIST_SUFFIXES)


CUSTOM = Family(
    name="custom",
    title="own footage",
    folder="",
    tree="frames/0001.png and flow/0001.flo",
    open=custom,
    signs=("frames/*",),
    files=LIST_SUFFIXES,
)
