"""The one record that every data set yields."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deqflow.errors import DataError, DataWarning


@dataclass(frozen=True)
class Sample:
    """Two frames and the motion from the first to the second.

    Attributes:
        frame1: uint8 RGB (H, W, 3).
        frame2: uint8 RGB (H, W, 3).
        flow: float32 (H, W, 2), u right and v down, in pixels.
        valid: bool (H, W), true where ``flow`` is known.
        occlusion: bool (H, W), true where the point is not visible in ``frame2``; None if unknown.
        name: what to call the sample in a message or a table.
        noc: bool (H, W), true where ``flow`` is known and the point is visible in ``frame2``, as KITTI's
            ``flow_noc`` says; None if unknown.
        objects: uint8 (H, W), above 0 on moving foreground objects (KITTI's object map); None if unknown.
        sequence: what the frames were taken from; consecutive ``index`` of one sequence follow each other.
        index: number of the first frame in its sequence; of pairs that run backward in time, its negative.
        invalid: bool (H, W), true where Sintel's own mask calls the flow unreliable. Sintel's published EPE
            counts these pixels, so they are part of ``valid``; None if unknown.
        subpixels: float32 (4, H, W, 2), the four values of ground truth of twice the frames' resolution that
            lie in each pixel, ``flow`` being the first of them; Spring takes the smallest error over the
            four. None where ground truth has the frames' resolution.
        backward: float32 (H, W, 2), flow from the second frame to the first; None if unknown.
        backward_valid: bool (H, W), true where ``backward`` is known; None if unknown.
        before: uint8 RGB (H, W, 3), the frame before ``frame1``; None if unknown.
    """

    frame1: NDArray[np.uint8]
    frame2: NDArray[np.uint8]
    flow: NDArray[np.float32]
    valid: NDArray[np.bool_]
    occlusion: NDArray[np.bool_] | None = None
    name: str = ""
    noc: NDArray[np.bool_] | None = None
    objects: NDArray[np.uint8] | None = None
    sequence: str = ""
    index: int = 0
    invalid: NDArray[np.bool_] | None = None
    subpixels: NDArray[np.float32] | None = None
    backward: NDArray[np.float32] | None = None
    backward_valid: NDArray[np.bool_] | None = None
    before: NDArray[np.uint8] | None = None

    @property
    def known(self) -> bool:
        """Whether the flow of any pixel is known, so that an error can be given at all."""
        return bool(self.valid.any())


def known_only(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Leave out samples of which no pixel's flow is known, with a `DataWarning` that names each.

    Raises:
        DataError: at the end, if none is left of which anything is known.
    """
    found, left_out = False, 0
    for sample in samples:
        if sample.known:
            found = True
            yield sample
        else:
            left_out += 1
            warn_unknown(sample.name)
    if left_out and not found:
        raise DataError(f"the flow of no pixel is known in any of {left_out} pairs: expected ground truth")


def warn_unknown(name: str) -> None:
    """Say by a `DataWarning` that a pair is left out because nothing is known of its flow."""
    warnings.warn(f"{name}: the flow of no pixel is known; the pair is left out", DataWarning, stacklevel=3)
