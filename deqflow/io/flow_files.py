"""Flow files by suffix: Middlebury ``.flo`` and KITTI's 16-bit ``.png``."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deqflow.errors import FlowFileError
from deqflow.io.files import replace_bytes
from deqflow.io.images import decode

Flow = NDArray[np.float32]
Mask = NDArray[np.bool_]

_FLO_MAGIC = b"PIEH"  # the float 202021.25, little-endian
_FLO_HEADER = 12
_UNKNOWN = 1e9  # Middlebury: components beyond this mean "unknown"
_KITTI_STEP = 64  # 1/64 px
_KITTI_ZERO = 2**15
_PNG_HEADER = 24
_DEFLATE_LIMIT = 1032  # zlib cannot compress further than this


@dataclass(frozen=True)
class FlowFormat:
    """How one kind of file is decoded from bytes and encoded to them; ValueError says why it cannot be."""

    description: str
    decode: Callable[[bytes], tuple[Flow, Mask]]
    encode: Callable[[Flow, Mask], bytes]


def read_flow(path: str | PathLike[str]) -> tuple[Flow, Mask]:
    """Reads a flow file in the format that its suffix names.

    Returns:
        Flow, float32 (H, W, 2), (u, v) in pixels, zero where unknown; and bool (H, W), true where known.

    Raises:
        FlowFileError: missing, of unknown format, truncated, or contradicting itself.
    """
    path = Path(path)
    flow_format = _format_of(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FlowFileError(f"cannot read the flow file {path}: {error.strerror or error}") from error
    try:
        return flow_format.decode(data)
    except ValueError as error:
        raise FlowFileError(f"{path} is not a usable {flow_format.description}: {error}") from error


def write_flow(path: str | PathLike[str], flow: Flow, valid: Mask | None = None) -> None:
    """Writes flow (H, W, 2) in the format that the suffix names, whole or not at all; replaces a file there.

    Args:
        path: ending in one of `FLOW_FORMATS`.
        flow: (u, v) in pixels, finite where valid.
        valid: bool (H, W), true where the flow is known; everywhere by default.

    Raises:
        FlowFileError: unknown suffix, wrong shape, NaN, or values that the format cannot hold (KITTI's ends
            at 512 px).
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    flow_format = _format_of(path)
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[2] != 2 or flow.size == 0:
        raise FlowFileError(f"cannot write {path}: flow has shape {flow.shape}, expected (H, W, 2)")
    known = np.ones(flow.shape[:2], bool) if valid is None else np.asarray(valid).astype(bool)
    if known.shape != flow.shape[:2]:
        raise FlowFileError(f"cannot write {path}: valid has shape {known.shape}, flow has {flow.shape}")
    if not np.isfinite(flow[known]).all():
        raise FlowFileError(f"cannot write {path}: the flow contains NaN or infinite values")
    try:
        data = flow_format.encode(np.where(known[..., None], flow, 0).astype(np.float32), known)
    except ValueError as error:
        raise FlowFileError(f"cannot write {path}: {error}") from error
    replace_bytes(path, data)


def _format_of(path: Path) -> FlowFormat:
    try:
        return FLOW_FORMATS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(FLOW_FORMATS)
        raise FlowFileError(f"{path} has no known flow format, expected a suffix among {known}") from None


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"it says {width}x{height} pixels")


def _decode_flo(data: bytes) -> tuple[Flow, Mask]:
    if not data.startswith(_FLO_MAGIC):
        raise ValueError("it does not begin with the tag PIEH")
    if len(data) < _FLO_HEADER:
        raise ValueError("it ends inside its header")
    width, height = (int(side) for side in np.frombuffer(data, "<i4", count=2, offset=4))
    _check_size(width, height)
    expected = _FLO_HEADER + 8 * width * height
    if len(data) != expected:
        raise ValueError(f"it says {width}x{height} pixels, {expected} bytes, but has {len(data)}")
    flow = np.frombuffer(data, "<f4", offset=_FLO_HEADER).reshape(height, width, 2)
    valid = (np.abs(flow) < _UNKNOWN).all(-1)  # false for NaN as well
    return np.where(valid[..., None], flow, 0).astype(np.float32), valid


def _encode_flo(flow: Flow, valid: Mask) -> bytes:
    if (np.abs(flow) >= _UNKNOWN).any():
        raise ValueError("values of 1e9 and more mean 'unknown' in .flo files")
    height, width = valid.shape
    header = _FLO_MAGIC + np.array([width, height], "<i4").tobytes()
    return header + np.where(valid[..., None], flow, 10 * _UNKNOWN).astype("<f4").tobytes()


def _decode_kitti(data: bytes) -> tuple[Flow, Mask]:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < _PNG_HEADER:
        raise ValueError("it is not a PNG file")
    width, height = (int(side) for side in np.frombuffer(data, ">u4", count=2, offset=16))
    _check_size(width, height)
    if 6 * width * height > _DEFLATE_LIMIT * len(data):
        raise ValueError(f"it says {width}x{height} pixels but has only {len(data)} bytes")
    encoded = decode(data, cv2.IMREAD_UNCHANGED)
    if encoded is None:
        raise ValueError("it cannot be decoded or is cut short")
    if encoded.dtype != np.uint16 or encoded.ndim != 3 or encoded.shape[2] != 3:
        raise ValueError(f"expected 16 bits in three channels, it has {encoded.dtype} {encoded.shape}")
    valid = encoded[..., 0] > 0  # OpenCV's order: blue holds the mask, green v, red u
    flow = (encoded[..., 2:0:-1].astype(np.float32) - _KITTI_ZERO) / _KITTI_STEP
    return np.where(valid[..., None], flow, 0).astype(np.float32), valid


def _encode_kitti(flow: Flow, valid: Mask) -> bytes:
    encoded = np.rint(flow.astype(np.float64) * _KITTI_STEP) + _KITTI_ZERO
    if encoded.min() < 0 or encoded.max() > np.iinfo(np.uint16).max:
        largest = float(np.abs(flow).max())
        raise ValueError(f"KITTI's format holds -512 to 511.98 px, the flow reaches {largest:.1f}; use .flo")
    image = np.zeros((*valid.shape, 3), np.uint16)
    image[..., 0] = valid
    image[..., 2:0:-1] = np.where(valid[..., None], encoded, 0)
    return bytes(cv2.imencode(".png", image)[1])


FLOW_FORMATS: dict[str, FlowFormat] = {
    ".flo": FlowFormat("Middlebury flow file", _decode_flo, _encode_flo),
    ".png": FlowFormat("KITTI flow file", _decode_kitti, _encode_kitti),
}
"""The formats by suffix; a new one is one entry."""
