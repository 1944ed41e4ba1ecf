"""The loop over data sets: read ahead, batch by size, predict, measure.

Results come one by one and nothing is kept, so that memory does not grow with the data.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from deqflow.data.datasets import PairDataset
from deqflow.data.sample import warn_unknown
from deqflow.errors import DataError
from deqflow.evaluation.metrics import measure_sample
from deqflow.evaluation.predictors import Item, Prediction, Predictor
from deqflow.evaluation.results import SampleKey, SampleResult


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
        """Every pair, or the first ``limit`` of each data set.

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
        """What one of ``count`` processes has to do."""
        return Plan(self.datasets, self.chains[rank::count])

    def without(self, finished: Collection[SampleKey], methods: Collection[str]) -> "Plan":
        """The chains of which something is missing; they are needed whole, to pass on where solves ended."""

        def missing(place: Place) -> bool:
            return any(key not in finished for key in self.keys(place, methods))

        return Plan(self.datasets, [chain for chain in self.chains if any(map(missing, chain))])

    def keys(self, place: Place, methods: Collection[str]) -> list[SampleKey]:
        """What a pair's results are called."""
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


def evaluate(
    methods: Mapping[str, Predictor],
    plan: Plan,
    *,
    batch: int = 1,
    workers: int = 0,
    finished: Collection[SampleKey] = frozenset(),
) -> Iterator[list[SampleResult]]:
    """Run every method on every pair.

    Args:
        methods: by name.
        plan: what to evaluate; chains are passed on in order.
        batch: pairs of one size that a method gets at a time; must be 1 if a method goes along sequences.
        workers: threads that read ahead; 0 reads when needed.
        finished: results that are not computed again.

    Yields:
        The results of one pair, of those methods that had not finished it.
    """
    for items in batches(read_ahead(plan, workers), batch):
        answers: dict[SampleKey, Prediction] = {}
        for name, predict in methods.items():
            # A method that goes along a sequence needs all of it; the others only what is missing.
            needed = [item for item in items if predict.sequential or _key(name, item) not in finished]
            if needed:
                answers |= {_key(name, i): found for i, found in zip(needed, predict(needed), strict=True)}
        for item in items:
            if not item.sample.known:
                warn_unknown(f"{item.dataset.title} {item.sample.name}")
            missing = [name for name in methods if _key(name, item) not in finished]
            yield [_result(name, item, answers[_key(name, item)]) for name in missing]


def read_ahead(plan: Plan, workers: int) -> Iterator[Item]:
    """The samples of a plan in order, read by threads before they are needed.

    Decoding releases Python's lock, so that threads serve; unlike processes they need not copy what they read
    and end with Ctrl-C.
    """

    def read(place: Place) -> Item:
        dataset = plan.datasets[place.dataset]
        return Item(dataset, dataset[place.pair])

    places = plan.places
    if workers < 1:
        yield from map(read, places)
        return
    waiting: deque[Future[Item]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
    try:
        for place in places:
            waiting.append(pool.submit(read, place))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Items of one frame size and padding in groups of ``size``; the last ones of each size are fewer.

    No more than ``4 * size`` items wait for others of their size: then the largest group goes as it is.
    """
    groups: dict[object, list[Item]] = {}
    for item in items:
        group = groups.setdefault((item.sample.frame1.shape, item.padding), [])
        group.append(item)
        waiting = sum(map(len, groups.values()))
        largest = max(groups, key=lambda kind: len(groups[kind]))
        if len(groups[largest]) >= size or waiting > 4 * size:
            yield groups.pop(largest)
    yield from groups.values()


def _check_names(dataset: PairDataset) -> None:
    name, count = Counter(files.name for files in dataset.files).most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} pairs of {dataset.title} are called {name!r}: expected names of their own")


def _key(method: str, item: Item) -> SampleKey:
    return SampleKey(method, item.dataset.title, item.sample.name)


def _result(method: str, item: Item, prediction: Prediction) -> SampleResult:
    sample = item.sample
    height, width = sample.frame1.shape[:2]
    return SampleResult(
        method=method,
        dataset=item.dataset.title,
        group=item.dataset.group,
        name=sample.name,
        sequence=sample.sequence,
        index=sample.index,
        width=width,
        height=height,
        regions=measure_sample(prediction.flow, sample),
        seconds=prediction.seconds,
        steps=prediction.steps,
        converged=prediction.converged,
        residual=prediction.residual,
        residual_peak=prediction.residual_peak,
        reused=prediction.reused,
    )
