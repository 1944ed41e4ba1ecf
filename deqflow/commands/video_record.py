"""What ``deqflow video`` says of a run: a row per pair, as a table and in frames.csv, and manifest.json."""

import csv
import io
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TextIO

from deqflow.errors import DeqflowWarning
from deqflow.io import VideoSource

if TYPE_CHECKING:
    from deqflow.commands.video import VideoOptions
    from deqflow.estimator import DEQFlow

LONGEST_TABLE = 100
"""Of a longer video the summary alone is printed."""

TABLE, MANIFEST = "frames.csv", "manifest.json"

_LIBRARIES = ("deqflow", "torch", "numpy", "av", "opencv-python-headless")


@dataclass(frozen=True)
class PairRecord:
    """What is known of a pair of frames; where both directions were estimated, of the flow forward.

    Attributes:
        frame: number of its first frame in the source.
        time: of that frame, seconds.
        evaluations: of the update operator, by stride.
        cost: evaluations of the 1/8 grid that it took: all scales, and checks of the start.
        residual: how far the flow moved in the last step, RMS in pixels.
        uncertainty: mean error that the model expects, pixels; None from models that do not tell.
        milliseconds: for one more frame: encoding, checking, solving, upsampling.
        outcome: how the solve ended.
        reused: whether it started from the one before.
        afresh: share of cells that did not.
        cut: whether the two frames show different scenes; the flow then means nothing.
        duplicate: whether they are equal.
        mean_motion: mean length of the flow, pixels.
        max_motion: largest length of the flow, pixels.
        occluded: share of pixels that are hidden in the other frame; None if not asked for.
        cold_cost: cost of solving from zero; None if not compared.
        cold_milliseconds: the same from zero.
        difference: mean end-point difference of the two flows, pixels.
    """

    frame: int
    time: float
    evaluations: Mapping[int, int]
    cost: float
    residual: float
    uncertainty: float | None
    milliseconds: float
    outcome: str
    reused: bool
    afresh: float
    cut: bool
    duplicate: bool
    mean_motion: float
    max_motion: float
    occluded: float | None = None
    cold_cost: float | None = None
    cold_milliseconds: float | None = None
    difference: float | None = None

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "PairRecord":
        """Return what `asdict` and JSON have made of a record."""
        evaluations = {int(stride): int(count) for stride, count in stored["evaluations"].items()}
        return cls(**{**stored, "evaluations": evaluations})


