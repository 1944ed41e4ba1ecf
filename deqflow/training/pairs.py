"""The stages with ground truth on disk: mixtures of data sets, epochs in a drawn order, held-out pairs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset

from deqflow.data.augmentation import Augmentation
from deqflow.data.datasets import PairDataset, PairFiles, open_dataset
from deqflow.data.datasets.catalog import augmentation_in
from deqflow.data.sample import Sample, warn_unknown
from deqflow.errors import ConfigError, DataError, DeqflowError
from deqflow.training.data import HeldOut, Sources, corrupt, digest
from deqflow.training.options import PairOptions

T = TypeVar("T")

MOST_CORRUPT = 100
"""So many pairs in a row that cannot be read end the run, whatever it was told."""


@dataclass(frozen=True)
class Part:
    """One term of a mixture, written ``repeat*name:word:word@split``.

    Attributes:
        text: as it was written.
        repeat: how often each pair comes in an epoch.
        name: of a data set of the catalog.
        words: which the titles of its parts must have, such as ``clean`` and ``left``.
        split: of the data set.
    """

    text: str
    repeat: int
    name: str
    words: tuple[str, ...]
    split: str

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read one term; raises ConfigError if it does not follow the form."""
        found = re.fullmatch(r"(?:(\d+)\*)?([\w-]+)((?::[\w-]+)*)(?:@(\w+))?", text)
        if found is None or found[1] == "0":
            raise ConfigError(
                f"data set {text!r} is not of the form name, 100*name, name:clean or name@validation"
            )
        words = tuple(found[3].lower().split(":")[1:])
        return cls(text, int(found[1] or 1), found[2], words, found[4] or "training")

    def open(self, root: Path) -> list[PairDataset]:
        """Open the data sets that the term means; raise DataError if there are none under ``root``."""
        found = open_dataset(self.name, root, split=self.split)
        chosen = [pairs for pairs in found if set(self.words) <= set(pairs.title.lower().split())]
        if not chosen:
            titles = ", ".join(pairs.title for pairs in found)
            raise DataError(f"{self.text!r} is none of the parts of {self.name} under {root}: {titles}")
        return chosen


def open_pairs(options: PairOptions) -> Sources:
    """Open the mixture that ``options.data_sets`` names, without the sequences kept back.

    Raises:
        ConfigError: no ``data``, or a name that does not parse.
        DataError: a data set that is not there or has no such part, or too little to keep anything back.
    """
    root = options.data
    if root is None:
        raise ConfigError(
            f"stage {options.stage} reads pairs from disk: --data must name the folder that holds them"
        )
    parts = [(part, part.open(root)) for part in map(Part.parse, options.data_sets)]
    if not parts:
        raise ConfigError(f"stage {options.stage} needs the names of data sets in --data-sets")
    pairs = [(part, pair) for part, found in parts for data_set in found for pair in data_set.files]
    kept = choose_held_out([pair for _, pair in pairs], options.held_out, options.seed)
    changes = {part: augmentation(options, part) for part, _ in parts}
    training = [
        (pair, changes[part]) for part, pair in pairs if pair.frame1 not in kept for _ in range(part.repeat)
    ]
    held_out = [pair for _, pair in pairs if pair.frame1 in kept]
    for part in map(Part.parse, options.validation_sets):
        held_out += [pair for data_set in part.open(root) for pair in data_set.files]
    evaluated = spread(held_out, options.validation_pairs)
    identity = {part.text: digest([pair.name for p, pair in pairs if p is part]) for part, _ in parts}
    counts = [
        f"{part.repeat} x {data_set.title} ({len(data_set)} pairs)"
        for part, found in parts
        for data_set in found
    ]
    return Sources(
        training=Epochs(training, options.seed, options.on_corrupt),
        held_out=(HeldOut(lambda index: evaluated[index].read(), len(evaluated)),),
        epoch=len(training),
        identity={**identity, "held out": digest([pair.name for pair in held_out])},
        summary=" + ".join(counts) + (f", {len(held_out)} pairs held out" if held_out else ""),
        on_corrupt=options.on_corrupt,
    )


