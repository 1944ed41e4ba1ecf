"""The one record that every data set yields."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    """

    frame1: NDArray[np.uint8]
    frame2: NDArray[np.uint8]
    flow: NDArray[np.float32]
    valid: NDArray[np.bool_]
    occlusion: NDArray[np.bool_] | None = None
    name: str = ""
