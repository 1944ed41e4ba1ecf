"""What is said of a data set in one place: its layout on disk, and what its benchmark asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from deqflow.data.augmentation import Augmentation
from deqflow.data.datasets.pairs import PairDataset, PairFiles


@dataclass(frozen=True)
class SubmissionLayout:
    """What a benchmark's server takes.

    Attributes:
        place: where the flow of a pair lies in the folder of a submission.
        upload: what to do with the folder in the end; ``{folder}`` and ``{archive}`` stand for the paths.
        passes: how many data sets (rendering passes) belong to a submission.
        packed: the name of a pair's file in the zip archive; None if there is no archive.
    """

    place: Callable[[PairFiles], Path]
    upload: str
    passes: int = 1
    packed: Callable[[PairFiles], str] | None = None


@dataclass(frozen=True)
class Family:
    """A data set as its authors publish it.

    Attributes:
        name: what ``--dataset`` calls it.
        title: what people call it.
        folder: name of its folder where several data sets lie under one root; empty if it has none.
        tree: a file that shows the layout, for messages.
        open: reads the layout below the data set's own folder, for one of ``splits``.
        signs: patterns of which one matches something below the data set's own folder.
        splits: "training", "validation", "testing" in our words, whatever the folders are called.
        pairs: official number of pairs of a split, of each `PairDataset` that ``open`` returns; only numbers
            that the authors or their tools state.
        files: suffixes of files that ``open`` takes in place of a folder.
        augmentation: published ranges by the training stage that they are for.
        submission: what the benchmark's server takes; None without one that we know.
    """

    name: str
    title: str
    folder: str
    tree: str
    open: Callable[[Path, str], list[PairDataset]]
    signs: tuple[str, ...]
    splits: tuple[str, ...] = ("training", "testing")
    pairs: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[str, ...] = ()
    augmentation: Mapping[str, Augmentation] = field(default_factory=lambda: MappingProxyType({}))
    submission: SubmissionLayout | None = None

    def lies_in(self, folder: Path) -> bool:
        """Return whether a folder is this data set's own, by what lies there."""
        found = (path for sign in self.signs for path in folder.glob(sign))
        return any(not path.name.startswith(".") for path in found)