def choose_held_out(pairs: Sequence[PairFiles], share: float, seed: int) -> set[Path]:
    """Choose the first frames of the pairs to keep back: a share of the sequences, at least one, drawn.

    Of a single sequence it is the end. Pairs of one sequence show nearly the same, so one that is trained on
    says nothing about the others.

    Raises:
        DataError: fewer than two pairs.
    """
    if share == 0:
        return set()
    groups: dict[str, set[int]] = {}
    for pair in pairs:
        groups.setdefault(pair.sequence or pair.name, set()).add(pair.index)
    names = sorted(groups)
    if len(names) > 1:
        count = min(len(names) - 1, max(1, round(share * len(names))))
        drawn = {names[index] for index in np.random.default_rng(seed).permutation(len(names))[:count]}
        return {pair.frame1 for pair in pairs if (pair.sequence or pair.name) in drawn}
    places = sorted(groups[names[0]])
    if len(places) < 2:
        raise DataError("one pair is too little to train on and to hold out: give more, or --held-out 0")
    count = min(len(places) - 1, max(1, round(share * len(places))))
    return {pair.frame1 for pair in pairs if pair.index >= places[-count]}


def spread(pairs: Sequence[T], most: int) -> list[T]:
    """Choose at most so many pairs, evenly from the whole list."""
    count = min(len(pairs), most)
    return [pairs[index * len(pairs) // count] for index in range(count)]


def augmentation(options: PairOptions, part: Part) -> Augmentation:
    """Choose what is done to the pairs of a data set in a stage, to the stage's crop."""
    crop = (options.height, options.width)
    if not options.augment:
        names = ("scale", "asymmetric", "eraser")
        still: dict[str, Any] = {f"{name}_probability": 0.0 for name in names}
        still |= dict.fromkeys(("flip_horizontal", "flip_vertical"), 0.0)
        still |= dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
        return Augmentation(crop=crop, **still)
    return replace(augmentation_in(options.stage, part.name), crop=crop)


class Epochs(Dataset[Sample]):
    """Every pair once an epoch, in an order drawn for each epoch; pair ``n`` is a function of (seed, n).

    Pairs without a pixel of known flow are named by a `DataWarning`, and the epoch's next takes their place.

    Args:
        pairs: an epoch, repetitions included, and what is done to each, with draws from (seed, epoch, index).
        seed: of order and changes.
        on_corrupt: ``skip`` puts the epoch's next pair in the place of one that cannot be read, and names it
            on standard error; ``stop`` raises.
    """

    def __init__(self, pairs: Sequence[tuple[PairFiles, Augmentation]], seed: int, on_corrupt: str) -> None:
        if not pairs:
            raise DataError("no pair is left to train on: all are held out")
        self.pairs, self.seed, self.on_corrupt = pairs, seed, on_corrupt
        self._named: set[str] = set()
        self._order: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = None

    def __getitem__(self, number: int) -> Sample:
        """Return pair ``number`` of the run.

        Raises:
            DataError: it cannot be read and ``on_corrupt`` is ``stop``, or a hundred in a row cannot.
        """
        epoch, place = divmod(number, len(self.pairs))
        for attempt in range(MOST_CORRUPT):
            index = self.index(epoch, (place + attempt) % len(self.pairs))
            pair, change = self.pairs[index]
            try:
                sample = pair.read()
            except (DeqflowError, OSError) as error:
                if self.on_corrupt != "skip" or pair.name not in self._named:
                    corrupt(f"pair {pair.name!r}", error, self.on_corrupt)
                self._named.add(pair.name)
                continue
            if not sample.known:
                if pair.name not in self._named:
                    warn_unknown(pair.name)
                self._named.add(pair.name)
                continue
            return change(sample, np.random.default_rng([self.seed, epoch, index]))
        raise DataError(
            f"{MOST_CORRUPT} pairs in a row cannot be read or have no pixel of known flow, "
            f"the last of them {pair.name!r}"
        )

    def index(self, epoch: int, place: int) -> int:
        """Which pair comes at a place of an epoch."""
        if self._order is None or self._order[0] != epoch:
            drawn = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
            self._order = epoch, drawn
        return int(self._order[1][place])
