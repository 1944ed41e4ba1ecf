"""Sizes of images and flow files by their first bytes, held against how long the files are.

Cheap enough for every file of a data set, as nothing is decoded: a file that passes can still hold damaged
values. Only flow formats without a header to speak of are read as a whole.
"""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deqflow.errors import DataError
from deqflow.extras import requires
from deqflow.io.flow_files import FLOW_FORMATS, read_flow
from deqflow.io.images import ORIENTATION

Size = tuple[int, int]

_PFM = re.compile(rb"P([Ff])\s+(\d{1,10})\s+(\d{1,10})\s+[-+0-9.eE]{1,32}[ \t]*\r?\n")
_PNM = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d{1,10})\s+(\d{1,10})\s+(\d{1,5})\s")
_HEADER_BYTES = 512
_TAIL_BYTES = 4096
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}  # the last chunk and its checksum; the end marker


def pixel_size(path: Path) -> Size:
    """Width and height that the header of an image or a flow file states.

    Raises:
        DataError: the file is missing, of no known kind, or not as long as its header says.
        FlowFileError: the same of a flow file that had to be read.
    """
    suffix = path.suffix.lower()
    if suffix in FLOW_FORMATS and suffix not in _READERS:
        flow, _ = read_flow(path)
        return flow.shape[1], flow.shape[0]
    read = _READERS.get(suffix, _image)
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            return read(file, length)
    except OSError as error:
        # Pillow's errors are OSErrors too, without a system's reason.
        raise DataError(f"{path}: {error.strerror or 'it is no image, or its header is damaged'}") from error
    except (ValueError, struct.error) as error:
        raise DataError(f"{path}: {error}") from error


def numpy_file(path: Path) -> NDArray[Any]:
    """The array of an ``.npy`` file, mapped into memory rather than read; nothing is unpickled.

    Raises:
        DataError: it is no such file, or not as long as its header says.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # the header is a Python literal, which can fail in nearly every way
        raise DataError(f"{path} is no NumPy array, or cut short: {error}") from error


def _flo(file: BinaryIO, length: int) -> Size:
    magic, width, height = struct.unpack("<4sii", file.read(12))
    if magic != b"PIEH":
        raise ValueError("it does not begin with the tag PIEH")
    return _whole(width, height, 12 + 8 * width * height, length)


def _pfm(file: BinaryIO, length: int) -> Size:
    header = _PFM.match(file.read(_HEADER_BYTES))
    if header is None:
        raise ValueError("it does not begin with PF, a size and a scale")
    width, height = int(header[2]), int(header[3])
    values = (3 if header[1] == b"F" else 1) * width * height
    return _whole(width, height, header.end() + 4 * values, length)


def _pnm(file: BinaryIO, length: int) -> Size:
    header = _PNM.match(file.read(_HEADER_BYTES))
    if header is None:
        raise ValueError("it does not begin with P5 or P6, a size and a largest value")
    width, height = int(header[2]), int(header[3])
    sample = (3 if header[1] == b"6" else 1) * (2 if int(header[4]) > 255 else 1)
    return _whole(width, height, header.end() + sample * width * height, length)


def _npy(file: BinaryIO, length: int) -> Size:
    return _of_shape(numpy_file(Path(file.name)).shape)


def _flo5(file: BinaryIO, length: int) -> Size:
    with requires("flo5", "a .flo5 file"):
        import h5py

    try:
        with h5py.File(file, "r") as content:
            if not isinstance(content.get("flow", getlink=True), h5py.HardLink):
                raise ValueError("it has no dataset 'flow' of its own")
            return _of_shape(content["flow"].shape)
    except ValueError:
        raise
    except Exception as error:  # HDF5's failures come as nearly every type there is
        raise ValueError(f"HDF5 cannot read it: {error}") from error


def _image(file: BinaryIO, length: int) -> Size:
    with Image.open(file) as image:
        size, kind = image.size, image.format or ""
        if "exif" in image.info and image.getexif().get(ORIENTATION, 1) > 4:
            size = size[1], size[0]
    end = _ENDS.get(kind)
    if end is not None:
        file.seek(max(0, length - _TAIL_BYTES))
        if end not in file.read():
            raise ValueError(f"it is a {kind} image of {size[0]}x{size[1]} pixels without its end")
    return size


def _of_shape(shape: tuple[int, ...]) -> Size:
    if len(shape) != 3 or shape[2] != 2:
        raise ValueError(f"it holds an array of shape {shape}, expected (H, W, 2)")
    return shape[1], shape[0]


def _whole(width: int, height: int, expected: int, length: int) -> Size:
    if width < 1 or height < 1 or length != expected:
        raise ValueError(f"it says {width}x{height} pixels, {expected} bytes, but has {length}")
    return width, height


_READERS: dict[str, Callable[[BinaryIO, int], Size]] = {
    ".flo": _flo,
    ".png": _image,
    ".pfm": _pfm,
    ".npy": _npy,
    ".flo5": _flo5,
    ".ppm": _pnm,
    ".pgm": _pnm,
}
