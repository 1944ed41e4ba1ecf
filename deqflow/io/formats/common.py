"""What the formats share: the record of one format, and the checks of sizes and values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Flow = NDArray[np.float32]
Mask = NDArray[np.bool_]
Size = tuple[int, int]

MOST_PIXELS = 2**27
"""16384x8192, a gigabyte of flow: what compressed files claim beyond this is refused."""

DEFLATE_LIMIT = 1032
"""zlib cannot compress further than this; a file that claims more is lying."""


@dataclass(frozen=True)
class FlowFormat:
    """How one kind of file is decoded from bytes and encoded to them.

    Attributes:
        name: what ``--formats`` calls it.
        suffix: of the files, lower case.
        description: what to call such a file in a message.
        holds: who uses it and how exact it is, for the table of the formats.
        unknown: how a pixel of which the flow is unknown is told, for the same.
        decode: the file's bytes to flow, float32 (H, W, 2), zero where unknown, and validity, bool (H, W).
            ValueError says why it cannot.
        encode: the way back, of flow that is finite and zero where unknown. ValueError says why it cannot.
        size: width and height by the header of an open file, held against its length in bytes, without
            decoding; ValueError says what is wrong. None where decoding alone can tell.
        limits: smallest and largest value in pixels that the format holds; None if it takes every float32.
        extra: the optional dependency of this package that brings the library for it.
    """

    name: str
    suffix: str
    description: str
    holds: str
    unknown: str
    decode: Callable[[bytes], tuple[Flow, Mask]]
    encode: Callable[[Flow, Mask], bytes]
    size: Callable[[BinaryIO, int], Size] | None = None
    limits: tuple[float, float] | None = None
    extra: str | None = None


def check_size(width: int, height: int) -> None:
    """Refuses sizes that no frame has.

    Raises:
        ValueError: a side below 1, or more than `MOST_PIXELS`.
    """
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise ValueError(f"it says {width}x{height} pixels")


def check_length(width: int, height: int, expected: int, length: int) -> None:
    """Refuse a header whose size does not fit the length of its file.

    Raises:
        ValueError: a side below 1, or ``length`` bytes are not the ``expected`` ones.
    """
    if width < 1 or height < 1 or length != expected:
        raise ValueError(f"it says {width}x{height} pixels, {expected} bytes, but has {length}")


def check_compressed(claimed: int, stored: int, limit: int = DEFLATE_LIMIT) -> None:
    """Refuses bytes that claim to unpack to more than compression can do.

    Raises:
        ValueError: ``claimed`` bytes do not fit ``stored`` bytes of a file.
    """
    if claimed > limit * stored:
        raise ValueError(f"it claims {claimed} bytes unpacked but has only {stored}")


def size_of_shape(shape: tuple[int, ...]) -> Size:
    """Return width and height of a flow array.

    Raises:
        ValueError: it is none of shape (H, W, 2).
    """
    if len(shape) != 3 or shape[2] != 2 or 0 in shape:
        raise ValueError(f"it holds an array of shape {shape}, expected (H, W, 2)")
    return shape[1], shape[0]


def finite_or_unknown(values: NDArray[np.floating]) -> tuple[Flow, Mask]:
    """Flow from (H, W, 2) values of any float type in which NaN marks the pixels that are not known.

    Raises:
        ValueError: another shape, or infinite values.
    """
    size_of_shape(values.shape)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"it holds {values.dtype} values, expected floating point")
    with np.errstate(over="ignore"):
        flow = values.astype(np.float32)
    if np.isinf(flow).any():
        raise ValueError("it holds infinite values")
    valid = ~(np.isnan(flow[..., 0]) | np.isnan(flow[..., 1]))
    return np.where(valid[..., None], flow, np.float32(0)), valid


def nan_where_unknown(flow: Flow, valid: Mask) -> Flow:
    """Undo `finite_or_unknown`."""
    return np.where(valid[..., None], flow, np.float32(np.nan))
