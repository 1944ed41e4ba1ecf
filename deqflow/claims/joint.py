"""Joint inference and input optimization, or optimization around converged solves: an inverse problem."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from deqflow.claims.options import Findings, StudyOptions
from deqflow.equilibrium import Anderson, JointStep, StoppingRule, solve
from deqflow.equilibrium.state import State, select
from deqflow.evaluation.charts import Chart, line_figure
from deqflow.tables import markdown

SIZE, INPUTS, OBSERVED, BATCH = 200, 40, 60, 8
"""Width of the equilibrium, of its input and of what is observed of it, and problems solved at once."""

EXCESS = 1e-2
"""Relative distance from the best objective that any way has found, at which the clock stops."""


class Inversion:
    """Which input made an equilibrium ``z = tanh(A z + B x + c)`` look as observed: |C z - y|^2 + w |x|^2.

    The matrices are drawn; A has spectral norm 0.8, so that there is one fixed point for every input.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.a = 0.8 * torch.linalg.qr(drawn(SIZE, SIZE)).Q
        self.b, self.c = drawn(SIZE, INPUTS) / INPUTS**0.5, 0.1 * drawn(SIZE)
        self.observe = drawn(OBSERVED, SIZE) / SIZE**0.5
        self.evaluations = 0
        true = (drawn(BATCH, INPUTS),)
        stop = StoppingRule(steps=500, tolerance=1e-10)
        (z,) = solve(
            partial(self.forward, true), (torch.zeros(BATCH, SIZE).double(),), Anderson(), stop
        ).state
        self.target = z @ self.observe.T
        self.evaluations = 0

    def operator(self, point: State, inputs: State, active: Tensor | None = None) -> State:
        """Evaluate the equilibrium's step, and count it."""
        self.evaluations += 1
        (z,), (x,) = point, inputs
        return (torch.tanh(z @ self.a.T + x @ self.b.T + self.c),)

    def forward(self, inputs: State, point: State, active: Tensor | None = None) -> State:
        """Evaluate the step at a fixed input."""
        return self.operator(point, inputs if active is None else select(inputs, active), active)

    def objective(self, point: State, inputs: State, active: Tensor | None = None) -> Tensor:
        """Return what is to be small, (B,)."""
        (z,), (x,) = point, inputs
        target = self.target if active is None else self.target[active]
        return (z @ self.observe.T - target).square().sum(dim=1) + 1e-3 * x.square().sum(dim=1)

    def start(self) -> tuple[State, State]:
        """Return zeros."""
        return (torch.zeros(BATCH, SIZE).double(),), (torch.zeros(BATCH, INPUTS).double(),)

    def value(self, inputs: State) -> float:
        """Return the mean objective of inputs at their converged fixed points; not counted."""
        counted = self.evaluations
        stop = StoppingRule(steps=500, tolerance=1e-10)
        point = solve(partial(self.forward, inputs), self.start()[0], Anderson(), stop).state
        self.evaluations = counted
        return float(self.objective(point, inputs).mean())


class Progress(NamedTuple):
    """Evaluations of the step, seconds and objective so far."""

    evaluations: list[int]
    seconds: list[float]
    objective: list[float]


@dataclass
class Watch:
    """Notes how far an optimization has come, with the clock stopped while it does."""

    problem: Inversion
    noted: Progress
    began: float

    @classmethod
    def start(cls, problem: Inversion) -> "Watch":
        """Start the clock."""
        problem.evaluations = 0
        return cls(problem, Progress([], [], []), time.perf_counter())

    def note(self, inputs: State) -> None:
        """Add where the inputs are now."""
        now = time.perf_counter()
        self.noted.evaluations.append(self.problem.evaluations)
        self.noted.seconds.append(now - self.began)
        self.noted.objective.append(self.problem.value(inputs))
        self.began += time.perf_counter() - now


def jointly(problem: Inversion, rate: float, rounds: int) -> Progress:
    """Solve for point, adjoint and input together, Anderson over all three."""
    step = JointStep(operator=problem.operator, objective=problem.objective, rate=rate)
    state, watch = step.start(*problem.start()), Watch.start(problem)
    for _ in range(rounds):
        found = solve(step, state, Anderson(window=12, ridge=1e-8), StoppingRule(steps=20, tolerance=1e-7))
        state = found.state
        watch.note(step.split(state).inputs)
    return watch.noted


