"""What the formats share: the record of one format, and the checks of sizes and values."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flow = NDArray[np.float32]
Mask = NDArray[np.bool_]

MOST_PIXELS = 2**27
"""16384x8192, a gigabyte of flow: what compressed files claim beyond this is refused."""

DEFLATE_LIMIT = 1032
"""zlib cannot compress further than this; a file that claims more is lying."""


@dataclass(frozen=True)
class FlowFormat:
    """How one kind of file is decoded from bytes and encoded to them.

    Attributes:
        description: what to call such a file in a message.
        decode: the file's bytes to flow, float32 (H, W, 2), zero where unknown, and validity, bool (H, W).
            ValueError says why it cannot.
        encode: the way back, of flow that is finite and zero where unknown. ValueError says why it cannot.
        limits: smallest and largest value in pixels that the format holds; None if it takes every float32.
        extra: the optional dependency of this package that brings the library for it.
    """

    description: str
    decode: Callable[[bytes], tuple[Flow, Mask]]
    encode: Callable[[Flow, Mask], bytes]
    limits: tuple[float, float] | None = None
    extra: str | None = None


def check_size(width: int, height: int) -> None:
    """Refuses sizes that no frame has.

    Raises:
        ValueError: a side below 1, or more than `MOST_PIXELS`.
    """
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise ValueError(f"it says {width}x{height} pixels")


def check_compressed(claimed: int, stored: int, limit: int = DEFLATE_LIMIT) -> None:
    """Refuses bytes that claim to unpack to more than compression can do.

    Raises:
        ValueError: ``claimed`` bytes do not fit ``stored`` bytes of a file.
    """
    if claimed > limit * stored:
        raise ValueError(f"it claims {claimed} bytes unpacked but has only {stored}")


def finite_or_unknown(values: NDArray[np.floating]) -> tuple[Flow, Mask]:
    """Flow from (H, W, 2) values of any float type in which NaN marks the pixels that are not known.

    Raises:
        ValueError: another shape, or infinite values.
    """
    if values.ndim != 3 or values.shape[2] != 2 or values.size == 0:
        raise ValueError(f"it holds an array of shape {values.shape}, expected (H, W, 2)")
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"it holds {values.dtype} values, expected floating point")
    with np.errstate(over="ignore"):
        flow = values.astype(np.float32)
    if np.isinf(flow).any():
        raise ValueError("it holds infinite values")
    valid = ~(np.isnan(flow[..., 0]) | np.isnan(flow[..., 1]))
    return np.where(valid[..., None], flow, np.float32(0)), valid


def nan_where_unknown(flow: Flow, valid: Mask) -> Flow:
    """The way back of `finite_or_unknown`."""
    return np.where(valid[..., None], flow, np.float32(np.nan))
