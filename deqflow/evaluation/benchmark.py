"""A whole evaluation: what is left to do is shared between processes, and what they found is put together."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from deqflow.evaluation.folder import ResultsFolder
from deqflow.evaluation.predictors import Predictor
from deqflow.evaluation.results import SAMPLES, SampleKey, SampleResult, SampleTable
from deqflow.evaluation.runner import Plan, evaluate
from deqflow.evaluation.summary import Summary
from deqflow.evaluation.totals import RegionTotal
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
        Everything found, in this run and before; in the first process alone, the others' is their own share.

    Raises:
        DeqflowError, OSError: a pair cannot be read, or the folder cannot be used.
    """
    group = dist.new_group(backend="gloo", timeout=_PATIENCE) if processes.count > 1 else None
    summary = Summary.of(list(methods), plan)
    finished: set[SampleKey] = set()
    if folder is not None:
        finished = _begin(folder, settings or {}, summary, processes, overwrite=overwrite)
    share = plan.without(finished, methods).share(processes.rank, processes.count)
    found = evaluate(methods, share, batch=batch, workers=workers, finished=finished)
    with (
        nullcontext() if folder is None else folder.table(processes.rank) as table,
        tqdm(total=len(share.places), unit="pair", disable=not (progress and processes.first)) as bar,
    ):
        try:
            _collect(found, summary, table, bar)
        except KeyboardInterrupt:
            bar.close()
            if folder is not None and processes.first:
                path = folder.path / SAMPLES
                print(f"{path} holds what is finished; the same command goes on", file=sys.stderr)
            raise
    if group is not None:
        shares: list[Any] | None = [None] * processes.count if processes.first else None
        dist.gather_object(summary, shares, group=group)
        for other in (shares or [])[1:]:
            summary.merge(other)
    if folder is not None and processes.first:
        keys = (key for place in plan.places for key in plan.keys(place, methods))
        folder.close(keys, {"settings": settings, **summary.as_dict()}, summary.table())
    return summary


def _begin(
    folder: ResultsFolder,
    settings: dict[str, Any],
    summary: Summary,
    processes: Processes,
    *,
    overwrite: bool,
) -> set[SampleKey]:
    """Open a folder; its results go into the first process's summary, and all are told their keys."""
    if processes.first:
        folder.open(settings, overwrite=overwrite)
    processes.wait()
    finished = set()
    for result in folder.finished():
        finished.add(result.key)
        if processes.first:
            summary.add(result)
    processes.wait()  # until all have read what the first will now append to
    return finished


def _collect(
    found: Iterator[list[SampleResult]], summary: Summary, table: SampleTable | None, bar: Any
) -> None:
    """Keep results as they come; a row is on disk before it counts."""
    running = RegionTotal()
    for results in found:
        for result in results:
            if table is not None:
                table.append(result)
            summary.add(result)
        _show(bar, running, results, summary.methods[0])


def _show(bar: Any, running: RegionTotal, results: list[SampleResult], method: str) -> None:
    """One pair more, and the error of the method of interest over this run's pairs so far."""
    for result in results:
        if result.method == method:
            running.add(result.regions["all"])
            bar.set_postfix(epe=f"{running.epe_image:.3f}", refresh=False)
            bar.set_description(result.dataset, refresh=False)
    bar.update()
