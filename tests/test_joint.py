"""Joint inference and input optimization against a problem whose answer is known."""

from functools import partial

import pytest
import torch

from deqflow.equilibrium import Anderson, Broyden, FixedPointIteration, JointStep, StoppingRule, solve
from deqflow.equilibrium.state import select

WEIGHT = 0.1


class Problem:
    """min over x of |z - t|^2 / 2 + w |x|^2 / 2 at z = A z + B x + c, a target for each of a batch."""

    def __init__(self, batch=3, size=6, inputs=4, radius=0.6):
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.a = radius * torch.linalg.qr(drawn(size, size)).Q
        self.b, self.c, self.target = drawn(size, inputs), drawn(size), drawn(batch, size)
        self.evaluations = 0

    def operator(self, point, inputs, active=None):
        self.evaluations += 1
        (z,), (x,) = point, inputs
        return (z @ self.a.T + x @ self.b.T + self.c,)

    def objective(self, point, inputs, active=None):
        (z,), (x,) = point, inputs
        target = self.target if active is None else self.target[active]
        return (z - target).square().sum(dim=1) / 2 + WEIGHT * x.square().sum(dim=1) / 2

    def answer(self):
        """Fixed points and inputs in closed form: z = M x + m, and the normal equations of x."""
        inverse = torch.linalg.inv(torch.eye(len(self.a), dtype=torch.float64) - self.a)
        m, shift = inverse @ self.b, inverse @ self.c
        normal = m.T @ m + WEIGHT * torch.eye(m.shape[1], dtype=torch.float64)
        x = torch.linalg.solve(normal, m.T @ (self.target - shift).T).T
        return x @ m.T + shift, x

    def start(self):
        return (torch.zeros_like(self.target),), (torch.zeros(len(self.target), self.b.shape[1]).double(),)


@pytest.mark.parametrize(
    ("solver", "rate"),
    [(FixedPointIteration(), 0.02), (Anderson(window=12, ridge=1e-10), 0.1), (Broyden(history=40), 0.1)],
)
def test_the_joint_fixed_point_is_the_closed_form(solver, rate):
    problem = Problem()
    step = JointStep(operator=problem.operator, objective=problem.objective, rate=rate)
    found = solve(step, step.start(*problem.start()), solver, StoppingRule(steps=4000, tolerance=1e-9))
    assert found.converged.all()
    (z,), _, (x,) = step.split(found.state)
    expected_z, expected_x = problem.answer()
    torch.testing.assert_close(z, expected_z, atol=1e-6, rtol=0)
    torch.testing.assert_close(x, expected_x, atol=1e-6, rtol=0)


def test_one_solve_takes_fewer_evaluations_than_descent_around_converged_solves():
    problem = Problem()
    expected = problem.objective(*((part,) for part in problem.answer()))
    step = JointStep(operator=problem.operator, objective=problem.objective, rate=0.1)
    found = solve(
        step,
        step.start(*problem.start()),
        Anderson(window=12, ridge=1e-10),
        StoppingRule(steps=400, tolerance=1e-6),
    )
    point, _, inputs = step.split(found.state)
    torch.testing.assert_close(problem.objective(point, inputs), expected, rtol=1e-4, atol=0)
    joint = problem.evaluations
    assert not reached(problem, expected, within=3 * joint)


def reached(problem, expected, within):
    """Whether so many evaluations are enough for gradient descent, each step around a converged point."""
    problem.evaluations = 0
    point, inputs = problem.start()
    stop = StoppingRule(steps=400, tolerance=1e-8)
    nested = JointStep(operator=problem.operator, objective=problem.objective, rate=0.1)
    while problem.evaluations < within:
        point = solve(partial(forward, problem, inputs), point, Anderson(), stop).state
        zero = (torch.zeros_like(point[0]),)
        adjoint = solve(partial(backward, nested, point, inputs), zero, Anderson(), stop).state
        inputs = (nested((*point, *adjoint, *inputs))[2],)
    return (problem.objective(point, inputs) <= expected * (1 + 1e-4)).all()


def forward(problem, inputs, point, active=None):
    return problem.operator(point, inputs if active is None else select(inputs, active), active)


def backward(nested, point, inputs, adjoint, active=None):
    if active is not None:
        point, inputs = select(point, active), select(inputs, active)
    return (nested((*point, *adjoint, *inputs), active)[1],)


def test_a_batch_is_its_samples_and_samples_stop_by_themselves():
    problem = Problem()
    step = JointStep(operator=problem.operator, objective=problem.objective, rate=0.1)
    stop = StoppingRule(steps=400, tolerance=1e-7)
    together = solve(step, step.start(*problem.start()), Anderson(window=8), stop)
    for sample in range(3):
        alone = Problem()
        alone.target = problem.target[sample : sample + 1]
        lone = JointStep(operator=alone.operator, objective=alone.objective, rate=0.1)
        found = solve(lone, lone.start(*alone.start()), Anderson(window=8), stop)
        assert found.steps[0] == together.steps[sample]
        torch.testing.assert_close(found.state[2][0], together.state[2][sample], atol=1e-8, rtol=0)


def test_what_is_out_of_range_is_named():
    for wrong in ({"rate": 0.0}, {"rate": 0.1, "parts": 0}):
        with pytest.raises(ValueError, match="rate above 0"):
            JointStep(operator=Problem().operator, objective=Problem().objective, **wrong)
