"""Spring's ``.flo5``: an HDF5 file whose dataset ``flow`` is (H, W, 2), NaN where the flow is invalid.

Written as the benchmark's own tools do, float32 with gzip. HDF5 can point to other files and describe arrays
that are nowhere stored; of all that only what holds a flow is read.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from deqflow.io.formats.common import (
    Flow,
    FlowFormat,
    Mask,
    Size,
    check_compressed,
    check_size,
    finite_or_unknown,
    nan_where_unknown,
    size_of_shape,
)

if TYPE_CHECKING:
    import h5py

_DATASET = "flow"
_GZIP_LEVEL = 5
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _size(file: BinaryIO, length: int) -> Size:
    with _opened(file) as content:
        return size_of_shape(content[_DATASET].shape)


@contextmanager
def _opened(file: BinaryIO) -> Iterator["h5py.File"]:
    """Return an HDF5 file that holds the flow itself; whatever is wrong with it is a ValueError."""
    import h5py

    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        raise ValueError("it is not an HDF5 file")
    file.seek(0)
    try:
        with h5py.File(file, "r") as content:
            # The link first: a soft or external one would be followed by opening the dataset.
            if not isinstance(content.get(_DATASET, getlink=True), h5py.HardLink):
                raise ValueError(f"it has no dataset {_DATASET!r} of its own")
            yield content
    except ValueError:
        raise
    except Exception as error:  # HDF5's failures come as nearly every type there is
        raise ValueError(f"HDF5 cannot read it ({error})") from error


def _decode(data: bytes) -> tuple[Flow, Mask]:
    with _opened(io.BytesIO(data)) as file:
        values = _read(file, len(data))
    # Unlike in other formats infinity is no mistake here: whatever is not finite is not ground truth.
    return finite_or_unknown(np.where(np.isfinite(values), values, values.dtype.type(np.nan)))


def _read(file: "h5py.File", stored: int) -> np.ndarray:
    """Return the dataset's values, once what it says of itself has been held against the file's size."""
    import h5py

    identifier = h5py.h5o.open(file.id, _DATASET.encode())
    if not isinstance(identifier, h5py.h5d.DatasetID):
        raise ValueError(f"{_DATASET!r} is not a dataset")
    plan = identifier.get_create_plist()
    layouts = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
    if plan.get_layout() not in layouts or plan.get_external_count() > 0:
        raise ValueError("its values lie in other files")
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    allowed = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
    if any(kind not in allowed for kind in filters) or len(set(filters)) < len(filters):
        raise ValueError("it is packed otherwise than by gzip")
    shape, dtype = identifier.shape, identifier.dtype
    if len(shape) != 3 or shape[2] != 2 or dtype.kind != "f":
        raise ValueError(f"{_DATASET!r} is {dtype} {shape}, expected floating point (H, W, 2)")
    check_size(shape[1], shape[0])
    check_compressed(
        int(np.prod(shape, dtype=object)) * dtype.itemsize, min(stored, identifier.get_storage_size())
    )
    if plan.get_layout() == h5py.h5d.CHUNKED:
        check_compressed(int(np.prod(plan.get_chunk(), dtype=object)) * dtype.itemsize, stored)
    values = np.empty(shape, dtype)
    identifier.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def _encode(flow: Flow, valid: Mask) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset(
            _DATASET,
            data=nan_where_unknown(flow, valid),
            compression="gzip",
            compression_opts=_GZIP_LEVEL,
        )
    return buffer.getvalue()


FLO5 = FlowFormat(
    "flo5",
    ".flo5",
    "Spring flow file",
    "Spring: HDF5, exact; needs `pip install 'deqflow[flo5]'`",
    "NaN; infinite when read",
    _decode,
    _encode,
    _size,
    extra="flo5",
)
