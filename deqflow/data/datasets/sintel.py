"""MPI-Sintel, sequences of an animated film.

Butler, Wulff, Stanley, Black, *A Naturalistic Open Source Movie for Optical Flow Evaluation*, ECCV 2012.
"""

from collections.abc import Iterator
from pathlib import Path

from deqflow.data.augmentation import SINTEL_CROP, Augmentation
from deqflow.data.datasets.family import Family, SubmissionLayout
from deqflow.data.datasets.pairs import (
    Convention,
    PairDataset,
    PairFiles,
    existing,
    folders,
    number_in,
    numbered,
    variants,
)
from deqflow.io.files import visible

FOLDERS = {"training": "training", "testing": "test"}
RENDERS = ("clean", "final", "albedo")


def sintel(root: Path, split: str) -> list[PairDataset]:
    """Every rendering pass that is there; the test split has no ``albedo``."""
    folder = root / FOLDERS[split]
    candidates = _testing if split == "testing" else _training
    renders = [render for render in RENDERS if (folder / render).is_dir()] or ["clean"]
    return variants(
        ((f"MPI-Sintel {render}", f"Sintel {render}", candidates(folder, render)) for render in renders),
        folder,
        Convention(averaging="pixels"),
    )


def _training(folder: Path, render: str) -> Iterator[PairFiles]:
    for flow in visible(folder, "flow/*/frame_*.flo"):
        scene, number = flow.parent.name, number_in(flow, r"frame_(\d+)")
        frame1, frame2 = (folder / render / scene / f"frame_{n:04d}.png" for n in (number, number + 1))
        yield PairFiles(
            f"{scene} {number}",
            frame1,
            frame2,
            flow,
            occlusion=existing(folder / "occlusions" / scene / f"{flow.stem}.png"),
            invalid=existing(folder / "invalid" / scene / f"{flow.stem}.png"),
            sequence=scene,
            index=number,
        )


def _testing(folder: Path, render: str) -> Iterator[PairFiles]:
    for scene in folders(folder / render):
        frames = numbered(visible(scene, "frame_*.png"), r"frame_(\d+)")
        for number, frame1 in frames.items():
            if number + 1 in frames:
                yield PairFiles(
                    f"{scene.name} {number}",
                    frame1,
                    frames[number + 1],
                    None,
                    sequence=scene.name,
                    index=number,
                )


def _submitted(pair: PairFiles) -> Path:
    """Without the underscore that the ground truth's names have: so says the readme of Sintel's bundler."""
    return Path(pair.frame1.parent.parent.name, pair.frame1.parent.name, f"frame{pair.index:04d}.flo")


SINTEL = Family(
    name="sintel",
    title="MPI-Sintel",
    folder="MPI-Sintel",
    tree="training/flow/alley_1/frame_0001.flo",
    open=sintel,
    signs=("training/flow/*/*.flo", "training/clean/*/*.png", "test/clean/*/*.png", "test/final/*/*.png"),
    pairs={"training": 1041, "testing": 552},
    augmentation={"sintel": Augmentation(crop=SINTEL_CROP, scale=(-0.2, 0.6))},
    submission=SubmissionLayout(
        _submitted,
        "run the benchmark's own program, `bundler {folder}/clean {folder}/final {folder}/sintel.lzma`, "
        "and upload sintel.lzma at http://sintel.is.tue.mpg.de",
        passes=2,
    ),
)
