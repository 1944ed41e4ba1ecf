"""``deqflow datasets speed``: how many pairs one process reads per second, by flow format."""

import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deqflow.data.datasets.pairs import PairDataset, PairFiles
from deqflow.errors import DataError, FlowClippedWarning
from deqflow.io.flow_files import FLOW_FORMATS, write_flow


@dataclass(frozen=True)
class Loading:
    """Seconds that reading took.

    Attributes:
        what: the data set, or its pairs with their flow in another format.
        frames: suffix of the images.
        flow: suffix of the flow files.
        size: width and height of a frame.
        pairs: how many were read.
        seconds: of one pair, median over the pairs.
        frames_seconds: of its two frames alone.
    """

    what: str
    frames: str
    flow: str
    size: tuple[int, int]
    pairs: int
    seconds: float
    frames_seconds: float


def measure_loading(
    dataset: PairDataset, *, most: int = 20, formats: Iterable[str] = FLOW_FORMATS
) -> list[Loading]:
    """Time reading pairs as they lie on disk, and with their flow rewritten in other formats.

    Every pair is read once before it counts, so that the disk takes no part; decoding is what is measured.

    Args:
        dataset: its first pairs are read.
        most: how many.
        formats: suffixes to rewrite the flow in, in a temporary folder; masks in other files do not go along.

    Raises:
        DataError: a data set without ground truth.
        DeqflowError, OSError: a file cannot be read, or the temporary folder not be written to.
    """
    pairs = dataset.files[:most]
    if pairs[0].flow is None:
        raise DataError(f"{dataset.title} has no ground truth to read: expected another split")
    results = [_time(dataset.title, pairs)]
    with tempfile.TemporaryDirectory() as folder:
        for suffix in formats:
            rewritten = [
                _rewrite(pair, Path(folder) / f"{number}{suffix}") for number, pair in enumerate(pairs)
            ]
            results.append(_time(f"{dataset.title} as {suffix}", rewritten))
    return results


def _rewrite(pair: PairFiles, flow: Path) -> PairFiles:
    sample = pair.read()
    with warnings.catch_warnings(action="ignore", category=FlowClippedWarning):
        write_flow(flow, sample.flow, sample.valid)
    return PairFiles(pair.name, pair.frame1, pair.frame2, flow)


def _time(what: str, pairs: Sequence[PairFiles]) -> Loading:
    whole, frames = [], []
    for pair in pairs:
        size = pair.read().frame1.shape
        start = time.perf_counter()
        pair.read_frames()
        middle = time.perf_counter()
        pair.read()
        frames.append(middle - start)
        whole.append(time.perf_counter() - middle)
    assert pairs[0].flow is not None
    return Loading(
        what,
        pairs[0].frame1.suffix,
        pairs[0].flow.suffix,
        (size[1], size[0]),
        len(pairs),
        median(whole),
        median(frames),
    )
