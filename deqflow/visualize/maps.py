"""Numbers per pixel as colors from dark to bright."""

import cv2
import numpy as np
from numpy.typing import NDArray

from deqflow.visualize.wheel import Flow, Image


def scalar_map(
    values: NDArray[np.floating], max_value: float, valid: NDArray[np.bool_] | None = None
) -> Image:
    """Color (H, W) numbers from dark violet (0) to bright yellow (``max_value`` and more).

    Black where ``valid``, bool (H, W), is false or the number is not finite; `color_bar` shows the colors.
    """
    known = np.isfinite(values) if valid is None else np.isfinite(values) & valid
    share = np.where(known, values, 0) / max(max_value, np.finfo(np.float32).tiny)
    level = (np.clip(share, 0, 1) * 255).astype(np.uint8)
    colored = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.where(known[..., None], colored, 0).astype(np.uint8)


def color_bar(width: int, height: int) -> Image:
    """Return the colors of `scalar_map` from 0 at the left to its largest value at the right."""
    return scalar_map(np.broadcast_to(np.linspace(0, 1, width), (height, width)), 1.0)


def error_map(
    flow: Flow, truth: Flow, valid: NDArray[np.bool_] | None = None, max_error: float = 5.0
) -> Image:
    """Color the end-point error from dark (none) to bright yellow (``max_error`` pixels and more).

    Black where ``valid``, bool (H, W), is false or either flow is not finite.
    """
    return scalar_map(np.hypot(*np.moveaxis(np.asarray(flow, np.float32) - truth, -1, 0)), max_error, valid)
