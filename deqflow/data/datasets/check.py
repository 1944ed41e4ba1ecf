"""Whether a data set on disk is whole: pairs against the official counts, files against their headers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from deqflow.data.datasets.catalog import DATASETS, own_folder
from deqflow.data.datasets.family import Family
from deqflow.data.datasets.headers import pixel_size
from deqflow.data.datasets.pairs import NoPairsError, PairDataset, PairFiles
from deqflow.errors import DataError, DeqflowError
from deqflow.io.formats.common import Size

MASKS = ("occlusion", "invalid", "noc", "objects", "known")


@dataclass
class Checked:
    """What was found of one data set's split.

    Attributes:
        dataset: the pairs that are complete.
        split: which part of the data set they are.
        official: how many there should be; None if that is not known.
        masks: how many pairs have which mask.
        broken: a sentence per file that cannot be what it should be.
    """

    dataset: PairDataset
    split: str
    official: int | None
    masks: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Say it: a line on completeness, one on what is missing if anything is, one per broken file."""
        found, official = len(self.dataset), self.official
        state = f"{found} pairs"
        if official is not None:
            state = f"{found} pairs, complete" if found == official else f"{found} of {official} pairs"
        masks = [f"{name} {'all' if count == found else f'of {count}'}" for name, count in self.masks.items()]
        lines = [
            f"{self.dataset.title}, {self.split}: {state}" + (f"; masks: {', '.join(masks)}" if masks else "")
        ]
        if self.dataset.incomplete and found != official:
            count = len(self.dataset.incomplete)
            lines.append(f"  {count} more lack a file, the first {self.dataset.incomplete[0].missing()}")
        return lines + [f"  broken: {sentence}" for sentence in self.broken]


def find_families(root: Path, name: str | None = None) -> list[tuple[Family, Path]]:
    """Return the data sets at ``root`` or in folders of their official names below it, by what lies there.

    Args:
        root: a folder, or a list of pairs.
        name: one of `DATASETS`; without it all are looked for.

    Raises:
        DataError: there is none.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist: expected a data set, or a folder that holds some")
    wanted = DATASETS if name is None else {name: DATASETS[name]}
    found = [(family, own_folder(family, root)) for family in wanted.values()]
    if root.is_file():
        found = [(family, root) for family, _ in found if root.suffix.lower() in family.files]
    else:
        found = [(family, folder) for family, folder in found if family.lies_in(folder)]
    if not found:
        trees = ", ".join(f"{family.title} ({family.tree})" for family in wanted.values())
        raise DataError(f"{root} holds no known data set: expected one of {trees}")
    return found


def check(family: Family, root: Path, *, progress: bool = True) -> Iterator[Checked | DataError]:
    """Check every split that is there; an error stands for one that cannot be opened.

    Args:
        family: which data set.
        root: its own folder.
        progress: show a bar on standard error if that is a terminal.
    """
    sizes: dict[Path, Size | DeqflowError] = {}
    said: set[str] = set()
    for split in family.splits:
        try:
            datasets = family.open(root, split)
        except NoPairsError:
            continue
        except DataError as error:
            if str(error) not in said:
                yield error
            said.add(str(error))
            continue
        for dataset in datasets:
            checked = Checked(dataset, split, family.pairs.get(split))
            for mask in MASKS:
                count = sum(getattr(pair, mask) is not None for pair in dataset.files)
                if count:
                    checked.masks[mask] = count
            bar = tqdm(
                dataset.files, dataset.title, unit="pair", leave=False, disable=None if progress else True
            )
            for pair in bar:
                checked.broken.extend(_broken(pair, sizes))
            yield checked


def _broken(pair: PairFiles, sizes: dict[Path, Size | DeqflowError]) -> Iterator[str]:
    """Return what is wrong with a pair's files, each named once however many pairs share it."""
    expected: Size | None = None
    for path, scale in _files(pair):
        seen = path in sizes
        if not seen:
            try:
                sizes[path] = pixel_size(path)
            except DeqflowError as error:
                sizes[path] = error
        size = sizes[path]
        if isinstance(size, DeqflowError):
            if not seen:
                yield str(size)
            continue
        if expected is None:
            expected = size
        wanted = (scale * expected[0], scale * expected[1])
        if size != wanted:
            yield (
                f"{path}: it is {size[0]}x{size[1]} pixels, "
                f"expected {wanted[0]}x{wanted[1]} as {pair.frame1.name} is {expected[0]}x{expected[1]}"
            )


def _files(pair: PairFiles) -> Iterable[tuple[Path, int]]:
    files = [(pair.frame1, 1), (pair.frame2, 1), (pair.flow, pair.truth_scale)]
    files += [(getattr(pair, mask), 1) for mask in MASKS]
    return [(path, scale) for path, scale in files if path is not None]
