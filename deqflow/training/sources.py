"""What every stage's data looks like to the loop."""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from deqflow.data.sample import Sample
from deqflow.errors import DataError


@dataclass(frozen=True)
class Sources:
    """Where a stage's pairs come from.

    Attributes:
        training: pair ``n`` of the run, for every n from 0: the epochs follow each other in it.
        held_out: reads a pair that is never trained on, at an index from 0.
        held_out_pairs: how many of them to evaluate on; 0 if there are none.
        epoch: pairs until all have been seen once; None if they never repeat.
        identity: what the pairs are drawn from, to be compared when a run is resumed.
        summary: a line for people.
        textures: what synthetic scenes are made of, for people.
    """

    training: Dataset[Sample]
    held_out: Callable[[int], Sample]
    held_out_pairs: int
    epoch: int | None
    identity: Mapping[str, str]
    summary: str
    textures: str = ""


def digest(names: Sequence[str]) -> str:
    """How many names there are, and a short digest of them in their order."""
    return f"{len(names)}, {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:16]}"


def corrupt(name: str, error: Exception, on_corrupt: str) -> None:
    """A pair cannot be read: name it, and raise DataError unless ``on_corrupt`` is ``skip``."""
    told = f"{name} cannot be read: {error}"
    if on_corrupt != "skip":
        raise DataError(f"{told} (--on-corrupt skip goes on without it)") from error
    print(f"deqflow: {told}; the run goes on without it", file=sys.stderr)
