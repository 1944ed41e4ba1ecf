"""A folder of results: settings, a table that grows pair by pair, a summary at the end.

A run that ends early is continued by the same command: what the table holds is not computed again. Of several
processes each has a table of its own, ``samples.1.csv`` and so on, which become part of ``samples.csv`` when
all are done, or when the next run begins.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deqflow.errors import ConfigError, DataError
from deqflow.evaluation.results import (
    COLUMNS,
    SAMPLES,
    SampleKey,
    SampleResult,
    SampleTable,
    encode_line,
    read_samples,
    scan_samples,
)
from deqflow.io.files import atomic_path

SETTINGS = "settings.json"
SUMMARY = "summary.json"
TABLE = "table.md"
REPORT = "report.html"


class ResultsFolder:
    """Where a run keeps what it has found.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, settings: dict[str, Any], *, overwrite: bool = False) -> None:
        """Begin a run or go on with one; one process does this before the others read or write.

        Args:
            settings: everything that the results depend on, as JSON holds it.
            overwrite: forget what the folder holds of another run.

        Raises:
            ConfigError: the folder holds results of other settings.
            DataError: a file in it is not what its name says.
            OSError: it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(settings))
        if overwrite:
            for file in (self.path / SETTINGS, *self._tables(), self.path / SUMMARY, self.path / TABLE):
                file.unlink(missing_ok=True)
        if (self.path / SETTINGS).exists():
            self._check(settings)
        elif self._tables():
            raise ConfigError(
                f"{self.path} holds {SAMPLES} but no {SETTINGS} to tell what it is of: "
                "expected another --output, or --overwrite"
            )
        else:
            self._write(SETTINGS, json.dumps(settings, indent=2) + "\n")
        self._gather(None)

    def finished(self) -> Iterator[SampleResult]:
        """The results that are there already."""
        path = self.path / SAMPLES
        return read_samples(path) if path.exists() else iter(())

    def table(self, rank: int = 0) -> SampleTable:
        """The table that a process appends to."""
        return SampleTable(self.path / (SAMPLES if rank == 0 else f"samples.{rank}.csv"))

    def close(self, order: Iterable[SampleKey], summary: dict[str, Any], table: str) -> None:
        """End a run that is complete: one table in the data sets' order, and the summary.

        Raises:
            OSError: the folder cannot be written.
        """
        self._gather(order)
        self._write(SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        self._write(TABLE, table + "\n")

    def _check(self, settings: dict[str, Any]) -> None:
        try:
            before = json.loads((self.path / SETTINGS).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.path / SETTINGS} is not JSON: {error}") from error
        if not isinstance(before, dict):
            raise DataError(f"{self.path / SETTINGS} holds no settings: expected a JSON object")
        for name in sorted(before.keys() | settings.keys()):
            if before.get(name) != settings.get(name):
                was, now = (json.dumps(values.get(name)) for values in (before, settings))
                raise ConfigError(
                    f"{self.path} holds results of another run, whose {name} was {was} and not {now}: "
                    "expected another --output, or --overwrite"
                )

    def _tables(self) -> list[Path]:
        """The table, and those of the other processes."""
        return [
            path
            for path in sorted(self.path.glob("samples*.csv"))
            if path.name == SAMPLES or path.name[len("samples.") : -len(".csv")].isdecimal()
        ]

    def _gather(self, order: Iterable[SampleKey] | None) -> None:
        """Make one table of all, in ``order`` or as they come; of a pair found twice the first counts."""
        tables = self._tables()
        if order is None and tables in ([], [self.path / SAMPLES]):
            return
        # Places of lines rather than lines, to hold little of a large table.
        lines: dict[SampleKey, tuple[Path, slice]] = {}
        for path in tables:
            for place, result in scan_samples(path):
                lines.setdefault(result.key, (path, place))
        keys = lines if order is None else [key for key in order if key in lines]
        with ExitStack() as stack, atomic_path(self.path / SAMPLES) as temporary:
            sources = {path: stack.enter_context(path.open("rb")) for path in tables}
            with temporary.open("wb") as file:
                file.write(encode_line(COLUMNS))
                for path, place in map(lines.__getitem__, keys):
                    sources[path].seek(place.start)
                    file.write(sources[path].read(place.stop - place.start))
        for path in tables:
            if path.name != SAMPLES:
                path.unlink()

    def _write(self, name: str, text: str) -> None:
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