def nested(
    problem: Inversion, rate: float, rounds: int, *, optimizer: Callable[..., torch.optim.Optimizer]
) -> Progress:
    """Change the input after every converged point and adjoint, each solved from the last."""
    point, inputs = problem.start()
    watch, stop = Watch.start(problem), StoppingRule(steps=200, tolerance=1e-5)
    adjoint: State = (torch.zeros_like(point[0]),)
    products = JointStep(operator=problem.operator, objective=problem.objective, rate=rate)
    leaf = inputs[0].clone().requires_grad_()
    changing = optimizer([leaf], lr=rate)

    def closure() -> Tensor:
        nonlocal point, adjoint
        here = (leaf.detach(),)
        point = solve(partial(problem.forward, here), point, Anderson(), stop).state
        adjoint = solve(partial(_adjoint, products, point, here), adjoint, Anderson(), stop).state
        moved = products.split(products((*point, *adjoint, *here))).inputs[0]
        leaf.grad = (here[0] - moved) / rate
        return problem.objective(point, here).sum()

    for number in range(rounds):
        changing.step(closure)  # type: ignore[arg-type]  # torch types closures as returning float
        if number % 5 == 4:
            watch.note((leaf.detach(),))
    return watch.noted


def _adjoint(
    products: JointStep, point: State, inputs: State, adjoint: State, active: Tensor | None = None
) -> State:
    if active is not None:
        point, inputs = select(point, active), select(inputs, active)
    return products.split(products((*point, *adjoint, *inputs), active)).adjoint


WAYS: dict[str, Callable[[Inversion, float, int], Progress]] = {
    "jointly": jointly,
    "descent": partial(nested, optimizer=torch.optim.SGD),
    "Adam": partial(nested, optimizer=torch.optim.Adam),
    "L-BFGS": partial(nested, optimizer=partial(torch.optim.LBFGS, max_iter=1, history_size=12)),
}
"""All but the first optimize around converged solves."""

RATES = {
    "jointly": ((0.1, 0.2, 0.4), 15),
    "descent": ((0.03, 0.1, 0.3), 300),
    "Adam": ((0.03, 0.1, 0.3), 300),
    "L-BFGS": ((0.1, 0.3, 1.0), 100),
}
"""Rates tried, of which the best counts, and how often the input changes (jointly, 20 times as often)."""


def joint(options: StudyOptions) -> Findings:
    """Invert an equilibrium in three ways, each at its best rate, and compare work at equal objective."""
    rows, curves = [], {}
    runs: dict[str, list[Progress]] = {}
    problem = Inversion(options.seeds[0])
    for way, how in WAYS.items():
        rates, rounds = RATES[way]
        runs[way] = [how(problem, rate, rounds) for rate in rates]
    best = min(min(run.objective) for some in runs.values() for run in some)
    needed: dict[str, tuple[float, float]] = {}
    for way, some in runs.items():
        reached = [_until(run, best * (1 + EXCESS)) for run in some]
        evaluations, seconds, number = min((*work, number) for number, work in enumerate(reached))
        needed[way] = evaluations, seconds
        rows.append([way, f"{RATES[way][0][number]:g}", f"{evaluations:.0f}", f"{seconds:.2f}"])
        run = some[number]
        curves[way] = (run.evaluations, [max(value / best - 1, 1e-9) for value in run.objective])
    steps, seconds = needed.pop("jointly")
    told = "To the same objective, optimizing around converged solves takes " + ", ".join(
        f"{a / steps:.0f} times the evaluations and {b / seconds:.0f} times the time by {way}"
        if math.isfinite(a)
        else f"more than {RATES[way][1]} changes of the input by {way}"
        for way, (a, b) in needed.items()
    )
    header = ["way", "best rate", f"evaluations until {100 * EXCESS:g} % above the best", "seconds"]
    chart = Chart(
        "work",
        "Objective above the best against evaluations of the step",
        line_figure(curves, "evaluations", "objective / best - 1", log="xy"),
    )
    return Findings(f"{told}.", (markdown(header, rows),), (chart,))


def _until(run: Progress, goal: float) -> tuple[float, float]:
    """Return evaluations and seconds until the objective is as small as the goal; infinite if it never is."""
    for evaluations, seconds, value in zip(*run, strict=True):
        if value <= goal:
            return evaluations, seconds
    return float("inf"), float("inf")
