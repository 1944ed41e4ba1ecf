"""Results on disk: a folder of settings, a table that grows pair by pair, and a summary at the end.

``samples.jsonl`` holds a line of JSON for each pair and method: what it is, how the solver did, the usual
figures (``metrics``) for people and their tools to read, and the sums that all figures follow from
(``regions``). Floats read back to the last digit: a total over the lines is the total over the data set.

A run that ends early is continued by the same command: what the table holds is not computed again. Of several
processes each has a table of its own, ``samples.1.jsonl`` and so on, which become part of ``samples.jsonl``
when all are done, or when the next run begins.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self, get_type_hints

from deqflow.errors import ConfigError, DataError
from deqflow.evaluation.metrics import ErrorSums
from deqflow.io.files import named_errors, replace_bytes

SETTINGS = "settings.json"
SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
TABLE = "table.md"
REPORT = "report.html"


class SampleKey(NamedTuple):
    """What identifies a result."""

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
        steps: evaluations of the update operator at the finest scale; this and the rest are None for methods
            that do not iterate.
        cost: evaluations at every scale, in those of the 1/8 grid.
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
    regions: dict[str, ErrorSums] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int | None = None
    cost: float | None = None
    converged: bool | None = None
    residual: float | None = None
    residual_peak: float | None = None
    reused: bool | None = None

    @property
    def key(self) -> SampleKey:
        """What identifies the result."""
        return SampleKey(self.method, self.dataset, self.name)

    @property
    def epe(self) -> float:
        """Mean error over the valid pixels in px; NaN without one, or if an estimate is not finite."""
        return self.regions["all"].epe_image

    @property
    def metrics(self) -> dict[str, float]:
        """Figures by name, see ``ErrorSums.metrics``; NaN without pixels or if an estimate is not finite."""
        return {
            name: value
            for region, sums in self.regions.items()
            for name, value in sums.metrics(region).items()
        }

    def encode(self) -> bytes:
        """Return the result as a line of JSON; numbers that are not finite become null."""
        values = {**asdict(self), "metrics": self.metrics}
        return json.dumps(finite(values), allow_nan=False).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Return the inverse of ``encode``.

        Raises:
            KeyError, TypeError, ValueError: a value is missing, not known or of another kind.
        """
        values = json.loads(line)
        del values["metrics"]
        for name, kind in get_type_hints(cls).items():
            if name != "regions" and not isinstance(values[name], kind):
                raise ValueError(f"{name} is {values[name]!r}")
        values["regions"] = {name: _sums(sums) for name, sums in values["regions"].items()}
        if "all" not in values["regions"]:
            raise ValueError("there is no region 'all'")
        return cls(**values)


def _sums(values: dict[str, Any]) -> ErrorSums:
    kinds = {field.name: type(field.default) for field in fields(ErrorSums)}
    if any(type(values[name]) is not kind for name, kind in kinds.items()):
        raise ValueError(f"{values!r} are no sums of errors")
    return ErrorSums(**values)


def finite(value: Any) -> Any:
    """Return what JSON can hold of a value: numbers that are not finite become None, however deep."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_samples(path: Path) -> Iterator[SampleResult]:
    """Yield the results that a table holds; a last line that was cut short is left out.

    Raises:
        DataError: the file is something else.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # as a killed process or a full disk may leave it
                return
            try:
                yield SampleResult.decode(line)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path} line {number} is not a result of this version: {type(error).__name__}, {error}"
                ) from error


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
        if overwrite:
            for file in (self.path / SETTINGS, *self._tables(), self.path / SUMMARY, self.path / TABLE):
                file.unlink(missing_ok=True)
        if (self.path / SETTINGS).exists():
            self._check(json.loads(json.dumps(settings)))
        elif self._tables():
            raise ConfigError(
                f"{self.path} holds {SAMPLES} but no {SETTINGS} to tell what it is of: "
                "expected another --output, or --overwrite"
            )
        else:
            replace_bytes(self.path / SETTINGS, json.dumps(settings, indent=2).encode() + b"\n")
        found: dict[SampleKey, SampleResult] = {}
        for result in (result for path in self._tables() for result in read_samples(path)):
            found.setdefault(result.key, result)
        self._write_table(found.values())

    def results(self) -> list[SampleResult]:
        """Read the results that are there already."""
        path = self.path / SAMPLES
        return list(read_samples(path)) if path.exists() else []

    @contextmanager
    def table(self, rank: int = 0) -> Iterator[Callable[[SampleResult], None]]:
        """Give a process the function that keeps a result, which is in the file when the function returns."""
        path = self.path / (SAMPLES if rank == 0 else f"samples.{rank}.jsonl")
        with named_errors(path), path.open("ab") as file:

            def keep(result: SampleResult) -> None:
                file.write(result.encode())
                file.flush()

            yield keep

    def close(self, results: Iterable[SampleResult], summary: dict[str, Any], table: str) -> None:
        """End a run that is complete: one table of all results in order, and the summary.

        Raises:
            OSError: the folder cannot be written.
        """
        self._write_table(results)
        replace_bytes(self.path / SUMMARY, json.dumps(summary, indent=2, allow_nan=False).encode() + b"\n")
        replace_bytes(self.path / TABLE, table.encode() + b"\n")

    def _check(self, settings: dict[str, Any]) -> None:
        try:
            before = json.loads((self.path / SETTINGS).read_bytes())
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
        """List the table, and those of the other processes."""
        others = (path for path in self.path.glob("samples.*.jsonl") if path.name.split(".")[1].isdecimal())
        return [path for path in (self.path / SAMPLES, *sorted(others)) if path.exists()]

    def _write_table(self, results: Iterable[SampleResult]) -> None:
        """Write one table and remove the other processes' own."""
        replace_bytes(self.path / SAMPLES, b"".join(result.encode() for result in results))
        for path in self._tables()[1:]:
            path.unlink()
