"""Which data sets there are, by name, and how one is opened."""

from pathlib import Path

from deqflow.data.augmentation import Augmentation
from deqflow.data.datasets.chairs import CHAIRS, CHAIRS2
from deqflow.data.datasets.custom import CUSTOM
from deqflow.data.datasets.family import Family
from deqflow.data.datasets.hd1k import HD1K
from deqflow.data.datasets.kitti import KITTI_2012, KITTI_2015
from deqflow.data.datasets.middlebury import MIDDLEBURY
from deqflow.data.datasets.pairs import PairDataset
from deqflow.data.datasets.sintel import SINTEL
from deqflow.data.datasets.spring import SPRING
from deqflow.data.datasets.tartanair import TARTANAIR
from deqflow.data.datasets.things import THINGS
from deqflow.errors import DataError

_ALL = (
    *(SINTEL, KITTI_2015, KITTI_2012, MIDDLEBURY, CHAIRS, CHAIRS2),
    *(THINGS, HD1K, SPRING, TARTANAIR, CUSTOM),
)
DATASETS: dict[str, Family] = {family.name: family for family in _ALL}
"""The data sets by the name that ``--dataset`` takes; a new one is a file and its name here."""

SUBMISSIONS = tuple(family.name for family in DATASETS.values() if family.submission is not None)
"""Those whose benchmark has a server that we can write for."""


def open_dataset(name: str, root: str | Path, *, split: str = "training") -> list[PairDataset]:
    """Index a data set.

    Args:
        name: one of `DATASETS`.
        root: the data set's own folder, or one that holds it under the official name.
        split: one of the splits that the data set has.

    Returns:
        One data set per rendering pass, camera and direction that is there; most have one.

    Raises:
        DataError: an unknown name or split, a root that is no folder, or one without a single pair.
    """
    family = family_named(name)
    if split not in family.splits:
        raise DataError(f"{family.title} has no split {split!r}, expected one of {', '.join(family.splits)}")
    root = Path(root)
    if not root.is_dir() and not (root.is_file() and root.suffix.lower() in family.files):
        raise DataError(f"{root} is not a folder: expected {family.title}, with {family.tree} in it")
    return family.open(own_folder(family, root), split)


def family_named(name: str) -> Family:
    """Return an entry of `DATASETS`.

    Raises:
        DataError: there is none of this name.
    """
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r}, expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def own_folder(family: Family, root: Path) -> Path:
    """Return the data set's folder: ``root`` itself, or the one of the official name in it."""
    return root / family.folder if family.folder and (root / family.folder).is_dir() else root


def find_benchmarks(root: str | Path) -> list[PairDataset]:
    """Return the data sets with ground truth that ``root`` holds by their official names, or is itself.

    Of FlyingChairs all pairs are taken, so that no list of the split is needed.

    Raises:
        DataError: ``root`` is not a folder, holds none of the data sets, or one of them without a single
            pair.
    """
    root = Path(root)
    expected = ", ".join(family.folder for family in DATASETS.values() if family.folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected one that holds data sets such as {expected}")
    found = [
        (family, root / family.folder)
        for family in DATASETS.values()
        if family.folder and (root / family.folder).is_dir()
    ]
    found = found or [(family, root) for family in DATASETS.values() if family.lies_in(root)]
    if not found:
        raise DataError(f"{root} holds no known data set: expected at least one of {expected}")
    return [
        dataset
        for family, folder in found
        for dataset in family.open(folder, "all" if "all" in family.splits else "training")
    ]


def official_pairs(title: str, split: str = "training") -> int:
    """Return how many pairs a split of a data set has officially, 0 if that is not known.

    Args:
        title: of a `PairDataset`, such as "MPI-Sintel final".
        split: one of the data set's splits.
    """
    first = title.partition(" ")[0]
    return next((family.pairs.get(split, 0) for family in _ALL if family.title == first), 0)


def augmentation_in(stage: str, name: str) -> Augmentation:
    """Return the ranges that a data set's pairs are changed in, in a stage of training.

    Where none are published they are those of the stage's own data set, and Sintel's in stages of our own.

    Raises:
        DataError: there is no data set of this name.
    """
    own = (family.augmentation[stage] for family in DATASETS.values() if stage in family.augmentation)
    usual = next(own, SINTEL.augmentation["sintel"])
    return family_named(name).augmentation.get(stage, usual)
