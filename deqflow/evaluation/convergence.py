"""How many evaluations of the update operator each solver needs until the flow rests."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

import torch

from deqflow.data.sample import Sample
from deqflow.equilibrium import Anderson, Broyden, FixedPointIteration, Solver
from deqflow.estimator import DEQFlow
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
    """Solve every pair with every solver, from the model's usual start.

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
        padding = model.padding(image1)
        first, second = model.encode(padding.pad(image1)), model.encode(padding.pad(image2))
        truth = torch.from_numpy(sample.flow).permute(2, 0, 1).to(image1.device)
        valid = torch.from_numpy(sample.valid).to(image1.device)
        for name, solver in solvers.items():
            solution = model.solve_pair(first, second, steps=steps, tolerance=tolerance, solver=solver)
            error = (model.decode(solution, padding).flow[0] - truth).norm(dim=0)
            result = results[name]
            result.steps.append(int(solution.steps[0]))
            result.converged.append(bool(solution.converged[0]))
            result.epe.append(float(error[valid].mean()))
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
