"""Spring, sequences of an animated film, with ground truth at twice the frames' resolution.

Mehl, Schmalfuss, Jahedi, Nalivayko, Bruhn, *Spring: A High-Resolution High-Detail Dataset and Benchmark for
Scene Flow, Optical Flow and Stereo*, CVPR 2023.

Vectors are in pixels of the frames all the same. Like the benchmark's own loader, ``Sample.flow`` takes every
second value of every second row; its evaluation compares an estimate with all four values of a pixel and
takes the smallest error: they are in ``Sample.subpixels``. A pixel is valid where all four are known.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from deqflow.data.datasets.family import Family
from deqflow.data.datasets.pairs import (
    Convention,
    PairDataset,
    PairFiles,
    Truth,
    folders,
    numbered,
    variants,
)
from deqflow.errors import DataError
from deqflow.io.files import visible

FOLDERS = {"training": "train", "testing": "test"}
CAMERAS = ("left", "right")
DIRECTIONS = {"FW": 1, "BW": -1}


class SpringPair(PairFiles):
    """A pair whose flow file has four values per pixel of the frames."""

    truth_scale: ClassVar[int] = 2

    def read_truth(self) -> Truth:
        """As `PairFiles.read_truth`, at the frames' resolution.

        Raises:
            DataError: no ground truth, or of odd size.
            FlowFileError: it cannot be read.
        """
        flow, known, _ = super().read_truth()
        if flow.shape[0] % 2 or flow.shape[1] % 2:
            raise DataError(
                f"{self.flow} has {flow.shape[1]}x{flow.shape[0]} values, expected twice the frames' size"
            )
        corners = [np.s_[y::2, x::2] for y, x in product((0, 1), (0, 1))]
        subpixels = np.stack([flow[corner] for corner in corners])
        return Truth(subpixels[0], np.all([known[corner] for corner in corners], axis=0), subpixels)


def spring(root: Path, split: str) -> list[PairDataset]:
    """One data set per camera and direction in time."""
    folder = root / FOLDERS[split]
    return variants(
        (
            (f"Spring {camera} {direction}", "Spring", _pairs(folder, camera, direction))
            for camera, direction in product(CAMERAS, DIRECTIONS)
        ),
        folder,
        Convention(averaging="pixels"),
    )


def _pairs(folder: Path, camera: str, direction: str) -> Iterator[PairFiles]:
    step = DIRECTIONS[direction]
    truth = f"flow_{direction}_{camera}"
    for scene in folders(folder):
        frames = numbered(visible(scene / f"frame_{camera}", "*.png"), rf"frame_{camera}_(\d+)")
        for number in sorted(frames, key=lambda number: step * number):
            if number + step in frames:
                flow = scene / truth / f"{truth}_{number:04d}.flo5"
                yield SpringPair(
                    f"{scene.name} {number}",
                    frames[number],
                    frames[number + step],
                    None if folder.name == FOLDERS["testing"] else flow,
                    sequence=scene.name,
                    index=step * number,
                )


SPRING = Family(
    name="spring",
    title="Spring",
    folder="spring",
    tree="train/0001/flow_FW_left/flow_FW_left_0001.flo5",
    open=spring,
    signs=("train/*/frame_*/*.png", "test/*/frame_*/*.png"),
    pairs={"training": 4963, "testing": 990},  # 19,852 and 3,960 over two cameras and two directions
)
