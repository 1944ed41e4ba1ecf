"""One pair's result, and the table of them on disk.

``samples.csv`` holds a row for each pair and method: what it is, how the solver did, the usual figures for
people to read, and then the counts and sums that all figures follow from (``all.pixels``, ``matched.error``,
...). Floats are written so that they read back to the last digit: a total over the rows is the total over the
data set. CSV and nothing else, because a row is safe on disk as soon as it is written, which a column format
(Parquet) cannot do, and because every tool reads it.
"""

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from deqflow.errors import DataError
from deqflow.evaluation.metrics import OUTLIER_THRESHOLDS, REGIONS, RegionErrors
from deqflow.evaluation.totals import metric_name, outlier_name, pair_metrics

SAMPLES = "samples.csv"
"""The name of the table in a folder of results."""

_OUTLIERS = [outlier_name(threshold) for threshold in OUTLIER_THRESHOLDS]
_IDENTITY = ["method", "dataset", "group", "name", "sequence", "index", "width", "height"]
_SOLVE = ["seconds", "steps", "converged", "residual", "residual_peak", "reused"]
_FIGURES = [
    *(metric_name(kind, "all") for kind in ("epe", *_OUTLIERS, "fl", "wauc")),
    *(metric_name("epe", region) for region in REGIONS if region != "all"),
]
_COUNTS = [
    f"{region}.{count}"
    for region in REGIONS
    for count in ("pixels", "nonfinite", "error", *_OUTLIERS, "fl", "wauc")
]
COLUMNS = [*_IDENTITY, *_SOLVE, *_FIGURES, *_COUNTS]
"""Cells are empty where a method does not iterate, a mask is missing or a figure is not finite."""


class SampleKey(NamedTuple):
    """What identifies a row."""

    method: str
    dataset: str
    name: str


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """A method's errors on one pair.

    Attributes:
        method: a model's or baseline's name.
        dataset: the data set's title, such as "MPI-Sintel final".
        group: the row of a table that the pair is averaged in, such as "Sintel final".
        name: the pair's name, unique in its data set.
        sequence: what the frames were taken from; consecutive ``index`` of one sequence follow each other.
        index: number of the first frame in its sequence.
        width: pixels of a frame.
        height: pixels of a frame.
        regions: errors by names of ``REGIONS``; those without a mask are missing, "all" never is.
        seconds: of computing, reading left out; of a batch, its share.
        steps: evaluations of the update operator; this and the rest are None for methods that do not iterate.
        converged: whether the tolerance was met.
        residual: how far the flow still moved in the last step, RMS over the frame in pixels.
        residual_peak: the 99.9th percentile of the same.
        reused: whether the solve started from the pair before.
    """

    method: str
    dataset: str
    group: str
    name: str
    sequence: str = ""
    index: int = 0
    width: int
    height: int
    regions: dict[str, RegionErrors] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int | None = None
    converged: bool | None = None
    residual: float | None = None
    residual_peak: float | None = None
    reused: bool | None = None

    @property
    def key(self) -> SampleKey:
        """What identifies the result."""
        return SampleKey(self.method, self.dataset, self.name)

    @property
    def metrics(self) -> dict[str, float]:
        """Figures by the names of ``Total.metrics``; NaN without pixels or with a flow that is not finite."""
        return pair_metrics(self.regions)

    @property
    def epe(self) -> float:
        """Mean error over the valid pixels in px; NaN if an estimate is not finite."""
        return self.regions["all"].epe

    def row(self) -> dict[str, str]:
        """The result as cells by ``COLUMNS``."""
        figures = {name: value for name, value in self.metrics.items() if name in _FIGURES}
        counts: dict[str, object] = {}
        for region, errors in self.regions.items():
            cells = (errors.pixels, errors.nonfinite, errors.total, *errors.outliers, errors.fl, errors.wauc)
            names = ("pixels", "nonfinite", "error", *_OUTLIERS, "fl", "wauc")
            counts |= {f"{region}.{name}": cell for name, cell in zip(names, cells, strict=True)}
        plain = {name: getattr(self, name) for name in (*_IDENTITY, *_SOLVE)}
        return {name: _cell(value) for name, value in {**plain, **figures, **counts}.items()}

    @classmethod
    def from_row(cls, row: dict[str, str]) -> Self:
        """The inverse of ``row``.

        Raises:
            KeyError, ValueError: a cell is missing or not a number.
        """
        return cls(
            method=row["method"],
            dataset=row["dataset"],
            group=row["group"],
            name=row["name"],
            sequence=row["sequence"],
            index=int(row["index"]),
            width=int(row["width"]),
            height=int(row["height"]),
            regions={region: _errors(row, region) for region in REGIONS if row[f"{region}.pixels"]},
            seconds=float(row["seconds"]),
            steps=int(row["steps"]) if row["steps"] else None,
            converged=_flag(row["converged"]),
            residual=float(row["residual"]) if row["residual"] else None,
            residual_peak=float(row["residual_peak"]) if row["residual_peak"] else None,
            reused=_flag(row["reused"]),
        )


