"""FlyingChairs and FlyingChairs2, synthetic chairs before photographs.

Dosovitskiy et al., *FlowNet: Learning Optical Flow with Convolutional Networks*, ICCV 2015; Ilg, Saikia,
Keuper, Brox, *Occlusions, Motion and Depth Boundaries with a Generic Network*, ECCV 2018.
"""

from collections.abc import Iterator
from pathlib import Path

from deqflow.data.augmentation import Augmentation
from deqflow.data.datasets.family import Family
from deqflow.data.datasets.pairs import PairDataset, PairFiles, existing
from deqflow.errors import DataError
from deqflow.io.files import visible

SPLIT_FILE = "FlyingChairs_train_val.txt"
_SPLIT_CODES = {"training": "1", "validation": "2"}


def flying_chairs(root: Path, split: str) -> list[PairDataset]:
    """Return the pairs that the official list assigns to the split; ``all`` needs no list.

    Raises:
        DataError: the list is missing, is another file, or does not reach as far as the pairs.
    """
    data = root / "data"
    codes = None if split == "all" else _codes(root)

    def candidates() -> Iterator[PairFiles]:
        for flow in visible(data, "*_flow.flo"):
            stem = flow.stem.removesuffix("_flow")
            if codes is not None and stem not in codes:
                raise DataError(
                    f"{flow} is none of the {len(codes)} pairs that {SPLIT_FILE} assigns to a split"
                )
            if codes is None or codes[stem] == _SPLIT_CODES[split]:
                yield PairFiles(
                    stem, data / f"{stem}_img1.ppm", data / f"{stem}_img2.ppm", flow, sequence=stem
                )

    return [PairDataset("FlyingChairs", "FlyingChairs", candidates(), data)]


def _codes(root: Path) -> dict[str, str]:
    """Return the code of every pair by its five-digit number: line n of the list is about pair n."""
    for folder in (root, root / "data", root.parent):
        if (folder / SPLIT_FILE).is_file():
            codes = (folder / SPLIT_FILE).read_text(encoding="ascii", errors="replace").split()
            break
    else:
        raise DataError(
            f"{root / SPLIT_FILE} is missing: it says which pairs are for training and which for validation "
            "and is offered beside the data set on lmb.informatik.uni-freiburg.de; the split 'all' needs none"
        )
    if not codes or not set(codes) <= set(_SPLIT_CODES.values()):
        raise DataError(f"{folder / SPLIT_FILE} is not the official list: expected a 1 or a 2 in every line")
    return {f"{number:05d}": code for number, code in enumerate(codes, 1)}


def flying_chairs2(root: Path, split: str) -> list[PairDataset]:
    """``train/`` or ``val/``, forward flow with its occlusions."""
    folder = root / {"training": "train", "validation": "val"}[split]

    def candidates() -> Iterator[PairFiles]:
        for flow in visible(folder, "*-flow_01.flo"):
            stem = flow.stem.removesuffix("-flow_01")
            yield PairFiles(
                stem,
                folder / f"{stem}-img_0.png",
                folder / f"{stem}-img_1.png",
                flow,
                occlusion=existing(folder / f"{stem}-occ_01.png"),
                sequence=stem,
            )

    return [PairDataset("FlyingChairs2", "FlyingChairs2", candidates(), folder)]


CHAIRS = Family(
    name="chairs",
    title="FlyingChairs",
    folder="FlyingChairs_release",
    tree="data/00001_flow.flo",
    open=flying_chairs,
    signs=("data/*_img1.ppm",),
    splits=("training", "validation", "all"),
    pairs={"training": 22232, "validation": 640, "all": 22872},
    augmentation={"chairs": Augmentation(crop=(368, 496), scale=(-0.1, 1.0))},
)
CHAIRS2 = Family(
    name="chairs2",
    title="FlyingChairs2",
    folder="FlyingChairs2",
    tree="train/0000000-flow_01.flo",
    open=flying_chairs2,
    signs=("train/*-img_0.png", "val/*-img_0.png"),
    splits=("training", "validation"),
)
