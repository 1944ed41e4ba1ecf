"""KITTI's 16-bit PNG: red is 64 u + 32768, green 64 v + 32768, blue 1 where the flow is known.

Values are rounded to the nearest 1/64 px (truncation, as in much code, is off by up to a whole step).
"""

import struct
import zlib

import cv2
import numpy as np

from deqflow.io.formats.common import Flow, FlowFormat, Mask, check_compressed, check_size
from deqflow.io.images import decode

_STEPS = 64  # to a pixel
_ZERO = 2**15
_LARGEST = 2**16 - 1
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8sI4sIIBB")  # up to bit depth and color type
_RGB = 2


def _decode(data: bytes) -> tuple[Flow, Mask]:
    if not data.startswith(_SIGNATURE) or len(data) < _HEADER.size:
        raise ValueError("it is not a PNG file")
    *_, chunk, width, height, depth, color = _HEADER.unpack_from(data)
    if chunk != b"IHDR" or (depth, color) != (16, _RGB):
        raise ValueError("expected 16 bits in three channels")
    check_size(width, height)
    check_compressed(6 * width * height, len(data))
    _check_chunks(data)
    encoded = decode(data, cv2.IMREAD_UNCHANGED)
    # The shape is the header's, unless another chunk made something else of it (a palette, transparency).
    if encoded is None or encoded.shape != (height, width, 3) or encoded.dtype != np.uint16:
        raise ValueError("it cannot be decoded or is cut short")
    valid = encoded[..., 0] > 0  # OpenCV's order: blue holds the mask, green v, red u
    flow = (encoded[..., 2:0:-1].astype(np.float32) - _ZERO) / _STEPS
    return np.where(valid[..., None], flow, 0).astype(np.float32), valid


def _check_chunks(data: bytes) -> None:
    """Every chunk whole and with its checksum: libpng prints lines of its own, or fills what is missing."""
    place, kind = len(_SIGNATURE), b""
    while kind != b"IEND":
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        if len(data) < end + 4:
            raise ValueError("it is cut short")
        if zlib.crc32(memoryview(data)[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"it is damaged between the bytes {place} and {end + 4}")
        place = end + 4
    if place != len(data):
        raise ValueError(f"it has {len(data) - place} bytes after its end")


def _encode(flow: Flow, valid: Mask) -> bytes:
    image = np.zeros((*valid.shape, 3), np.uint16)
    image[..., 0] = valid
    steps = np.rint(flow.astype(np.float64) * _STEPS) + _ZERO
    image[..., 2:0:-1] = np.where(valid[..., None], np.clip(steps, 0, _LARGEST), 0)
    return bytes(cv2.imencode(".png", image)[1])


KITTI = FlowFormat(
    "kitti",
    ".png",
    "KITTI flow file",
    "KITTI, HD1K: 16 bits, 1/64 px, -512 to 511.98 px; beyond, clipped and counted in a warning",
    "blue is 0",
    _decode,
    _encode,
    limits=(-_ZERO / _STEPS, (_LARGEST - _ZERO) / _STEPS),
)
