"""Middlebury's ``.flo``: the tag PIEH, width and height as int32, then (u, v) as float32, all little-endian.

A component beyond 1e9 or NaN means that the flow there is unknown, as in the benchmark's own flowIO.
"""

import io
from typing import BinaryIO

import numpy as np

from deqflow.io.formats.common import Flow, FlowFormat, Mask, Size, check_length, check_size

_MAGIC = b"PIEH"  # the float 202021.25
_HEADER = 12
_UNKNOWN = 1e9


def _size(file: BinaryIO, length: int) -> Size:
    header = file.read(_HEADER)
    if not header.startswith(_MAGIC):
        raise ValueError("it does not begin with the tag PIEH")
    if len(header) < _HEADER:
        raise ValueError("it ends inside its header")
    width, height = (int(side) for side in np.frombuffer(header, "<i4", count=2, offset=4))
    check_length(width, height, _HEADER + 8 * width * height, length)
    return width, height


def _decode(data: bytes) -> tuple[Flow, Mask]:
    width, height = _size(io.BytesIO(data), len(data))
    check_size(width, height)
    flow = np.frombuffer(data, "<f4", offset=_HEADER).reshape(height, width, 2)
    valid = (np.abs(flow) <= _UNKNOWN).all(-1)  # false for NaN as well
    return np.where(valid[..., None], flow, 0).astype(np.float32), valid


def _encode(flow: Flow, valid: Mask) -> bytes:
    if (np.abs(flow) > _UNKNOWN).any():
        raise ValueError("values above 1e9 mean 'unknown' in .flo files")
    height, width = valid.shape
    header = _MAGIC + np.array([width, height], "<i4").tobytes()
    return header + np.where(valid[..., None], flow, 10 * _UNKNOWN).astype("<f4").tobytes()


FLO = FlowFormat(
    "flo",
    ".flo",
    "Middlebury flow file",
    "Middlebury, Sintel, FlyingChairs: float32, exact",
    "1e10; above 1e9 or NaN when read",
    _decode,
    _encode,
    _size,
)
