"""What is evaluated: pairs of data sets, those that follow each other in time kept together."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deqflow.data.datasets import PairDataset
from deqflow.errors import DataError
from deqflow.evaluation.results import SampleKey


class Place(NamedTuple):
    """A pair by its place among the data sets."""

    dataset: int
    pair: int


@dataclass(frozen=True)
class Plan:
    """Which pairs are evaluated, and which of them belong together.

    Attributes:
        datasets: what the places are in.
        chains: places in order; those of one chain follow each other in time and are not torn apart.
    """

    datasets: Sequence[PairDataset]
    chains: list[list[Place]]

    @classmethod
    def of(
        cls, datasets: Sequence[PairDataset], *, sequential: bool = False, limit: int | None = None
    ) -> "Plan":
        """Plan every pair, or the first ``limit`` of each data set.

        Args:
            datasets: in the order in which they are evaluated.
            sequential: make chains of pairs whose frames follow each other; otherwise each pair is one.
            limit: pairs.

        Raises:
            DataError: two pairs of a data set have one name, so that their results would be confused.
        """
        chains: list[list[Place]] = []
        for number, dataset in enumerate(datasets):
            _check_names(dataset)
            last = None
            for index, files in enumerate(dataset.files[:limit]):
                place = (files.sequence, files.index)
                if not (sequential and place == last):
                    chains.append([])
                chains[-1].append(Place(number, index))
                last = (files.sequence, files.index + 1)
        return cls(datasets, chains)

    def share(self, rank: int, count: int) -> "Plan":
        """Return what one of ``count`` processes has to do."""
        return Plan(self.datasets, self.chains[rank::count])

    def without(self, finished: Collection[SampleKey], methods: Collection[str]) -> "Plan":
        """Return the chains that lack a result; they are needed whole, to pass on where solves ended."""

        def missing(place: Place) -> bool:
            return any(key not in finished for key in self.keys(place, methods))

        return Plan(self.datasets, [chain for chain in self.chains if any(map(missing, chain))])

    def keys(self, place: Place, methods: Collection[str]) -> list[SampleKey]:
        """Return what a pair's results are called."""
        dataset = self.datasets[place.dataset]
        return [SampleKey(method, dataset.title, dataset.files[place.pair].name) for method in methods]

    @property
    def places(self) -> list[Place]:
        """Every pair in order."""
        return [place for chain in self.chains for place in chain]

    @property
    def pairs(self) -> dict[str, int]:
        """How many pairs there are of each data set, by its title."""
        counts = {dataset.title: 0 for dataset in self.datasets}
        for place in self.places:
            counts[self.datasets[place.dataset].title] += 1
        return counts


def _check_names(dataset: PairDataset) -> None:
    name, count = Counter(files.name for files in dataset.files).most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} pairs of {dataset.title} are called {name!r}: expected names of their own")
