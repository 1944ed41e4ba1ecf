"""How many evaluations of the update operator each solver needs until the flow rests."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

import torch

from deqflow.data.sample import Sample
from deqflow.equilibrium import Anderson, Broyden, FixedPointIteration, Solver
from deqflow.estimator import DEQFlow
from deqflow.evaluation.metrics import end_point_error
from deqflow.tables import markdown

SOLVERS: Mapping[str, Solver] = {
    "plain": FixedPointIteration(),
    "relaxed 0.8": FixedPointIteration(relaxation=0.8),
    "relaxed 1.2": FixedPointIteration(relaxation=1.2),
    "Anderson 3": Anderson(window=3),
    "Anderson 5": Anderson(window=5),
    "Broyden 12": Broyden(history=12),
    "Broyden 12, line search": Broyden(history=12, line_search=2),
}


@dataclass
class Convergence:
    """Of one solver: a value per pair.

    Attributes:
        steps: evaluations until it stopped.
        converged: whether it stopped by the tolerance.
        epe: end-point error of where it stopped, pixels.
    """

    steps: list[int] = field(default_factory=list)
    converged: list[bool] = field(default_factory=list)
    epe: list[float] = field(default_factory=list)


@torch.no_grad()
def measure_convergence(
    model: DEQFlow,
    samples: Iterable[Sample],
    *,
    tolerance: float,
    steps: int,
    solvers: Mapping[str, Solver] = SOLVERS,
) -> dict[str, Convergence]:
    """Solve every pair with every solver, all from the same start: the model's usual one.

    Args:
        model: in evaluation mode.
        samples: pairs with ground truth, of some pixel each.
        tolerance: RMS movement of the flow in pixels per step at which a solve stops.
        steps: most evaluations.
        solvers: by the name to report them under.
    """
    results = {name: Convergence() for name in solvers}
    for sample in samples:
        image1, image2 = model.to_tensor(sample.frame1), model.to_tensor(sample.frame2)
        pair = model.prepare(image1, image2)
        start = model.coarse_start(pair)
        for name, solver in solvers.items():
            settings = model.settings(steps=steps, tolerance=tolerance, solver=solver)
            solution = model.solve(pair, start, settings)
            estimate = model.decode(solution, pair.padding)[0]
            error = end_point_error(estimate.flow, sample.flow)[sample.valid]
            result = results[name]
            result.steps.append(estimate.steps)
            result.converged.append(estimate.converged)
            result.epe.append(float(error.mean()))
    return results


def convergence_table(results: Mapping[str, Convergence]) -> str:
    """A Markdown table, one row per solver."""
    header = ["solver", "steps, mean", "median", "converged %", "EPE, mean", "EPE, median"]
    rows = []
    for name, result in results.items():
        rows.append(
            [
                name,
                f"{fmean(result.steps):.1f}",
                f"{median(result.steps):g}",
                f"{100 * fmean(result.converged):.0f}",
                f"{fmean(result.epe):.3f}",
                f"{median(result.epe):.3f}",
            ]
        )
    return "\n".join(markdown(header, rows))
