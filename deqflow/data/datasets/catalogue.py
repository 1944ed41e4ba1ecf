"""Which data sets there are, by name, and how one is opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from deqflow.data.datasets.chairs import flying_chairs, flying_chairs2
from deqflow.data.datasets.custom import LIST_SUFFIXES, custom
from deqflow.data.datasets.hd1k import hd1k
from deqflow.data.datasets.kitti import kitti_2012, kitti_2015
from deqflow.data.datasets.middlebury import middlebury
from deqflow.data.datasets.pairs import PairDataset
from deqflow.data.datasets.sintel import sintel
from deqflow.data.datasets.spring import spring
from deqflow.data.datasets.tartanair import tartanair
from deqflow.data.datasets.things import flying_things
from deqflow.errors import DataError


@dataclass(frozen=True)
class Family:
    """A data set as its authors publish it.

    Attributes:
        title: what people call it.
        folder: name of its folder where several data sets lie under one root; empty if it has none.
        tree: a file that shows the layout, for messages.
        open: reads the layout below the data set's own folder, for one of ``splits``.
        splits: "training", "validation", "testing" in our words, whatever the folders are called.
        pairs: official number of pairs of a split, of each `PairDataset` that ``open`` returns; only numbers
            that the authors or their tools state.
        signs: patterns of which one matches something below the data set's own folder.
        files: suffixes of files that ``open`` takes in place of a folder.
    """

    title: str
    folder: str
    tree: str
    open: Callable[[Path, str], list[PairDataset]]
    signs: tuple[str, ...]
    splits: tuple[str, ...] = ("training", "testing")
    pairs: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[str, ...] = ()


DATASETS: dict[str, Family] = {
    "sintel": Family(
        "MPI-Sintel",
        "MPI-Sintel",
        "training/flow/alley_1/frame_0001.flo",
        sintel,
        ("training/flow/*/*.flo", "training/clean/*/*.png", "test/clean/*/*.png", "test/final/*/*.png"),
        pairs={"training": 1041, "testing": 552},
    ),
    "kitti-2015": Family(
        "KITTI-2015",
        "KITTI-2015",
        "training/flow_occ/000000_10.png",
        kitti_2015,
        ("*/image_2/*_10.png",),
        pairs={"training": 200, "testing": 200},
    ),
    "kitti-2012": Family(
        "KITTI-2012",
        "KITTI-2012",
        "training/flow_occ/000000_10.png",
        kitti_2012,
        ("*/colored_0/*_10.png", "*/image_0/*_10.png"),
        pairs={"training": 194, "testing": 195},
    ),
    "middlebury": Family(
        "Middlebury",
        "Middlebury",
        "other-gt-flow/Venus/flow10.flo",
        middlebury,
        ("other-data/*/frame10.png", "eval-data/*/frame10.png"),
        pairs={"training": 8, "testing": 12},
    ),
    "chairs": Family(
        "FlyingChairs",
        "FlyingChairs_release",
        "data/00001_flow.flo",
        flying_chairs,
        ("data/*_img1.ppm",),
        splits=("training", "validation", "all"),
        pairs={"training": 22232, "validation": 640, "all": 22872},
    ),
    "chairs2": Family(
        "FlyingChairs2",
        "FlyingChairs2",
        "train/0000000-flow_01.flo",
        flying_chairs2,
        ("train/*-img_0.png", "val/*-img_0.png"),
        splits=("training", "validation"),
    ),
    "things": Family(
        "FlyingThings3D",
        "FlyingThings3D",
        "optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm",
        flying_things,
        ("frames_*pass/T*/*/*",),
        # 2,239 sequences of ten frames.
        pairs={"training": 20151},
    ),
    "hd1k": Family(
        "HD1K",
        "HD1K",
        "hd1k_flow_gt/flow_occ/000000_0000.png",
        hd1k,
        ("hd1k_input/image_2/*.png", "hd1k_challenge/image_2/*.png"),
    ),
    "spring": Family(
        "Spring",
        "spring",
        "train/0001/flow_FW_left/flow_FW_left_0001.flo5",
        spring,
        ("train/*/frame_*/*.png", "test/*/frame_*/*.png"),
        # 19,852 and 3,960 over two cameras and two directions.
        pairs={"training": 4963, "testing": 990},
    ),
    "tartanair": Family(
        "TartanAir",
        "TartanAir",
        "abandonedfactory/Easy/P000/flow/000000_000001_flow.npy",
        tartanair,
        ("*/*/*/flow/*_flow.npy", "*/*/*/*/flow/*_flow.npy"),
        splits=("training",),
    ),
    "custom": Family(
        "own footage",
        "",
        "frames/0001.png and flow/0001.flo",
        custom,
        ("frames/*",),
        files=LIST_SUFFIXES,
    ),
}
"""The data sets by the name that ``--dataset`` takes; a new one is one entry."""


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
    """An entry of `DATASETS`.

    Raises:
        DataError: there is none of this name.
    """
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r}, expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def own_folder(family: Family, root: Path) -> Path:
    """The data set's folder: ``root`` itself, or the one of the official name in it."""
    return root / family.folder if family.folder and (root / family.folder).is_dir() else root


def find_benchmarks(root: str | Path) -> list[PairDataset]:
    """The data sets with ground truth that lie under ``root``, each in the folder of its official name.

    Of FlyingChairs all pairs are taken, so that no list of the split is needed.

    Raises:
        DataError: ``root`` is not a folder, holds none of the data sets, or one of them without a single
            pair.
    """
    root = Path(root)
    expected = ", ".join(family.folder for family in DATASETS.values() if family.folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected one that holds data sets such as {expected}")
    found: list[PairDataset] = []
    for family in DATASETS.values():
        if family.folder and (root / family.folder).is_dir():
            split = "all" if "all" in family.splits else "training"
            found.extend(family.open(root / family.folder, split))
    if not found:
        raise DataError(f"{root} holds no known data set: expected at least one of {expected}")
    return found