def read_samples(path: str | Path) -> Iterator[SampleResult]:
    """The rows of a table one by one, in the file's order; a last line that was cut short is left out.

    Raises:
        DataError: the file is not such a table.
        OSError: it cannot be read.
    """
    for _, result in scan_samples(Path(path)):
        yield result


def scan_samples(path: Path) -> Iterator[tuple[slice, SampleResult]]:
    """The rows of a table with the bytes of the file that they take; see ``read_samples``."""
    with path.open("rb") as file:
        lines = _whole_lines(file)
        header = next(lines, None)
        if header is None:  # a run that was killed at once
            return
        if _cells(header) != COLUMNS:
            raise DataError(
                f"{path} is not a table of results of this version: its columns differ from those expected"
            )
        end = len(header)
        for number, line in enumerate(lines, start=2):
            start, end = end, end + len(line)
            try:
                row = dict(zip(COLUMNS, _cells(line), strict=True))
                yield slice(start, end), SampleResult.from_row(row)
            except (KeyError, ValueError) as error:
                raise DataError(f"{path} line {number} is not a row of results: {error}") from error


class SampleTable:
    """A table of results open for appending; each row is in the file when ``append`` returns.

    A last line that was cut short, as a killed process or a full disk may leave it, is removed first.
    """

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; DataError if it is something else, OSError if it cannot be written."""
        for _ in scan_samples(path) if path.exists() else ():
            pass  # an unreadable table is found before the work rather than by whoever reads it
        self._file = path.open("ab+")
        _cut_partial_line(self._file)
        if self._file.seek(0, os.SEEK_END) == 0:
            self.write(encode_line(COLUMNS))

    def append(self, result: SampleResult) -> None:
        """Adds a row."""
        row = result.row()
        self.write(encode_line([row.get(name, "") for name in COLUMNS]))

    def write(self, data: bytes) -> None:
        """Adds a whole line that is encoded already."""
        self._file.write(data)
        self._file.flush()

    def __enter__(self) -> Self:
        """Closes the file at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See ``__enter__``."""
        self._file.close()


def encode_line(cells: list[str]) -> bytes:
    """One line of a table. Line breaks inside cells become spaces: a row is a line."""
    buffer = StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([" ".join(cell.splitlines()) for cell in cells])
    return buffer.getvalue().encode()


def _cells(line: bytes) -> list[str]:
    return next(csv.reader([line.decode(errors="replace")]), [])


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))


def _cut_partial_line(file: BinaryIO) -> None:
    """Drop what follows the last line break."""
    file.seek(0)
    size = sum(map(len, _whole_lines(file)))
    file.truncate(size)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flag(cell: str) -> bool | None:
    return {"": None, "true": True, "false": False}[cell]


def _errors(row: dict[str, str], region: str) -> RegionErrors:
    pixels, nonfinite, fl, wauc = (
        int(row[f"{region}.{name}"]) for name in ("pixels", "nonfinite", "fl", "wauc")
    )
    outliers = tuple(int(row[f"{region}.{name}"]) for name in _OUTLIERS)
    return RegionErrors(pixels, nonfinite, float(row[f"{region}.error"]), outliers, fl, wauc)
