"""Sizes of images and flow files by their first bytes, held against how long the files are.

Cheap enough for every file of a data set, as nothing is decoded: a file that passes can still hold damaged
values. Only flow formats without a header to speak of are read as a whole.
"""

import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deqflow.errors import DataError
from deqflow.extras import requires
from deqflow.io.flow_files import FLOW_FORMATS, read_flow
from deqflow.io.formats.common import Size, check_length
from deqflow.io.images import IMAGE_SUFFIXES, ORIENTATION

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
    form = None if suffix in IMAGE_SUFFIXES else FLOW_FORMATS.get(suffix)
    if form is not None and form.size is None:
        flow, _ = read_flow(path)
        return flow.shape[1], flow.shape[0]
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            if form is None or form.size is None:
                return _pnm(file, length) if suffix in (".ppm", ".pgm") else _image(file, length)
            with requires(form.extra or "", f"a {suffix} file"):
                return form.size(file, length)
    except OSError as error:
        # Pillow's errors are OSErrors too, without a system's reason.
        raise DataError(f"{path}: {error.strerror or 'it is no image, or its header is damaged'}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def numpy_file(path: Path) -> NDArray[Any]:
    """Return the array of an ``.npy`` file, mapped into memory rather than read; nothing is unpickled.

    Raises:
        DataError: it is no such file, or not as long as its header says.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # the header is a Python literal, which can fail in nearly every way
        raise DataError(f"{path} is no NumPy array, or cut short: {error}") from error


def _pnm(file: BinaryIO, length: int) -> Size:
    header = _PNM.match(file.read(_HEADER_BYTES))
    if header is None:
        raise ValueError("it does not begin with P5 or P6, a size and a largest value")
    width, height = int(header[2]), int(header[3])
    sample = (3 if header[1] == b"6" else 1) * (2 if int(header[4]) > 255 else 1)
    check_length(width, height, header.end() + sample * width * height, length)
    return width, height


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
