"""The loop over data sets: read ahead, batch by size, predict, measure; shared between processes."""

import sys
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from deqflow.data.sample import warn_unknown
from deqflow.evaluation.metrics import ErrorSums, measure_sample
from deqflow.evaluation.plan import Place, Plan
from deqflow.evaluation.predictors import Item, Prediction, Predictor
from deqflow.evaluation.results import SAMPLES, ResultsFolder, SampleKey, SampleResult
from deqflow.evaluation.summary import Summary
from deqflow.processes import Processes

# Processes wait for the slowest at the end, whose last pairs may take long; the default is ten minutes.
_PATIENCE = timedelta(days=7)


def run_benchmark(
    methods: Mapping[str, Predictor],
    plan: Plan,
    processes: Processes,
    *,
    batch: int = 1,
    workers: int = 0,
    folder: ResultsFolder | None = None,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Evaluate every method on every pair of a plan.

    Args:
        methods: by name, the one of interest first.
        plan: all pairs; each process takes its share.
        processes: this one among those that take part.
        batch: see ``evaluate``.
        workers: see ``evaluate``.
        folder: where results are kept pair by pair, and where those of an earlier run may be.
        settings: everything that the results depend on, kept in the folder.
        overwrite: forget what the folder holds of another run.
        progress: show a bar with the error so far on standard error.

    Returns:
        Everything found, in this run and before; only in the first process that of the others as well.

    Raises:
        DeqflowError, OSError: a pair cannot be read, or the folder cannot be used.
    """
    group = dist.new_group(backend="gloo", timeout=_PATIENCE) if processes.count > 1 else None
    earlier: list[SampleResult] = []
    if folder is not None:
        if processes.first:
            folder.open(settings or {}, overwrite=overwrite)
        processes.wait()
        earlier = folder.results()
        processes.wait()  # until all have read what the first will now append to
    finished = {result.key for result in earlier}
    share = plan.without(finished, methods).share(processes.rank, processes.count)
    found: list[SampleResult] = []
    with (
        nullcontext() if folder is None else folder.table(processes.rank) as keep,
        tqdm(total=len(share.places), unit="pair", disable=not (progress and processes.first)) as bar,
    ):
        try:
            running = ErrorSums()
            for results in evaluate(methods, share, batch=batch, workers=workers, finished=finished):
                for result in results:
                    if keep is not None:
                        keep(result)
                    found.append(result)
                    if result.method == next(iter(methods)):
                        running += result.regions["all"]
                        bar.set_postfix(epe=f"{running.epe_image:.3f}", refresh=False)
                        bar.set_description(result.dataset, refresh=False)
                bar.update()
        except KeyboardInterrupt:
            bar.close()
            if folder is not None and processes.first:
                path = folder.path / SAMPLES
                print(f"{path} holds what is finished; the same command goes on", file=sys.stderr)
            raise
    shares: list[Any] = [found]
    if group is not None:
        shares = [None] * processes.count
        dist.gather_object(found, shares if processes.first else None, group=group)
    summary = Summary(list(methods), plan, [*earlier, *(r for share in shares for r in share or ())])
    if folder is not None and processes.first:
        folder.close(summary.results, {"settings": settings, **summary.as_dict()}, summary.table())
    return summary


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
    """Yield the samples of a plan in order, read by threads before they are needed.

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
    """Yield items of one frame size and padding in groups of ``size``; the last of each are fewer.

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
        cost=prediction.cost,
        converged=prediction.converged,
        residual=prediction.residual,
        residual_peak=prediction.residual_peak,
        reused=prediction.reused,
    )
