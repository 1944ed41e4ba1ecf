"""Data sets with ground truth, read from their official directory layouts.

A pair exists where its flow file and both its frames do, so that parts of a data set serve as well as the
whole. Listings are sorted; frames and flow are read when a pair is asked for.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from deqflow.data.sample import Sample
from deqflow.errors import DataError
from deqflow.io.flow_files import read_flow
from deqflow.io.images import read_image


@dataclass(frozen=True)
class PairFiles:
    """Where one pair lies; ``occlusion`` is a grayscale mask, bright where the point is hidden in frame 2."""

    name: str
    frame1: Path
    frame2: Path
    flow: Path
    occlusion: Path | None = None

    def exists(self) -> bool:
        """Whether flow and both frames are there."""
        return self.flow.is_file() and self.frame1.is_file() and self.frame2.is_file()

    def read(self) -> Sample:
        """Read the pair.

        Raises:
            DataError: frames and flow are not of one size.
            DeqflowError, OSError: a file cannot be read.
        """
        frame1, frame2 = read_image(self.frame1), read_image(self.frame2)
        flow, valid = read_flow(self.flow)
        occlusion = None if self.occlusion is None else read_image(self.occlusion)[..., 0] > 127
        for path, array in ((self.frame2, frame2), (self.flow, flow), (self.occlusion, occlusion)):
            if array is not None and array.shape[:2] != frame1.shape[:2]:
                raise DataError(
                    f"{path} is {_size(array.shape)} pixels, but {self.frame1} is {_size(frame1.shape)}: "
                    "frames and ground truth of a pair must be of one size"
                )
        return Sample(frame1, frame2, flow, valid, occlusion, self.name)


class PairDataset(Sequence[Sample]):
    """The pairs of one data set, or of one rendering pass of it.

    Attributes:
        title: the data set, such as "MPI-Sintel final".
        group: the row of a table that its pairs are averaged in, such as "Sintel final".
        files: where each pair lies.
    """

    def __init__(self, title: str, group: str, candidates: Iterable[PairFiles], root: Path) -> None:
        self.title = title
        self.group = group
        self.files = [pair for pair in candidates if pair.exists()]
        if not self.files:
            raise DataError(
                f"{root} holds no complete pair of {title}: a flow file and the two frames it belongs to"
            )

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [pair.read() for pair in self.files[index]]
        return self.files[index].read()


def sintel(root: str | Path, render: str) -> PairDataset:
    """MPI-Sintel (Butler et al., ECCV 2012), training split.

    Args:
        root: the folder that holds ``training/``.
        render: "clean" or "final".
    """
    training = Path(root) / "training"

    def candidates() -> Iterable[PairFiles]:
        for flow in sorted(training.glob("flow/*/frame_*.flo")):
            scene, number = flow.parent.name, _number(flow, r"frame_(\d+)")
            frame1, frame2 = (training / render / scene / f"frame_{n:04d}.png" for n in (number, number + 1))
            occlusion = training / "occlusions" / scene / f"{flow.stem}.png"
            yield PairFiles(
                f"{scene} {number}", frame1, frame2, flow, occlusion if occlusion.is_file() else None
            )

    return PairDataset(f"MPI-Sintel {render}", f"Sintel {render}", candidates(), training)


def kitti_2015(root: str | Path) -> PairDataset:
    """KITTI 2015 (Menze & Geiger, CVPR 2015), training split, occluded pixels included (``flow_occ``)."""
    return _kitti(Path(root), "KITTI-2015", "image_2", "flow_occ", "")


def kitti_2012(root: str | Path) -> PairDataset:
    """KITTI 2012 (Geiger et al., CVPR 2012), training split, colour, non-occluded pixels (``flow_noc``)."""
    return _kitti(Path(root), "KITTI-2012", "colored_0", "flow_noc", " (noc)")


def _kitti(root: Path, title: str, images: str, truth: str, suffix: str) -> PairDataset:
    training = root / "training"

    def candidates() -> Iterable[PairFiles]:
        for flow in sorted((training / truth).glob("*_10.png")):
            scene = flow.stem.removesuffix("_10")
            frame1, frame2 = (training / images / f"{scene}_{n}.png" for n in (10, 11))
            yield PairFiles(scene + suffix, frame1, frame2, flow)

    return PairDataset(title, "KITTI", candidates(), training)


def middlebury(root: str | Path) -> PairDataset:
    """Middlebury (Baker et al., IJCV 2011), "other" data with public ground truth."""
    root = Path(root)

    def candidates() -> Iterable[PairFiles]:
        for flow in sorted(root.glob("other-gt-flow/*/flow10.flo")):
            frame1, frame2 = (root / "other-data" / flow.parent.name / f"frame{n}.png" for n in (10, 11))
            yield PairFiles(flow.parent.name, frame1, frame2, flow)

    return PairDataset("Middlebury", "Middlebury", candidates(), root)


def flying_chairs(root: str | Path) -> PairDataset:
    """FlyingChairs (Dosovitskiy et al., ICCV 2015), every pair under ``data/``."""
    data = Path(root) / "data"

    def candidates() -> Iterable[PairFiles]:
        for flow in sorted(data.glob("*_flow.flo")):
            stem = flow.stem.removesuffix("_flow")
            yield PairFiles(stem, data / f"{stem}_img1.ppm", data / f"{stem}_img2.ppm", flow)

    return PairDataset("FlyingChairs", "FlyingChairs", candidates(), data)


# A folder under a common root, and how to read what it stands for. The names are those of the official
# archives.
LAYOUTS: tuple[tuple[str, Callable[[Path], PairDataset]], ...] = (
    ("MPI-Sintel/training/clean", lambda root: sintel(root / "MPI-Sintel", "clean")),
    ("MPI-Sintel/training/final", lambda root: sintel(root / "MPI-Sintel", "final")),
    ("KITTI-2015", lambda root: kitti_2015(root / "KITTI-2015")),
    ("KITTI-2012", lambda root: kitti_2012(root / "KITTI-2012")),
    ("Middlebury", lambda root: middlebury(root / "Middlebury")),
    ("FlyingChairs_release", lambda root: flying_chairs(root / "FlyingChairs_release")),
)


def find_benchmarks(root: str | Path) -> list[PairDataset]:
    """The data sets that lie under ``root``, each in the folder that ``LAYOUTS`` names.

    Raises:
        DataError: ``root`` is not a folder, holds none of the data sets, or one of them without a single
        pair.
    """
    root = Path(root)
    expected = ", ".join(folder for folder, _ in LAYOUTS)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected one that holds data sets such as {expected}")
    found = [read(root) for folder, read in LAYOUTS if (root / folder).is_dir()]
    if not found:
        raise DataError(f"{root} holds no known data set: expected at least one of {expected}")
    return found


def _number(path: Path, pattern: str) -> int:
    match = re.fullmatch(pattern, path.stem)
    if match is None:
        raise DataError(
            f"{path} does not follow the layout of its data set: expected a number, as in frame_0001"
        )
    return int(match[1])


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
