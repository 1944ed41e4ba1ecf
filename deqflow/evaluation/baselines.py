"""Methods to compare with that need no model, nor PyTorch."""

import cv2
import numpy as np
from numpy.typing import NDArray


def dis_flow(frame1: NDArray[np.uint8], frame2: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Estimate by dense inverse search (Kroeger et al., ECCV 2016): OpenCV, medium preset, on grayscale.

    Args:
        frame1: uint8 RGB (H, W, 3).
        frame2: uint8 RGB (H, W, 3).

    Returns:
        float32 (H, W, 2) in pixels.
    """
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (frame1, frame2)]
    # OpenCV 5 keeps the class at the top level and the old factory beside it; `create` is in 4.x too.
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # A plain array, because OpenCV's own subclass of it would travel on into the caller's results.
    return np.asarray(estimator.calc(gray[0], gray[1], None), dtype=np.float32)  # type: ignore[call-overload]


def zero_flow(frame1: NDArray[np.uint8], frame2: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return no motion: float32 zeros (H, W, 2). Its error is the mean length of the true motion."""
    return np.zeros((*frame1.shape[:2], 2), np.float32)


BASELINES = {"dis": dis_flow, "zero": zero_flow}
