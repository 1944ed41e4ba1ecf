"""KITTI 2012 and 2015, driving scenes with sparse ground truth from a laser scanner.

Geiger, Lenz, Urtasun, *Are we ready for autonomous driving?*, CVPR 2012; Menze, Geiger, *Object Scene Flow
for Autonomous Vehicles*, CVPR 2015. A pair is the frames 10 and 11 of a scene; the multi-view extension adds
other numbers, which have no ground truth.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deqflow.data.augmentation import SINTEL_CROP, SPARSE
from deqflow.data.datasets.family import Family, SubmissionLayout
from deqflow.data.datasets.pairs import Convention, PairDataset, PairFiles, existing
from deqflow.io.files import visible

CONVENTION = Convention(averaging="images", centered_padding=False)


def kitti_2015(root: Path, split: str) -> list[PairDataset]:
    """Ground truth is ``flow_occ``: occluded pixels are part of it, ``flow_noc`` tells which they are."""
    return [PairDataset("KITTI-2015", "KITTI", _pairs(root / split, "image_2"), root / split, CONVENTION)]


def kitti_2012(root: Path, split: str) -> list[PairDataset]:
    """Color frames, or ``image_0`` in gray where only these are there."""
    folder = root / split
    images = (
        "image_0" if (folder / "image_0").is_dir() and not (folder / "colored_0").is_dir() else "colored_0"
    )
    return [PairDataset("KITTI-2012", "KITTI", _pairs(folder, images), folder, CONVENTION)]


def _pairs(folder: Path, images: str) -> Iterator[PairFiles]:
    for frame1 in visible(folder / images, "*_10.png"):
        scene = frame1.stem.removesuffix("_10")
        pair = PairFiles(scene, frame1, frame1.with_name(f"{scene}_11.png"), None, sequence=scene, index=10)
        if folder.name == "training":
            noc = existing(folder / "flow_noc" / frame1.name)
            flow = folder / "flow_occ" / frame1.name
            if noc is not None and not flow.is_file():
                flow, pair = noc, replace(pair, name=f"{scene} (noc)")
            pair = replace(pair, flow=flow, noc=noc, objects=existing(folder / "obj_map" / frame1.name))
        yield pair


_UPLOAD = "upload {archive} at https://www.cvlibs.net/datasets/kitti/"
_AUGMENTATION = {
    "kitti": SPARSE,
    "sintel": replace(SPARSE, crop=SINTEL_CROP, scale=(-0.3, 0.5), flip_horizontal=0.5),
}


def _submitted(pair: PairFiles) -> Path:
    return Path("flow", pair.frame1.name)


KITTI_2015 = Family(
    name="kitti-2015",
    title="KITTI-2015",
    folder="KITTI-2015",
    tree="training/flow_occ/000000_10.png",
    open=kitti_2015,
    signs=("*/image_2/*_10.png",),
    pairs={"training": 200, "testing": 200},
    augmentation=_AUGMENTATION,
    submission=SubmissionLayout(_submitted, _UPLOAD, packed=lambda pair: f"flow/{pair.frame1.name}"),
)
KITTI_2012 = Family(
    name="kitti-2012",
    title="KITTI-2012",
    folder="KITTI-2012",
    tree="training/flow_occ/000000_10.png",
    open=kitti_2012,
    signs=("*/colored_0/*_10.png", "*/image_0/*_10.png"),
    pairs={"training": 194, "testing": 195},
    augmentation=_AUGMENTATION,
    # In 2012 the files lie at the archive's root.
    submission=SubmissionLayout(_submitted, _UPLOAD, packed=lambda pair: pair.frame1.name),
)
