"""Numbers of a whole clip in one HDF5 file: arrays that grow by a pair at a time, stored in chunks."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from deqflow.extras import requires

CLIP_SUFFIXES = (".h5", ".hdf5")

_GZIP_LEVEL = 1  # what it takes beyond that gains little on noisy floating-point numbers


def check_clip_library(option: str) -> None:
    """Raise MissingExtraError, named after an option, unless the library for HDF5 is installed."""
    with requires("flo5", option):
        import h5py  # noqa: F401


class ClipFile:
    """Writes an HDF5 file in which dataset ``name`` holds the arrays ``name`` of all pairs, (pairs, ...).

    A chunk is the array of one pair, packed by gzip, which all readers of HDF5 know. A context manager that
    closes the file, however it ends.
    """

    def __init__(self, path: Path, attributes: Mapping[str, str]) -> None:
        """Create the file, with ``attributes`` that say what is in it."""
        import h5py

        self._file = h5py.File(path, "w")
        self._file.attrs.update(attributes)

    def add(self, arrays: Mapping[str, NDArray[np.generic] | float]) -> None:
        """Append a pair: the same names and shapes each time."""
        for name, array in arrays.items():
            value = np.asarray(array)
            if name not in self._file:
                packing = {"compression": "gzip", "compression_opts": _GZIP_LEVEL, "shuffle": True}
                self._file.create_dataset(
                    name,
                    (0, *value.shape),
                    value.dtype,
                    maxshape=(None, *value.shape),
                    chunks=(1, *value.shape) if value.ndim else (256,),
                    **(packing if value.ndim else {}),
                )
            dataset = self._file[name]
            dataset.resize(len(dataset) + 1, axis=0)
            dataset[-1] = value

    def extend(self, path: Path) -> None:
        """Append all pairs of another file of this kind, a pair at a time."""
        import h5py

        with h5py.File(path, "r") as other:
            names: list[str] = []
            other.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
            for index in range(len(other[names[0]]) if names else 0):
                self.add({name: other[name][index] for name in names})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
