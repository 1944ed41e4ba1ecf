"""What ``deqflow video`` says of a run: a row per pair, as a table and in frames.csv, and manifest.json."""

import csv
import io
import json
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from deqflow.errors import DeqflowWarning
from deqflow.io import VideoSource
from deqflow.io.files import append_text, replace_bytes

if TYPE_CHECKING:
    from deqflow.commands.video_options import VideoOptions
    from deqflow.estimator import DEQFlow
    from deqflow.stream import Direction

LONGEST_TABLE = 100
"""Of a longer video the summary alone is printed."""

TABLE, MANIFEST = "frames.csv", "manifest.json"

_LIBRARIES = ("deqflow", "torch", "numpy", "av", "opencv-python-headless")


@dataclass(frozen=True)
class FlowRecord:
    """What is known of the flow of a pair in one direction.

    Attributes:
        evaluations: of the update operator, by stride.
        cost: evaluations of the 1/8 grid that it took: all scales, and checks of the start.
        residual: how far the flow moved in the last step, RMS in pixels.
        uncertainty: mean error that the model expects, pixels; None from models that do not tell.
        milliseconds: for one more frame: encoding (in the first direction), checking, solving, upsampling.
        outcome: how the solve ended.
        reused: whether it started from the one before.
        afresh: share of cells that did not.
        mean_motion: mean length of the flow, pixels.
        max_motion: largest length of the flow, pixels.
        occluded: share of pixels that are hidden in the other frame; None if not asked for.
    """

    evaluations: Mapping[int, int]
    cost: float
    residual: float
    uncertainty: float | None
    milliseconds: float
    outcome: str
    reused: bool
    afresh: float
    mean_motion: float
    max_motion: float
    occluded: float | None = None

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "FlowRecord":
        """Return what `asdict` and JSON have made of a record."""
        evaluations = {int(stride): int(count) for stride, count in stored["evaluations"].items()}
        return cls(**{**stored, "evaluations": evaluations})


@dataclass(frozen=True)
class PairRecord:
    """What is known of a pair of frames.

    Attributes:
        frame: number of its first frame in the source.
        time: of that frame, seconds.
        cut: whether the two frames show different scenes; the flow then means nothing.
        duplicate: whether they are equal.
        flows: by direction, in the order in which they were solved.
        cold_cost: cost of solving the first of them from zero; None if not compared.
        cold_milliseconds: the same from zero.
        difference: mean end-point difference of the two flows, pixels.
    """

    frame: int
    time: float
    cut: bool
    duplicate: bool
    flows: "Mapping[Direction, FlowRecord]"
    cold_cost: float | None = None
    cold_milliseconds: float | None = None
    difference: float | None = None

    @property
    def first(self) -> FlowRecord:
        """The flow that was solved first."""
        return next(iter(self.flows.values()))

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "PairRecord":
        """Return what `asdict` and JSON have made of a record."""
        flows = {direction: FlowRecord.read(flow) for direction, flow in stored["flows"].items()}
        return cls(**{**stored, "flows": flows})


class FrameTable:
    """Writes frames.csv, a row as soon as its pair is done: what there is of it can be read at any time.

    Columns of the flow forward are named as the fields of `FlowRecord`, of the flow back ``backward_...``.
    """

    def __init__(self, path: Path, strides: Sequence[int], directions: "Sequence[Direction]") -> None:
        """Begin the file; ``strides`` are those that evaluations are counted at."""
        self._path, self._strides = path, strides
        names = [field.name for field in fields(PairRecord)]
        at = names.index("flows")
        of_flow = [field.name for field in fields(FlowRecord) if field.name != "evaluations"]
        counts = [f"evaluations_{stride}" for stride in strides]
        of_flows = [_prefix(direction) + name for direction in directions for name in (*counts, *of_flow)]
        self.columns = [*names[:at], *of_flows, *names[at + 1 :]]
        replace_bytes(path, self._line(self.columns).encode())

    def add(self, record: PairRecord) -> None:
        """Append a row; what is not known is left empty."""
        known = asdict(record)
        for direction, flow in record.flows.items():
            counts = {f"evaluations_{stride}": flow.evaluations.get(stride, 0) for stride in self._strides}
            known |= {_prefix(direction) + name: value for name, value in (asdict(flow) | counts).items()}
        append_text(self._path, self._line([_cell(known[column]) for column in self.columns]))

    @staticmethod
    def _line(cells: Sequence[str]) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()


def _prefix(direction: "Direction") -> str:
    return "" if direction == "forward" else f"{direction}_"


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

    def keep(message: Warning | str, category: type[Warning], *where: Any, **also: Any) -> None:
        if issubclass(category, DeqflowWarning):
            kept.append(str(message))
        show(message, category, *where, **also)

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
            **solve_record(model, video=True),
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
    """Return how many pairs there were, of which kinds, and what all took, in all directions."""
    flows = [flow for record in records for flow in record.flows.values()]
    return {
        "pairs": len(records),
        "cuts": sum(record.cut for record in records),
        "duplicates": sum(record.duplicate for record in records),
        "flows": len(flows),
        "reused": sum(flow.reused for flow in flows),
        "diverged": sum(flow.outcome == "diverged" for flow in flows),
        "cost": sum(flow.cost for flow in flows),
        "seconds": round(sum(flow.milliseconds for flow in flows) / 1000, 3),
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
    costs = [_costs(record) for record in records]
    for number, (record, figures) in enumerate(zip(records, costs, strict=True), 1):
        if len(records) <= LONGEST_TABLE:
            print(_row(f"{number}{_mark(record):2}", figures))
    for name, summary in (("mean", fmean), ("median", median)):
        print(_row(f"{name}  ", [summary(column) for column in zip(*costs, strict=True)]))
    directions = list(records[0].flows)
    if len(directions) > 1:
        print(f"of the flow {directions[0]}; frames.csv (--record-dir) has both directions")
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
    return "=" if record.duplicate else "" if record.first.reused else "*"


def _costs(record: PairRecord) -> list[float]:
    """Return the figures of a row of the table, without those that are not known."""
    compared = (record.cold_cost, record.cold_milliseconds, record.difference)
    return [record.first.cost, record.first.milliseconds, *(one for one in compared if one is not None)]


def _row(name: str, figures: Sequence[float]) -> str:
    formats = ("6.4g", "8.1f", "14.4g", "12.1f", "13.3f")
    cells = [format(figure, of) for figure, of in zip(figures, formats, strict=False)]
    return f"{name:>8} " + "  ".join(cells)
