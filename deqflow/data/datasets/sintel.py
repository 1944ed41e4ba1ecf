"""MPI-Sintel, sequences of an animated film.

Butler, Wulff, Stanley, Black, *A Naturalistic Open Source Movie for Optical Flow Evaluation*, ECCV 2012.
"""

from collections.abc import Iterator
from pathlib import Path

from deqflow.data.datasets.pairs import PairDataset, PairFiles, existing, number_in

FOLDERS = {"training": "training", "testing": "test"}
RENDERS = ("clean", "final", "albedo")


def sintel(root: Path, split: str) -> list[PairDataset]:
    """Every rendering pass that is there; the test split has no ``albedo``."""
    folder = root / FOLDERS[split]
    renders = [render for render in RENDERS if (folder / render).is_dir()] or ["clean"]
    candidates = _testing if split == "testing" else _training
    return [
        PairDataset(f"MPI-Sintel {render}", f"Sintel {render}", candidates(folder, render), folder)
        for render in renders
    ]


def _training(folder: Path, render: str) -> Iterator[PairFiles]:
    for flow in sorted(folder.glob("flow/*/frame_*.flo")):
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
    for frame1 in sorted(folder.glob(f"{render}/*/frame_*.png")):
        scene, number = frame1.parent.name, number_in(frame1, r"frame_(\d+)")
        frame2 = frame1.with_name(f"frame_{number + 1:04d}.png")
        yield PairFiles(f"{scene} {number}", frame1, frame2, None, sequence=scene, index=number)
