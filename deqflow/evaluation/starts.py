"""What ``deqflow bench starts`` measures: whether the flow found depends on where its solve began.

An equilibrium is worth its name when it does not (path independence; Anil et al., NeurIPS 2022): pairs are
solved from several starts, and sequences with reuse and without.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Generator

from deqflow.data.sample import Sample
from deqflow.equilibrium import alignment
from deqflow.estimator import DEQFlow
from deqflow.evaluation.bench import PairErrors
from deqflow.evaluation.metrics import end_point_error
from deqflow.pair import PreparedPair
from deqflow.step import FlowState
from deqflow.stream import FlowStream
from deqflow.tables import markdown
from deqflow.training.starts import EVALUATIONS, REACHES, WrongKind, WrongStart, wrong_state

DEFAULT = "default"
"""The start of a cold solve: zeros at the coarsest scale."""

BATCH = 4
"""Pairs of one size that are solved together, so that each has others to get a start from."""

APART = 0.1
"""Mean distance of two flows, in pixels, above which they are two fixed points."""

WRONG_BY, WRONG_SHARE = 0.15, 0.25
"""Reuse is wrong where its error exceeds that of cold solves by both so many pixels and that share."""


class StartErrors(NamedTuple):
    """How a solve ended that began somewhere.

    Attributes:
        errors: against the truth, and what it took at all scales; how the start came about is not counted.
        departure: mean distance of the flow from the default start's after as many steps, pixels.
        alignment: cosine between the two states.
    """

    errors: PairErrors
    departure: float
    alignment: float


@torch.inference_mode()
def measure_starts(
    model: DEQFlow,
    samples: Iterable[Sample],
    *,
    multiples: Sequence[int] = (1, 4),
    finest_alone: bool = False,
) -> dict[tuple[str, int], list[StartErrors]]:
    """Solve every pair from every kind of start, with the model's own tolerance.

    Args:
        model: in evaluation mode.
        samples: pairs with ground truth; neighbors of one size are solved as a batch.
        multiples: of the model's own number of steps.
        finest_alone: begin at the finest scale, whose fixed point is then all that can bring a start back;
            else the coarser ones are solved as well, as they are wherever a start is given.

    Returns:
        Results by start and number of steps. A pair without neighbors of its size has no ``other-sample``.
    """
    found: dict[tuple[str, int], list[StartErrors]] = {}
    generator = torch.Generator().manual_seed(0)
    for group in _batches(samples):
        images = [
            torch.cat([model.to_tensor(getattr(sample, name)) for sample in group])
            for name in ("frame1", "frame2")
        ]
        pair = model.prepare(*images)
        starts = _starts(model, pair, generator)
        for multiple in multiples:
            steps, fine = multiple * model.defaults.steps, model.defaults.fine_steps
            settings = model.settings(steps=steps, fine_steps=fine and multiple * fine)
            given = replace(settings, scales=settings.scales[-1:]) if finest_alone else settings
            solved = {
                name: model.solve(pair, start, settings if start is None else given)
                for name, start in starts.items()
            }
            flows = {name: model.decode(solution, pair.padding) for name, solution in solved.items()}
            default = flows[DEFAULT]
            for name, estimates in flows.items():
                departures = (estimates.flow - default.flow).norm(dim=1).mean(dim=(1, 2)).tolist()
                alignments = alignment(default.state, estimates.state).tolist()
                rows = zip(estimates, group, departures, alignments, strict=True)
                found.setdefault((name, steps), []).extend(
                    StartErrors(PairErrors.of(estimate, sample), departure, aligned)
                    for estimate, sample, departure, aligned in rows
                )
    return found


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Group neighbors of one size."""
    for _, alike in groupby(samples, key=lambda sample: sample.frame1.shape):
        group: list[Sample] = []
        for sample in alike:
            group.append(sample)
            if len(group) == BATCH:
                yield group
                group = []
        if group:
            yield group


def _starts(model: DEQFlow, pair: PreparedPair, generator: Generator) -> dict[str, FlowState | None]:
    """Return where to start a batch of padded pairs, by name; None is the default."""
    finest, solver = model.defaults.scales[-1], model.defaults.solver
    starts: dict[str, FlowState | None] = {DEFAULT: None}
    for kind in get_args(WrongKind):
        if kind == "other-sample" and len(pair.first.image) == 1:
            continue
        down, right = torch.randint(-REACHES[1], REACHES[1] + 1, (2,), generator=generator).tolist()
        start = WrongStart(kind, EVALUATIONS[1], (down, right))
        starts[kind] = wrong_state(model, pair, start, solver, scale=finest)
    return starts


