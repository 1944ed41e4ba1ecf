"""NumPy's own files: ``.npy`` with an array (H, W, 2), ``.npz`` with ``flow`` and, if need be, ``valid``.

In ``.npy`` NaN marks pixels of which the flow is unknown, as it does in ``.npz`` without ``valid``, which may
be of any number type and is above 0 where the flow is known. Nothing is ever unpickled.
"""

import io
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from deqflow.io.formats.common import (
    MOST_PIXELS,
    Flow,
    FlowFormat,
    Mask,
    Size,
    check_compressed,
    finite_or_unknown,
    nan_where_unknown,
    size_of_shape,
)

_LARGEST_MEMBER = 2**12 + 16 * MOST_PIXELS  # a header, and (u, v) in the largest type
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def _decode_npy(data: bytes) -> tuple[Flow, Mask]:
    return finite_or_unknown(_array(data))


def _encode_npy(flow: Flow, valid: Mask) -> bytes:
    return npy_bytes(nan_where_unknown(flow, valid))


def _decode_npz(data: bytes) -> tuple[Flow, Mask]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if names.count("flow.npy") != 1 or names.count("valid.npy") > 1:
                raise ValueError("expected one member 'flow' and at most one 'valid'")
            flow = _array(_member(archive, "flow.npy", len(data)))
            valid = _array(_member(archive, "valid.npy", len(data))) > 0 if "valid.npy" in names else None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is no whole zip archive ({error})") from error
    if valid is None:
        return finite_or_unknown(flow)
    if valid.shape != flow.shape[:2]:
        raise ValueError(f"'valid' has shape {valid.shape}, expected {flow.shape[:2]}")
    known_flow, finite = finite_or_unknown(flow)
    if (valid & ~finite).any():
        raise ValueError("its flow is NaN at pixels that 'valid' says are known")
    return np.where(valid[..., None], known_flow, np.float32(0)), valid


def _encode_npz(flow: Flow, valid: Mask) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, flow=flow, valid=valid)
    return buffer.getvalue()


def _member(archive: zipfile.ZipFile, name: str, stored: int) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed in a way that NumPy does not write")
    check_compressed(info.file_size, stored)
    if info.file_size > _LARGEST_MEMBER:
        raise ValueError(f"{name} claims {info.file_size} bytes")
    return archive.read(info)  # no more than `file_size`, whatever the stream would unpack to


def _size(file: BinaryIO, length: int) -> Size:
    return size_of_shape(_header(file, length)[0])


def _array(data: bytes) -> NDArray[Any]:
    """Return a view of the array in an ``.npy`` file's bytes; np.load would allocate by the header alone."""
    stream = io.BytesIO(data)
    shape, fortran_order, dtype = _header(stream, len(data))
    array = np.frombuffer(data, dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if fortran_order else "C")


def _header(stream: BinaryIO, length: int) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Shape, order and type of an ``.npy`` file of so many bytes; leaves the stream where values begin."""
    try:
        read_header = _HEADER_READERS[npy.read_magic(stream)]
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:  # the header is a Python literal, and NumPy lets every way it can fail through
        raise ValueError("it is no NumPy array") from error
    if dtype.hasobject or dtype.kind not in "fbiu" or any(side < 0 for side in shape):
        raise ValueError(f"it holds {dtype} {shape}, expected integers or floating point")
    expected = stream.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
    if length != expected:
        raise ValueError(f"it says {dtype} {shape}, {expected} bytes, but has {length}")
    return shape, fortran_order, dtype


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return an array as a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


NPY = FlowFormat(
    "npy",
    ".npy",
    "NumPy flow file",
    "NumPy: float32 (height, width, 2), exact",
    "NaN",
    _decode_npy,
    _encode_npy,
    _size,
)
NPZ = FlowFormat(
    "npz",
    ".npz",
    "NumPy flow archive",
    "NumPy: the same as `flow`, and `valid`, packed",
    "`valid` is false",
    _decode_npz,
    _encode_npz,
)
