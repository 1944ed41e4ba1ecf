"""A pair of frames on disk, and a data set as a sequence of them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from deqflow.data.sample import Sample
from deqflow.errors import DataError
from deqflow.io.files import visible
from deqflow.io.flow_files import read_flow
from deqflow.io.images import read_image, read_mask


class Truth(NamedTuple):
    """What is known of a pair's motion; the fields are those of `Sample`."""

    flow: NDArray[np.float32]
    valid: NDArray[np.bool_]
    subpixels: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PairFiles:
    """Where one pair lies. Nothing is read before it is asked for.

    Attributes:
        name: what to call the pair in a message or a table.
        frame1: image file.
        frame2: image file.
        flow: flow file from ``frame1`` to ``frame2``; None where the benchmark keeps it to itself.
        occlusion: grayscale mask, bright where the point is hidden in frame 2.
        sequence: what the frames were taken from.
        index: place in the sequence: a pair whose index is one higher starts with this pair's second frame.
            Pairs that run backward in time count down from zero, so that this holds for them as well.
        noc: flow file that is valid where the point is visible in frame 2 (KITTI's ``flow_noc``).
        objects: grayscale object map, above 0 on moving foreground objects (KITTI's ``obj_map``).
        invalid: grayscale mask, bright where the flow is unreliable (Sintel's ``invalid``).
        known: grayscale mask, bright where the flow is known, if the flow file does not tell.
    """

    name: str
    frame1: Path
    frame2: Path
    flow: Path | None
    occlusion: Path | None = None
    sequence: str = ""
    index: int = 0
    noc: Path | None = None
    objects: Path | None = None
    invalid: Path | None = None
    known: Path | None = None

    truth_scale: ClassVar[int] = 1
    """Values of the flow file per side of a pixel of the frames."""

    def missing(self) -> Path | None:
        """Return the first of frames and flow that is not there; None if all are. Masks may be missing."""
        needed = (self.frame1, self.frame2, self.flow)
        return next((path for path in needed if path is not None and not path.is_file()), None)

    def read_frames(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read both frames, uint8 RGB (H, W, 3).

        Raises:
            DataError: they are not of one size.
            ImageError: one cannot be read.
        """
        frame1, frame2 = read_image(self.frame1), read_image(self.frame2)
        self._check_size(self.frame2, frame2, frame1)
        return frame1, frame2

    def read_truth(self) -> Truth:
        """Read the flow alone.

        Raises:
            DataError: the pair has no ground truth.
            FlowFileError: it cannot be read.
        """
        if self.flow is None:
            raise DataError(
                f"{self.frame1} belongs to a test split, whose ground truth is not published: "
                "expected a pair with a flow file"
            )
        return Truth(*read_flow(self.flow))

    def read(self) -> Sample:
        """Read the pair.

        Raises:
            DataError: frames, flow and masks are not of one size, or there is no ground truth.
            DeqflowError: a file cannot be read.
        """
        flow, valid, subpixels = self.read_truth()
        frame1, frame2 = self.read_frames()
        assert self.flow is not None
        self._check_size(self.flow, flow, frame1)
        known = self._read_mask(self.known, frame1)
        noc = None
        if self.noc is not None:
            noc = read_flow(self.noc)[1]
            self._check_size(self.noc, noc, frame1)
        return Sample(
            frame1,
            frame2,
            flow,
            valid if known is None else valid & known,
            self._read_mask(self.occlusion, frame1),
            self.name,
            noc,
            None if self.objects is None else _ids(self._read_gray(self.objects, frame1)),
            self.sequence,
            self.index,
            self._read_mask(self.invalid, frame1),
            subpixels,
        )

    def _read_mask(self, path: Path | None, frame: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Return a mask of whatever two values: on above half of its largest, which is 1 as often as 255."""
        if path is None:
            return None
        gray = self._read_gray(path, frame)
        return np.asarray(gray > gray.max() / 2)

    def _read_gray(self, path: Path, frame: NDArray[np.uint8]) -> NDArray[Any]:
        gray = read_mask(path)
        self._check_size(path, gray, frame)
        return gray

    def _check_size(self, path: Path, array: NDArray[Any], frame: NDArray[np.uint8]) -> None:
        if array.shape[:2] != frame.shape[:2]:
            raise DataError(
                f"{path} is {size_text(array)} pixels, but {self.frame1} is {size_text(frame)}: "
                "frames and ground truth of a pair must be of one size"
            )


Averaging = Literal["images", "pixels"]


@dataclass(frozen=True)
class Convention:
    """How the published figures of a benchmark are computed.

    Attributes:
        averaging: of the end-point error: each image first and then over images, or all pixels together.
        centered_padding: share the padding of frames between opposite sides; else all rows go below.
    """

    averaging: Averaging = "images"
    centered_padding: bool = True


_USUAL = Convention()


class NoPairsError(DataError):
    """A folder in which no pair of a data set is complete."""


class PairDataset(Sequence[Sample]):
    """The pairs of one data set, or of one rendering pass of it.

    Attributes:
        title: the data set, such as "MPI-Sintel final".
        group: the row of a table that its pairs are averaged in, such as "Sintel final".
        convention: how its published figures are computed.
        files: where each pair lies, in the order given.
        incomplete: pairs of which a file is missing; they are not part of the data set.

    Raises:
        NoPairsError: not one of the candidates is complete.
    """

    def __init__(
        self,
        title: str,
        group: str,
        candidates: Iterable[PairFiles],
        root: Path,
        convention: Convention = _USUAL,
    ) -> None:
        self.title, self.group, self.convention = title, group, convention
        self.files: list[PairFiles] = []
        self.incomplete: list[PairFiles] = []
        for pair in candidates:
            (self.files if pair.missing() is None else self.incomplete).append(pair)
        if not self.files:
            of = "" if title == root.resolve().name else f" of {title}"
            raise NoPairsError(
                f"{root} holds no complete pair{of}: two frames, and their flow where it is published"
                if not self.incomplete
                else f"{root} holds no complete pair{of}: {self.incomplete[0].missing()} is missing"
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


def variants(
    candidates: Iterable[tuple[str, str, Iterable[PairFiles]]], root: Path, convention: Convention = _USUAL
) -> list[PairDataset]:
    """Return a data set for each (title, group, pairs) that is there, such as rendering passes or cameras.

    Raises:
        NoPairsError: none of them is.
    """
    found: list[PairDataset] = []
    failure: NoPairsError | None = None
    for title, group, pairs in candidates:
        try:
            found.append(PairDataset(title, group, pairs, root, convention))
        except NoPairsError as error:
            failure = failure or error
    if failure is not None and not found:
        raise failure
    return found


def existing(path: Path) -> Path | None:
    """Return the path of an optional file, None if it is not there."""
    return path if path.is_file() else None


def numbered(paths: Iterable[Path], pattern: str) -> dict[int, Path]:
    """Files by the number that ``pattern`` finds in their stems, in that order."""
    return dict(sorted((number_in(path, pattern), path) for path in paths))


def number_in(path: Path, pattern: str) -> int:
    """Return the number that ``pattern`` finds in a file's stem.

    Raises:
        DataError: the name does not follow the layout.
    """
    match = re.fullmatch(pattern, path.stem)
    if match is None:
        raise DataError(
            f"{path} does not follow the layout of its data set: expected a name that matches {pattern}"
        )
    return int(match[1])


def folders(root: Path) -> list[Path]:
    """Return the folders in ``root``, sorted; none if it does not exist."""
    return [path for path in visible(root) if path.is_dir()]


def _ids(gray: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers of objects as bytes; those beyond a byte's range share one."""
    return np.minimum(gray, 255).astype(np.uint8)


def size_text(array: NDArray[Any]) -> str:
    """Width and height of an image array for a message."""
    return f"{array.shape[1]}x{array.shape[0]}"
