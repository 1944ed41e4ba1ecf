"""Middlebury, small motions in toys and rendered scenes.

Baker, Scharstein, Lewis, Roth, Black, Szeliski, *A Database and Evaluation Methodology for Optical Flow*,
IJCV 2011.
"""

from collections.abc import Iterator
from pathlib import Path

from deqflow.data.datasets.family import Family
from deqflow.data.datasets.pairs import PairDataset, PairFiles, folders


def middlebury(root: Path, split: str) -> list[PairDataset]:
    """Return frames 10 and 11 of the "other" data with public ground truth, or of the "eval" data without."""
    frames = root / ("eval-data" if split == "testing" else "other-data")

    def candidates() -> Iterator[PairFiles]:
        for scene in folders(frames):
            flow = None if split == "testing" else root / "other-gt-flow" / scene.name / "flow10.flo"
            yield PairFiles(
                scene.name, scene / "frame10.png", scene / "frame11.png", flow, sequence=scene.name, index=10
            )

    return [PairDataset("Middlebury", "Middlebury", candidates(), root)]


MIDDLEBURY = Family(
    name="middlebury",
    title="Middlebury",
    folder="Middlebury",
    tree="other-gt-flow/Venus/flow10.flo",
    open=middlebury,
    signs=("other-data/*/frame10.png", "eval-data/*/frame10.png"),
    pairs={"training": 8, "testing": 12},
)
