"""The data sets that `find_benchmarks` looks for, by function."""

from pathlib import Path

from deqflow.data.datasets import PairDataset, find_benchmarks, open_dataset

__all__ = ["PairDataset", "find_benchmarks", "flying_chairs", "kitti_2015", "middlebury", "sintel"]


def sintel(root: str | Path, render: str) -> PairDataset:
    """One rendering pass of MPI-Sintel's training split."""
    return next(found for found in open_dataset("sintel", root) if found.group == f"Sintel {render}")


def kitti_2015(root: str | Path) -> PairDataset:
    """KITTI 2015, training split."""
    return open_dataset("kitti-2015", root)[0]


def middlebury(root: str | Path) -> PairDataset:
    """Middlebury's "other" data."""
    return open_dataset("middlebury", root)[0]


def flying_chairs(root: str | Path) -> PairDataset:
    """Every pair of FlyingChairs."""
    return open_dataset("chairs", root, split="all")[0]
