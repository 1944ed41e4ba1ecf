"""FlyingThings3D's ``.pfm``: portable float map of three channels, rows from the bottom up.

The header is ``PF``, width and height, and a scale whose sign tells the byte order (negative: little-endian)
and whose size says nothing about flow. Channels are u, v and nothing: the third is written as zero and not
looked at. NaN marks pixels of which the flow is unknown; the format itself has no word for them.
"""

import io
import re
from typing import BinaryIO

import numpy as np

from deqflow.io.formats.common import (
    Flow,
    FlowFormat,
    Mask,
    Size,
    check_length,
    check_size,
    finite_or_unknown,
    nan_where_unknown,
)

_HEADER = re.compile(rb"PF\s+(\d{1,10})\s+(\d{1,10})\s+([-+0-9.eE]{1,32})[ \t]*\r?\n")
_LONGEST_HEADER = 128


def _header(file: BinaryIO, length: int) -> re.Match[bytes]:
    head = file.read(_LONGEST_HEADER)
    if head.startswith(b"Pf"):
        raise ValueError("it has one channel, expected the three of a flow")
    header = _HEADER.match(head)
    if header is None:
        raise ValueError("it does not begin with PF, a size and a scale")
    width, height = int(header[1]), int(header[2])
    check_length(width, height, header.end() + 12 * width * height, length)
    return header


def _size(file: BinaryIO, length: int) -> Size:
    header = _header(file, length)
    return int(header[1]), int(header[2])


def _decode(data: bytes) -> tuple[Flow, Mask]:
    header = _header(io.BytesIO(data), len(data))
    width, height = int(header[1]), int(header[2])
    check_size(width, height)
    scale = float(header[3])
    if scale == 0 or not np.isfinite(scale):
        raise ValueError(f"its scale is {scale:g}, expected one whose sign tells the byte order")
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", offset=header.end())
    return finite_or_unknown(values.reshape(height, width, 3)[::-1, :, :2])


def _encode(flow: Flow, valid: Mask) -> bytes:
    height, width = valid.shape
    rows = np.zeros((height, width, 3), "<f4")
    rows[..., :2] = nan_where_unknown(flow, valid)
    return f"PF\n{width} {height}\n-1.0\n".encode() + rows[::-1].tobytes()


PFM = FlowFormat(
    "pfm",
    ".pfm",
    "portable float map",
    "FlyingThings3D: float32, exact",
    "NaN",
    _decode,
    _encode,
    _size,
)
