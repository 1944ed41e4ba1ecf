"""``deqflow datasets``: what can be read, whether it is whole on disk, and how fast it is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deqflow.data.datasets.catalog import DATASETS, family_named, open_dataset
from deqflow.data.datasets.check import Checked, check, find_families
from deqflow.data.datasets.speed import measure_loading
from deqflow.errors import ConfigError
from deqflow.io.flow_files import FLOW_FORMATS
from deqflow.tables import markdown

BROKEN = 1


@dataclass(frozen=True)
class CheckOptions:
    """Count the pairs of a data set against the official number, and read the header of every file.

    Ends with exit code 0 where all that is there is sound, complete or not, and 1 where files are broken.

    Attributes:
        data: The data set's folder, one that holds several under their official names, or a list of pairs.
        dataset: Look for this one only; `deqflow datasets list` names them.
    """

    data: tyro.conf.Positional[Path]
    dataset: str | None = None


@dataclass(frozen=True)
class ListOptions:
    """List the data sets by the name that --dataset takes."""


@dataclass(frozen=True)
class SpeedOptions:
    """Measure how many pairs per second one process reads, as they lie and with flow in other formats.

    Attributes:
        dataset: Its name; `deqflow datasets list` shows all.
        data: The data set's folder, or one that holds it under its official name.
        split: Which part of it.
        samples: Most pairs to read of each rendering pass, camera and so on.
        formats: Suffixes to rewrite the flow in, in a temporary folder.
    """

    dataset: tyro.conf.Positional[str]
    data: tyro.conf.Positional[Path]
    split: str = "training"
    samples: int = 20
    formats: tuple[str, ...] = tuple(FLOW_FORMATS)

    def __post_init__(self) -> None:
        """Reject what cannot be measured, naming the option."""
        if self.samples < 1:
            raise ConfigError(f"--samples must be at least 1, got {self.samples}")
        unknown = [suffix for suffix in self.formats if suffix not in FLOW_FORMATS]
        if unknown:
            raise ConfigError(f"--formats: {unknown[0]!r} is none of {', '.join(FLOW_FORMATS)}")


DatasetsOptions = (
    Annotated[CheckOptions, tyro.conf.subcommand("check")]
    | Annotated[ListOptions, tyro.conf.subcommand("list")]
    | Annotated[SpeedOptions, tyro.conf.subcommand("speed")]
)


def run(options: CheckOptions | ListOptions | SpeedOptions) -> int:
    """Print; the exit code.

    Raises:
        DataError: there is no data set at the root, or none of that name.
        DeqflowError, OSError: a file cannot be read while speed is measured.
    """
    if isinstance(options, CheckOptions):
        return _check(options)
    return _speed(options) if isinstance(options, SpeedOptions) else _list()


def _list() -> int:
    for name, family in DATASETS.items():
        official = [f"{split} {family.pairs.get(split, '')}".strip() for split in family.splits]
        print(f"{name}: {family.title} ({', '.join(official)} pairs)")
        print(f"  {family.folder + '/' if family.folder else ''}{family.tree}")
    return 0


def _check(options: CheckOptions) -> int:
    if options.dataset is not None:
        family_named(options.dataset)
    found = find_families(options.data, options.dataset)
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


def _speed(options: SpeedOptions) -> int:
    header = ["pairs", "frames", "flow", "size", "count", "pairs/s", "ms per pair", "of it frames"]
    rows = []
    for dataset in open_dataset(options.dataset, options.data, split=options.split):
        for loading in measure_loading(dataset, most=options.samples, formats=options.formats):
            rows.append(
                [
                    loading.what,
                    loading.frames,
                    loading.flow,
                    "x".join(map(str, loading.size)),
                    str(loading.pairs),
                    f"{1 / loading.seconds:.1f}",
                    f"{1000 * loading.seconds:.1f}",
                    f"{1000 * loading.frames_seconds:.1f}",
                ]
            )
    print("\n".join(markdown(header, rows)))
    return 0
