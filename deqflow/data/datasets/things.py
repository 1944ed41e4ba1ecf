"""FlyingThings3D, rendered objects flying before photographs, with flow forward and backward in time.

Mayer et al., *A Large Dataset to Train Convolutional Networks for Disparity, Optical Flow, and Scene Flow
Estimation*, CVPR 2016. This is the full data set; the subset of DispNet and FlowNet 2.0 has another layout.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from deqflow.data.augmentation import SINTEL_CROP, Augmentation
from deqflow.data.datasets.family import Family
from deqflow.data.datasets.pairs import PairDataset, PairFiles, folders, numbered, variants
from deqflow.io.files import visible

FOLDERS = {"training": "TRAIN", "testing": "TEST"}
RENDERS = ("clean", "final")
CAMERAS = ("left", "right")
DIRECTIONS = {"into_future": 1, "into_past": -1}


def flying_things(root: Path, split: str) -> list[PairDataset]:
    """One data set per rendering pass, camera and direction; ``TEST`` has ground truth as well."""
    return variants(
        (
            (
                f"FlyingThings3D {render} {camera} {direction}",
                f"FlyingThings3D {render}",
                _pairs(root, FOLDERS[split], render, camera, direction),
            )
            for render, camera, direction in product(RENDERS, CAMERAS, DIRECTIONS)
        ),
        root,
    )


def _pairs(root: Path, split: str, render: str, camera: str, direction: str) -> Iterator[PairFiles]:
    step = DIRECTIONS[direction]
    prefix = f"OpticalFlow{direction.title().replace('_', '')}"
    for letter in folders(root / f"frames_{render}pass" / split):
        for scene in folders(letter):
            frames = numbered(visible(scene / camera, "*.png"), r"(\d+)")
            truth = root / "optical_flow" / split / letter.name / scene.name / direction / camera
            for number in sorted(frames, key=lambda number: step * number):
                if number + step in frames:
                    frame1 = frames[number]
                    yield PairFiles(
                        f"{letter.name}/{scene.name} {number}",
                        frame1,
                        frames[number + step],
                        truth / f"{prefix}_{frame1.stem}_{camera[0].upper()}.pfm",
                        sequence=f"{letter.name}/{scene.name}",
                        index=step * number,
                    )


THINGS = Family(
    name="things",
    title="FlyingThings3D",
    folder="FlyingThings3D",
    tree="optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm",
    open=flying_things,
    signs=("frames_*pass/T*/*/*",),
    pairs={"training": 20151},  # 2,239 sequences of ten frames
    augmentation={
        "things": Augmentation(crop=(400, 720), scale=(-0.4, 0.8)),
        "sintel": Augmentation(crop=SINTEL_CROP, scale=(-0.4, 0.8)),
    },
)