class FrameTable:
    """Writes frames.csv, a row as soon as its pair is done: what there is of it can be read at any time."""

    def __init__(self, path: Path, strides: Sequence[int]) -> None:
        """Begin the file; ``strides`` are those that evaluations are counted at."""
        self._path, self._strides = path, strides
        names = [field.name for field in fields(PairRecord)]
        at = names.index("evaluations")
        self.columns = [*names[:at], *(f"evaluations_{stride}" for stride in strides), *names[at + 1 :]]
        path.write_text(self._line(self.columns), encoding="utf-8")

    def add(self, record: PairRecord) -> None:
        """Append a row; what is not known is left empty."""
        known = asdict(record) | {
            f"evaluations_{stride}": record.evaluations.get(stride, 0) for stride in self._strides
        }
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._line([_cell(known[column]) for column in self.columns]))

    @staticmethod
    def _line(cells: Sequence[str]) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Collect our own warnings, which are shown as before."""
    kept: list[str] = []
    show = warnings.showwarning

    def keep(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, DeqflowWarning):
            kept.append(str(message))
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = keep
    try:
        yield kept
    finally:
        warnings.showwarning = show


def manifest(
    options: "VideoOptions",
    source: VideoSource,
    model: "DEQFlow",
    records: Sequence[PairRecord],
    *,
    outputs: Sequence[Path],
    said: Sequence[str],
    ended: str,
    full_color: float | None,
) -> str:
    """Return manifest.json: what was read, by what it was estimated, what came of it.

    Args:
        options: of the run.
        source: what was read.
        model: what estimated.
        records: of the pairs.
        outputs: what was written.
        said: notes and warnings.
        ended: "complete", "interrupted", or the error.
        full_color: length of flow drawn at full saturation, pixels; None if it followed the motion.
    """
    from deqflow.commands.common import solve_record
    from deqflow.zoo import file_sha256, shipped_weights

    weights = options.checkpoint or shipped_weights(options.model)
    found = {
        "ended": ended,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": {
            "name": source.name,
            "files": [
                {"path": str(file), "bytes": file.stat().st_size, "sha256": file_sha256(file)}
                for file in source.files
                if file.is_file()
            ],
            "width": source.size[1],
            "height": source.size[0],
            "unscaled_size": source.unscaled_size and list(source.unscaled_size[::-1]),
            "fps": source.fps,
            "frames_announced": source.frame_count,
            "time_base": str(source.time_base),
            "pixel_aspect": str(source.pixel_aspect),
            "sound": source.sound and source.sound.codec,
        },
        "model": {
            "name": options.model,
            "weights": str(weights.name),
            "sha256": file_sha256(weights),
            **solve_record(model),
        },
        "options": {name: plain(value) for name, value in asdict(options).items()},
        "full_color": full_color,
        "outputs": [str(path) for path in outputs],
        "counts": counts(records),
        "cuts": [record.frame for record in records if record.cut],
        "duplicates": [record.frame for record in records if record.duplicate],
        "warnings": list(said),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
        "platform": platform.platform(),
    }
    return json.dumps(found, indent=2) + "\n"


def counts(records: Sequence[PairRecord]) -> dict[str, float]:
    """Return how many pairs there were, of which kinds, and what all took."""
    return {
        "pairs": len(records),
        "cuts": sum(record.cut for record in records),
        "duplicates": sum(record.duplicate for record in records),
        "reused": sum(record.reused for record in records),
        "diverged": sum(record.outcome == "diverged" for record in records),
        "cost": sum(record.cost for record in records),
        "seconds": round(sum(record.milliseconds for record in records) / 1000, 3),
    }


def plain(value: object) -> object:
    """Return the value of an option as JSON takes it."""
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def print_costs(records: Sequence[PairRecord]) -> None:
    """Print cost and milliseconds per pair (of up to 100), and their mean and median."""
    compared = records[0].cold_cost is not None
    head = f"{'pair':>6}   {'cost':>6}  {'ms':>8}"
    if compared:
        head += f"  {'cost from zero':>14}  {'ms from zero':>12}  {'difference px':>13}"
    print(head)
    for number, record in enumerate(records if len(records) <= LONGEST_TABLE else [], 1):
        print(_row(f"{number}{_mark(record):2}", record))
    for name, summary in (("mean", fmean), ("median", median)):
        print(_row(f"{name}  ", _summary(records, summary)))
    print("cost: evaluations of the 1/8 grid, all scales and the checks of starts; one at 1/16 is 0.25 of it")
    if compared:
        print("from zero: the same pair without reuse; the two take turns in going first")
    marks = {_mark(record) for record in records}
    meant = {"*": "* solved anew", "=": "= equal frames", "|": "| across a cut"}
    if marks & meant.keys():
        print(", ".join(meaning for mark, meaning in meant.items() if mark in marks))


def _mark(record: PairRecord) -> str:
    if record.cut:
        return "|"
    return "=" if record.duplicate else "" if record.reused else "*"


def _summary(
    records: Sequence[PairRecord], summary: Callable[[list[float]], float]
) -> Mapping[str, float | None]:
    columns = ("cost", "milliseconds", "cold_cost", "cold_milliseconds", "difference")
    values = {column: [getattr(record, column) for record in records] for column in columns}
    return {column: None if None in found else summary(found) for column, found in values.items()}


def _row(name: str, figures: PairRecord | Mapping[str, float | None]) -> str:
    of = asdict(figures) if isinstance(figures, PairRecord) else figures
    row = f"{name:>8} {of['cost']:>6.4g}  {of['milliseconds']:>8.1f}"
    if of["cold_cost"] is not None:
        row += f"  {of['cold_cost']:>14.4g}  {of['cold_milliseconds']:>12.1f}  {of['difference']:>13.3f}"
    return row
