"""Claims about training: arms held against each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from deqflow.claims.arms import (
    EVALUATIONS,
    USUAL,
    Arm,
    ArmResult,
    result_before,
    result_of,
    runs_folder,
    training_of,
)
from deqflow.claims.options import Findings, StudyOptions
from deqflow.evaluation.bench import mean_error
from deqflow.evaluation.charts import Chart, line_figure
from deqflow.evaluation.training_time import measure_phases
from deqflow.io.files import replace_bytes
from deqflow.tables import markdown

TIMED_STEPS = 5
"""Steps of each arm that times are medians of."""

PENALTY_EVERY = 2
"""Training steps between two penalties: as published, about half of them have one."""

_FROM_ZEROS = {"wrong_start_probability": 0.0, "coarse_start_probability": 0.0}
EQUILIBRIUM = Arm("from-zeros", _FROM_ZEROS)
UNROLLED = Arm("unrolled", {**_FROM_ZEROS, "gradient": "unrolled", "solver_steps": (8, 8), "corrections": 8})

Results = Mapping[str, Sequence[ArmResult]]
"""Of every seed, by what to call the arm."""


def corrections(options: StudyOptions) -> Findings:
    """Train with losses on 1, 2, 3 and 6 points of the path: on its end alone, and on others before it."""
    arms = {
        "1 loss, at the end": Arm("1-loss", {"corrections": 1}),
        "2 losses": Arm("2-losses", {"corrections": 2}),
        "3 losses": USUAL,
        "6 losses": Arm("6-losses", {"corrections": 6}),
    }
    return _findings(options, _results(options, arms))


def gradients(options: StudyOptions) -> Findings:
    """Train with every gradient of a fixed point, and time the two passes of a step at the usual weights."""
    arms = {
        "one-step": USUAL,
        "phantom, 3 steps": Arm("phantom", {"gradient": "phantom", "gradient_steps": 3}),
        "Neumann, 3 terms": Arm("neumann", {"gradient": "neumann", "gradient_steps": 3}),
        "implicit": Arm("implicit", {"gradient": "implicit"}),
    }
    results = _results(options, arms)
    weights = training_of(options, USUAL, options.seeds[0]).output / f"{options.model}.safetensors"
    trained = str(weights) if weights.exists() else None
    phases = measure_phases(
        {
            label: replace(training_of(options, arm), init=trained, learning_rate=0.0)
            for label, arm in arms.items()
        },
        repeats=TIMED_STEPS,
    )
    passes = {
        f"{phase}, s": {label: f"{seconds[phase]:.3f}" for label, seconds in phases.items()}
        for phase in ("forward", "backward")
    }
    return _findings(options, results, passes)


def recurrent(options: StudyOptions) -> Findings:
    """Train the same network as an equilibrium, and unrolled over eight steps as RAFT is, for equal time."""
    steps = _affordable_steps(options, EQUILIBRIUM, UNROLLED)
    unrolled = replace(UNROLLED, changes={**UNROLLED.changes, "train_steps": steps})
    arms = {"equilibrium": EQUILIBRIUM, "unrolled, 8 steps": unrolled}
    return _findings(options, _results(options, arms))


def jacobian(options: StudyOptions) -> Findings:
    """Train with several weights of the Jacobian penalty, on every other step."""
    arms = {"weight 0": USUAL} | {
        f"weight {weight:g}": Arm(
            f"jacobian-{weight:g}", {"jacobian_weight": weight, "jacobian_every": PENALTY_EVERY}
        )
        for weight in (0.1, 1.0)
    }
    return _findings(options, _results(options, arms))


def _affordable_steps(options: StudyOptions, reference: Arm, arm: Arm) -> int:
    """Return the steps of an arm that take as long as the study's steps of another one.

    They are measured once, and kept: the schedule of a training that is gone on with must stay what it was.
    """
    path = runs_folder(options) / f"{arm.name}-steps.json"
    if not path.exists():
        variants = {one.name: training_of(options, one) for one in (reference, arm)}
        phases = measure_phases(variants, repeats=TIMED_STEPS)
        taken = {name: sum(seconds.values()) for name, seconds in phases.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = max(1, round(options.train_steps * taken[reference.name] / taken[arm.name]))
        replace_bytes(path, json.dumps({"seconds per step": taken, "steps": steps}).encode())
    return int(json.loads(path.read_text())["steps"])


def _results(options: StudyOptions, arms: Mapping[str, Arm]) -> Results:
    """Train every arm with every seed: all arms with the first before any with the second."""
    results: dict[str, list[ArmResult]] = {label: [] for label in arms}
    for seed in options.seeds:
        for label, arm in arms.items():
            results[label].append(result_of(options, arm, seed))
    return results


def _findings(
    options: StudyOptions, results: Results, columns: Mapping[str, Mapping[str, str]] | None = None
) -> Findings:
    """Hold arms against each other, with further columns of the table by their heads and the arms."""
    columns = columns or {}
    samples = list(options.samples())
    still = mean_error(float(np.linalg.norm(one.flow, axis=2)[one.valid].mean()) for one in samples)
    before = result_before(options, samples)
    if before is not None:
        results = {"before": [before], **results}
    rows, told, curves = [], [], {}
    for label, every in results.items():
        held = [result for result in every if not result.diverged] or every
        epe, minutes = fmean(one.epe for one in held), fmean(one.minutes for one in held)
        low, high = min(one.epe for one in held), max(one.epe for one in held)
        from_zeros = [fmean(one.from_zeros[i] for one in held) for i in range(len(EVALUATIONS))]
        rows.append(
            [
                label,
                str(held[0].train_steps),
                f"{minutes:.1f}",
                f"{epe:.3f}" + (f" ({low:.3f} to {high:.3f})" if len(held) > 1 else ""),
                f"{fmean(one.steps for one in held):.1f}",
                f"{fmean(one.residual for one in held):.3f}",
                f"{fmean(one.radius for one in held):.2f}",
                *(f"{value:.3f}" for value in from_zeros),
                f"{sum(one.diverged for one in every)} of {len(every)}",
                *(cells.get(label, "") for cells in columns.values()),
            ]
        )
        told.append(f"{label}: EPE {epe:.2f} after {minutes:.0f} minutes")
        curves[label] = (EVALUATIONS, from_zeros)
    header = ["training", "training steps", "minutes", "EPE", "solver steps", "last movement, px"]
    header += ["spectral radius", *(f"EPE at {count}, from zeros" for count in EVALUATIONS), "diverged"]
    chart = Chart(
        "error",
        "End-point error of each training against the solver steps from zeros",
        line_figure(curves, "solver steps from zeros", "EPE, px", log="x"),
    )
    told.append(f"flow of zeros: EPE {still:.2f}")
    return Findings("; ".join(told) + ".", (markdown([*header, *columns], rows),), (chart,))
