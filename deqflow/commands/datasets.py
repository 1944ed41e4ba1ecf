"""``deqflow datasets``: which data sets can be read, and whether one on disk is whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deqflow.data.datasets.catalogue import DATASETS, family_named
from deqflow.data.datasets.check import Checked, check, find_families

BROKEN = 1


@dataclass(frozen=True)
class CheckOptions:
    """Count the pairs of a data set against the official number, and read the header of every file.

    Ends with exit code 0 where all that is there is sound, complete or not, and 1 where files are broken.

    Attributes:
        root: The data set's folder, one that holds several under their official names, or a list of pairs.
        dataset: Look for this one only; `deqflow datasets list` names them.
    """

    root: tyro.conf.Positional[Path]
    dataset: str | None = None


@dataclass(frozen=True)
class ListOptions:
    """List the data sets by the name that --dataset takes."""


DatasetsOptions = (
    Annotated[CheckOptions, tyro.conf.subcommand("check")]
    | Annotated[ListOptions, tyro.conf.subcommand("list")]
)


def run(options: CheckOptions | ListOptions) -> int:
    """Prints; the exit code.

    Raises:
        DataError: there is no data set at the root, or none of that name.
    """
    return _list() if isinstance(options, ListOptions) else _check(options)


def _list() -> int:
    for name, family in DATASETS.items():
        official = [f"{split} {family.pairs.get(split, '')}".strip() for split in family.splits]
        print(f"{name}: {family.title} ({', '.join(official)} pairs)")
        print(f"  {family.folder + '/' if family.folder else ''}{family.tree}")
    return 0


def _check(options: CheckOptions) -> int:
    if options.dataset is not None:
        family_named(options.dataset)
    found = find_families(options.root, options.dataset)
    broken = 0
    for family, folder in found:
        for checked in check(family, folder):
            if isinstance(checked, Checked):
                broken += len(checked.broken)
                print("\n".join(checked.lines()))
            else:
                print(f"{family.title}: {checked}")
    if broken:
        print(f"{broken} broken files")
    return BROKEN if broken else 0
