"""HD1K, long driving sequences with sparse ground truth.

Kondermann et al., *The HCI Benchmark Suite: Stereo and Flow Ground Truth with Uncertainties for Urban
Autonomous Driving*, CVPR workshops 2016.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deqflow.data.augmentation import SINTEL_CROP, SPARSE
from deqflow.data.datasets.family import Family
from deqflow.data.datasets.pairs import PairDataset, PairFiles, numbered
from deqflow.io.files import visible

FOLDERS = {"training": "hd1k_input", "testing": "hd1k_challenge"}


def hd1k(root: Path, split: str) -> list[PairDataset]:
    """Frames are numbered per sequence; the last of a sequence has ground truth but no successor."""
    return [PairDataset("HD1K", "HD1K", _pairs(root, split), root)]


def _pairs(root: Path, split: str) -> Iterator[PairFiles]:
    images = root / FOLDERS[split] / "image_2"
    for sequence in sorted({path.stem.partition("_")[0] for path in visible(images, "*_*.png")}):
        frames = numbered(visible(images, f"{sequence}_*.png"), r"\d+_(\d+)")
        for number, frame1 in frames.items():
            if number + 1 in frames:
                truth = root / "hd1k_flow_gt" / "flow_occ" / frame1.name
                yield PairFiles(
                    frame1.stem,
                    frame1,
                    frames[number + 1],
                    truth if split == "training" else None,
                    sequence=sequence,
                    index=number,
                )


HD1K = Family(
    name="hd1k",
    title="HD1K",
    folder="HD1K",
    tree="hd1k_flow_gt/flow_occ/000000_0000.png",
    open=hd1k,
    signs=("hd1k_input/image_2/*.png", "hd1k_challenge/image_2/*.png"),
    augmentation={"sintel": replace(SPARSE, crop=SINTEL_CROP, scale=(-0.5, 0.2), flip_horizontal=0.5)},
)
