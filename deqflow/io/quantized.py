"""Flow in 8 bits, as two-stream networks for action recognition read it (Carreira, Zisserman, CVPR 2017)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqflow.errors import ConfigError

BOUND = 20.0
"""Length in pixels, either way, that such networks are trained with."""


def quantize_flow(flow: NDArray[np.floating[Any]], bound: float = BOUND) -> NDArray[np.uint8]:
    """Return flow as 8 bits for each of u and v: -bound is 0, bound is 255, what is beyond is clipped.

    Args:
        flow: of any shape, in pixels, finite.
        bound: in pixels.

    Raises:
        ConfigError: a bound that is not positive.
    """
    if not bound > 0:
        raise ConfigError(f"bound must be positive, got {bound:g}")
    return np.rint(flow.clip(-bound, bound) * (127.5 / bound) + 127.5).astype(np.uint8)


def dequantize_flow(codes: NDArray[np.uint8], bound: float = BOUND) -> NDArray[np.float32]:
    """Return what `quantize_flow` was given, where it is within the bound, to bound / 255 pixels.

    Args:
        codes: of any shape.
        bound: in pixels, the same.
    """
    return (codes.astype(np.float32) - np.float32(127.5)) * np.float32(bound / 127.5)
