"""Middlebury's ``.flo``: the tag PIEH, width and height as int32, then (u, v) as float32, all little-endian.

A component beyond 1e9 or NaN means that the flow there is unknown, as in the benchmark's own flowIO.
"""

import numpy as np

from deqflow.io.formats.common import Flow, FlowFormat, Mask, check_size

_MAGIC = b"PIEH"  # the float 202021.25
_HEADER = 12
_UNKNOWN = 1e9


def _decode(data: bytes) -> tuple[Flow, Mask]:
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin with the tag PIEH")
    if len(data) < _HEADER:
        raise ValueError("it ends inside its header")
    width, height = (int(side) for side in np.frombuffer(data, "<i4", count=2, offset=4))
    expected = _HEADER + 8 * width * height
    if width < 1 or height < 1 or len(data) != expected:
        raise ValueError(f"it says {width}x{height} pixels, {expected} bytes, but has {len(data)}")
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


FLO = FlowFormat("Middlebury flow file", _decode, _encode)
