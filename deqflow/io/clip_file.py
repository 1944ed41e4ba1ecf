"""Numbers of a whole clip in one HDF5 file: arrays that grow by a pair at a time, stored in chunks."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqflow.extras import requires
from deqflow.io.files import Closing

CLIP_SUFFIXES = (".h5", ".hdf5")

_GZIP_LEVEL = 1  # what it takes beyond that gains little on noisy floating-point numbers


def check_clip_library(option: str) -> None:
    """Raise MissingExtraError, named after an option, unless the library for HDF5 is installed."""
    with requires("flo5", option):
        import h5py  # noqa: F401


class _Target(io.FileIO):
    """A file that keeps its first failure and goes on as if it were written.

    HDF5 cannot end a file that fails: it would keep it open and complain of every object in it.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0

    def flush(self) -> None:
        """Do nothing: nothing waits here."""


class ClipFile(Closing):
    """Writes an HDF5 file in which dataset ``name`` holds the arrays ``name`` of all pairs, (pairs, ...).

    A chunk is the array of one pair, packed by gzip, which all readers of HDF5 know. A context manager that
    closes the file, however it ends.
    """

    def __init__(self, path: Path, attributes: Mapping[str, str]) -> None:
        """Create the file, with ``attributes`` that say what is in it."""
        import h5py

        self._path, self._target = path, _Target(path, "w+")
        self._file = h5py.File(self._target, "w")
        self._file.attrs.update(attributes)

    def add(self, arrays: Mapping[str, NDArray[np.generic] | float]) -> None:
        """Append a pair: the same names and shapes each time.

        Raises:
            OSError: the file cannot be written on.
        """
        with self._writing():
            self._add(arrays)

    def _add(self, arrays: Mapping[str, NDArray[np.generic] | float]) -> None:
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

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say in the terms of files why HDF5 could not write."""
        try:
            yield
        except Exception:  # HDF5's failures come as nearly every type there is
            if self._target.error is None:
                raise
        if self._target.error is not None:
            error = self._target.error
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: it cannot be written.
        """
        with self._writing():
            self._file.close()
            self._target.close()