def starts_table(found: Mapping[str, Mapping[tuple[str, int], list[StartErrors]]]) -> str:
    """Return a Markdown table, one row per weights, number of steps and start; means are over pairs."""
    header = ["weights", "start", "steps", "EPE", "of default's %", "cost", "converged %"]
    rows = []
    for weights, results in found.items():
        for (name, steps), pairs in sorted(results.items(), key=lambda item: item[0][1]):
            epe, usual = (fmean(one.errors.epe for one in some) for some in (pairs, results[DEFAULT, steps]))
            rows.append(
                [
                    weights,
                    name,
                    f"{steps}",
                    f"{epe:.3f}",
                    f"{100 * epe / usual:.1f}" if usual else "",
                    f"{fmean(one.errors.cost for one in pairs):.1f}",
                    f"{100 * fmean(one.errors.converged for one in pairs):.0f}",
                    f"{100 * fmean(one.departure > APART for one in pairs):.0f}",
                    f"{fmean(one.alignment for one in pairs):.4f}",
                ]
            )
    return "\n".join(markdown([*header, f"> {APART:g} px apart %", "alignment"], rows))


class ReuseErrors(NamedTuple):
    """A sequence with reuse and without, means over its pairs after the first.

    Attributes:
        motion: what happens in it.
        reuse: mean end-point error over valid pixels with reuse, pixels.
        cold: the same with every pair solved anew.
        reuse_cost: evaluations with reuse, in those of the 1/8 grid.
        cold_cost: the same without.
    """

    motion: str
    reuse: float
    cold: float
    reuse_cost: float
    cold_cost: float

    @property
    def wrong(self) -> bool:
        """Whether reuse does worse, by more than noise would."""
        return self.reuse > self.cold + max(WRONG_BY, WRONG_SHARE * self.cold)


def measure_reuse(model: DEQFlow, sequences: Iterable[Sequence[Sample]], **stream: Any) -> list[ReuseErrors]:
    """Estimate sequences frame by frame, with reuse and without.

    Args:
        model: in evaluation mode.
        sequences: neighboring pairs each, at least two of them; pairs without known flow, as across a cut,
            are estimated but not judged, nor are sequences that have no others after the first.
        stream: further options of `FlowStream`.
    """
    found = []
    for samples in sequences:
        if not any(sample.known for sample in samples[1:]):
            continue
        figures = {}
        for reuse in (True, False):
            flows = FlowStream(model, reuse=reuse, **stream)
            flows.push(samples[0].frame1)
            errors, costs = [], []
            for sample in samples:
                estimate = flows.push(sample.frame2)
                assert estimate is not None  # it is not the first frame
                if sample is not samples[0]:
                    costs.append(flows.cost)
                    if sample.known:
                        error = end_point_error(estimate.flow, sample.flow)[sample.valid]
                        errors.append(float(np.mean(error)))
            figures[reuse] = fmean(errors), fmean(costs)
        (reused, reuse_cost), (cold, cold_cost) = figures[True], figures[False]
        found.append(ReuseErrors(samples[0].sequence, reused, cold, reuse_cost, cold_cost))
    return found


def reuse_table(found: Mapping[str, Sequence[ReuseErrors]]) -> str:
    """Return a Markdown table, one row per weights and motion, and the wrong ones of all below it."""
    rows, told = [], []
    for weights, results in found.items():
        motions = dict.fromkeys(result.motion for result in results)
        for motion in motions:
            rows.append(_reuse_row(weights, motion, [one for one in results if one.motion == motion]))
        rows.append(_reuse_row(weights, "all", results))
        told.append(f"{weights}: reuse is wrong in {_wrong(results)}")
    header = ["weights", "motion", "EPE, reuse", "EPE, cold", "cost, reuse", "cost, cold", "wrong"]
    return "\n".join([*markdown(header, rows), "", *told])


def _reuse_row(weights: str, motion: str, results: Sequence[ReuseErrors]) -> list[str]:
    return [
        weights,
        motion,
        f"{fmean(one.reuse for one in results):.3f}",
        f"{fmean(one.cold for one in results):.3f}",
        f"{fmean(one.reuse_cost for one in results):.1f}",
        f"{fmean(one.cold_cost for one in results):.1f}",
        _wrong(results),
    ]


def _wrong(results: Sequence[ReuseErrors]) -> str:
    return f"{sum(one.wrong for one in results)} of {len(results)}"
