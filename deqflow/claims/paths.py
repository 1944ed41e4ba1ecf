"""Path independence: whether starts agree, whether that tells the error, and what more steps bring."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch

from deqflow.claims.options import Findings, StudyOptions
from deqflow.data.sample import Sample
from deqflow.estimator import DEQFlow
from deqflow.evaluation.charts import Chart, line_figure, scatter_figure
from deqflow.evaluation.metrics import end_point_error
from deqflow.evaluation.pair_study import spearman
from deqflow.evaluation.starts import DEFAULT, measure_starts
from deqflow.tables import markdown

COUNTS = (4, 8, 16, 32, 64, 128, 256)
"""Solver steps of the curves."""

MOTIONS = {"below 5 px": (0.0, 5.0), "5 to 20 px": (5.0, 20.0), "20 px and more": (20.0, np.inf)}
"""Pairs by the mean length of their true motion, pixels."""


def path_independence(options: StudyOptions) -> Findings:
    """Solve held-out pairs from several starts and for many steps, with every file of weights."""
    samples = list(options.samples())
    rows, told = [], []
    clouds: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    curves: dict[str, tuple[tuple[int, ...], list[float]]] = {}
    for name, model in options.weights().items():
        agreement, errors = _agreement(model, samples, finest_alone=True)
        through, _ = _agreement(model, samples, finest_alone=False)
        rank = spearman(agreement, errors)
        row = [agreement.mean(), np.mean(errors), rank, through.mean(), spearman(through, errors)]
        rows.append([name, *(f"{value:.4f}" for value in row)])
        clouds[name] = (np.maximum(1 - agreement, 1e-6), errors)
        told.append(f"{name}: alignment {agreement.mean():.3f}, EPE {np.mean(errors):.2f}, rank {rank:.2f}")
        curves |= {f"{name}, {motion}": curve for motion, curve in _curves(model, samples).items()}
    rank_of = "rank correlation of alignment and EPE over pairs"
    through_all = "alignment through all scales"
    header = ["weights", "alignment at the finest scale", "EPE, mean", rank_of, through_all, rank_of]
    steps = markdown(
        ["EPE, geometric mean", *map(str, COUNTS)],
        [[label, *(f"{value:.3f}" for value in curve[1])] for label, curve in curves.items()],
    )
    return Findings(
        "; ".join(told) + ".",
        (markdown(header, rows), steps),
        (
            Chart(
                "alignment",
                "End-point error of each pair against 1 - alignment of states from wrong starts",
                scatter_figure(clouds, "1 - alignment", "EPE, px"),
            ),
            Chart(
                "steps",
                "End-point error against solver steps, by how far things move",
                line_figure(curves, "solver steps", "EPE, px", log="xy"),
            ),
        ),
    )


def _agreement(
    model: DEQFlow, samples: Sequence[Sample], *, finest_alone: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean alignment over wrong starts, and the error from the usual start, of each pair."""
    found = measure_starts(model, samples, multiples=(1,), finest_alone=finest_alone)
    wrong = [pairs for (start, _), pairs in found.items() if start not in (DEFAULT, "zero")]
    agreement = [fmean(one.alignment for one in pair) for pair in zip(*wrong, strict=True)]
    errors = [one.errors.epe for one in found[DEFAULT, model.defaults.steps]]
    return np.array(agreement), np.array(errors)


@torch.inference_mode()
def _curves(model: DEQFlow, samples: Sequence[Sample]) -> dict[str, tuple[tuple[int, ...], list[float]]]:
    """Return the geometric mean of errors after so many steps from the usual start, by motion."""
    logarithms: dict[str, list[list[float]]] = {}
    for sample in samples:
        length = float(np.hypot(sample.flow[..., 0], sample.flow[..., 1])[sample.valid].mean())
        motion = next(name for name, (low, high) in MOTIONS.items() if low <= length < high)
        pair = model.prepare(model.to_tensor(sample.frame1), model.to_tensor(sample.frame2))
        scale = model.defaults.scales[-1]
        path = model.record(pair, model.coarse_start(pair), COUNTS)
        errors = []
        for state in path.recorded:
            field = pair.padding.crop(model.flow_at(state, scale=scale))
            flow = field[0].float().permute(1, 2, 0).cpu().numpy()
            errors.append(float(np.log(end_point_error(flow, sample.flow)[sample.valid].mean() + 0.01)))
        logarithms.setdefault(motion, []).append(errors)
    return {
        motion: (COUNTS, np.exp(np.mean(logarithms[motion], axis=0)).tolist())
        for motion in MOTIONS
        if motion in logarithms
    }
