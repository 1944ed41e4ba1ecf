"""Gradients and corrections against closed forms, autograd and finite differences."""

import gc
import resource
from itertools import product

import pytest
import torch
from fixed_points import Linear, Pair, joined

from deqflow.equilibrium import (
    Anderson,
    Broyden,
    FixedPointIteration,
    Implicit,
    NeumannPhantom,
    OneStep,
    Phantom,
    Recorded,
    Segments,
    StoppingRule,
    Unrolled,
    solve,
)

BACKWARD = StoppingRule(steps=200, tolerance=1e-12)


def test_one_step_gradient_is_autograd_of_one_step():
    step = Linear(3, 5)
    point = solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=30)).state
    attached = joined(OneStep().attach(step, point))
    (gradient,) = torch.autograd.grad(attached.square().sum(), step.matrix)
    # d/dA of |A x + b|^2 with x held fixed.
    expected = 2 * attached.detach()[:, :, None] * joined(point)[:, None, :]
    torch.testing.assert_close(gradient, expected)


def test_phantom_gradient_is_autograd_of_the_damped_unrolling():
    step = Linear(3, 5)
    point = solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=30)).state
    attached = joined(Phantom(steps=3, damping=0.4).attach(step, point))
    (gradient,) = torch.autograd.grad(attached.square().sum(), step.matrix)
    x = joined(point)
    for _ in range(3):
        x = 0.6 * x + 0.4 * (torch.einsum("bij,bj->bi", step.matrix, x) + step.offset)
    (expected,) = torch.autograd.grad(x.square().sum(), step.matrix)
    torch.testing.assert_close(gradient, expected)


def test_long_phantom_approaches_the_implicit_gradient():
    step = Linear(2, 4, radius=0.5)
    point = solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=100)).state
    attached = joined(Phantom(steps=60).attach(step, point))
    (gradient,) = torch.autograd.grad(attached.sum(), step.matrix)
    x = torch.linalg.solve(torch.eye(4).double() - step.matrix, step.offset)
    (expected,) = torch.autograd.grad(x.sum(), step.matrix)
    torch.testing.assert_close(gradient, expected, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("solver", [FixedPointIteration(), Anderson(), Broyden()])
def test_implicit_gradient_is_that_of_the_closed_form(solver):
    step = Linear(3, 5, radius=0.8)
    point = solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=300)).state
    attached = joined(Implicit(solver=solver, stop=BACKWARD).attach(step, point))
    weight = torch.linspace(-1, 2, 5).double()
    (gradient,) = torch.autograd.grad((attached * weight).square().sum(), step.matrix)
    x = torch.linalg.solve(torch.eye(5).double() - step.matrix, step.offset)
    (expected,) = torch.autograd.grad((x * weight).square().sum(), step.matrix)
    torch.testing.assert_close(gradient, expected, atol=1e-8, rtol=1e-8)


class Gated(torch.nn.Module):
    """A nonlinear step of two parts that feed each other; the second part's way in can be cut."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = torch.nn.Parameter(0.35 * torch.randn(6, 6, generator=generator).double())
        self.x = torch.randn(3, 6, generator=generator).double()
        self.cut = cut

    def forward(self, state, active=None):
        left, right = state
        right = right.detach() if self.cut else right
        joint = torch.cat((left, right), dim=1)
        y = torch.tanh(joint @ self.weight + (self.x if active is None else self.x[active]))
        return Pair(y[:, :2], 0.5 * right + 0.4 * y[:, 2:])

    def start(self):
        return Pair(torch.zeros(3, 2).double(), torch.zeros(3, 4).double())

    def point(self):
        return solve(self, self.start(), FixedPointIteration(), StoppingRule(steps=400)).state

    def loss(self, state):
        return (joined(state) * torch.linspace(1, 2, 6).double()).sum() + joined(state).square().sum()


def test_implicit_gradient_agrees_with_finite_differences():
    model = Gated()
    model.loss(Implicit(stop=BACKWARD).attach(model, model.point())).backward()
    gradient, step = model.weight.grad, 1e-5
    worst = 0.0
    with torch.no_grad():
        for index in range(0, 36, 5):
            values = []
            for sign in (1, -1):
                model.weight.view(-1)[index] += sign * step
                values.append(model.loss(model.point()))
                model.weight.view(-1)[index] -= sign * step
            numeric = (values[0] - values[1]) / (2 * step)
            worst = max(worst, float((gradient.view(-1)[index] - numeric).abs() / numeric.abs()))
    assert worst < 1e-7


@pytest.mark.parametrize("damping", [1.0, 0.6])
def test_neumann_series_is_its_sum(damping):
    step = Linear(2, 4, radius=0.8)
    point = solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=300)).state
    attached = joined(NeumannPhantom(steps=4, damping=damping).attach(step, point))
    given = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    (gradient,) = torch.autograd.grad((attached * given).sum(), step.matrix)
    jacobian = step.matrix.detach()
    term, total = given.expand(2, 4), torch.zeros(2, 4).double()
    for _ in range(4):
        total = total + damping * term
        term = damping * torch.einsum("bij,bi->bj", jacobian, term) + (1 - damping) * term
    torch.testing.assert_close(gradient, total[:, :, None] * joined(point)[:, None, :])


def test_damped_unrolling_and_neumann_series_agree_at_a_linear_fixed_point():
    step = Linear(2, 4, radius=0.8)
    point = solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=400)).state
    gradients = []
    for gradient in (Phantom(steps=5, damping=0.7), NeumannPhantom(steps=5, damping=0.7)):
        (found,) = torch.autograd.grad(joined(gradient.attach(step, point)).sum(), step.matrix)
        gradients.append(found)
    torch.testing.assert_close(*gradients)


def test_a_part_that_is_cut_off_adds_nothing():
    whole, cut = Gated(), Gated(cut=True)
    gradients = []
    for model in (whole, cut):
        model.loss(Implicit(stop=BACKWARD).attach(model, model.point())).backward()
        gradients.append(model.weight.grad)
    assert torch.isfinite(gradients[1]).all() and not torch.allclose(*gradients)
    unrolled = Gated(cut=True)
    unrolled.loss(Phantom(steps=200).attach(unrolled, unrolled.point())).backward()
    torch.testing.assert_close(gradients[1], unrolled.weight.grad)


@pytest.mark.parametrize("gradient", [OneStep(), Phantom(steps=2), NeumannPhantom(), Implicit()])
@pytest.mark.parametrize("solver", [FixedPointIteration(), Anderson(), Broyden()])
def test_any_solver_goes_with_any_gradient_and_correction(solver, gradient):
    model = Gated()
    for correction in (Recorded(count=2), Recorded(positions=(3, 20)), Segments(count=2)):
        path = correction.follow(model, model.start(), solver, gradient, StoppingRule(steps=40))
        sum(model.loss(state) for state in path.states).backward()
        assert torch.isfinite(model.weight.grad).all() and model.weight.grad.abs().sum() > 0
        if correction != Recorded(positions=(3, 20)):
            torch.testing.assert_close(joined(path.states[-1]), joined(model.point()), atol=1e-4, rtol=0)
        model.weight.grad = None


def test_implicit_gradient_of_recorded_states_is_that_of_each():
    model = Gated()
    path = Recorded(positions=(30, 60)).follow(
        model, model.start(), FixedPointIteration(), Implicit(stop=BACKWARD), StoppingRule(steps=60)
    )
    (together,) = torch.autograd.grad(sum(model.loss(state) for state in path.states), model.weight)
    alone = [Implicit(stop=BACKWARD).attach(model, point) for point in path.points]
    (expected,) = torch.autograd.grad(sum(model.loss(state) for state in alone), model.weight)
    torch.testing.assert_close(together, expected)


def test_segments_restart_from_the_detached_result():
    step = Linear(2, 4)
    path = Segments(count=3).follow(
        step, step.start(), FixedPointIteration(), OneStep(), StoppingRule(steps=11)
    )
    x = torch.zeros(2, 4).double()
    for state in path.states:
        for _ in range(11 // 3 + 1):
            x = torch.einsum("bij,bj->bi", step.matrix.detach(), x) + step.offset
        torch.testing.assert_close(joined(state).detach(), x)
        assert joined(state).requires_grad


@pytest.mark.parametrize(("steps", "marks"), [(20, [4, 8, 20]), (14, [3, 6, 14]), (3, [1, 2, 3])])
def test_a_ratio_marks_early_evaluations(steps, marks):
    step = Linear(2, 4)
    how = (FixedPointIteration(), OneStep(), StoppingRule(steps=steps))
    spaced = Recorded(count=3, ratio=0.4).follow(step, step.start(), *how)
    placed = Recorded(positions=tuple(marks)).follow(step, step.start(), *how)
    for one, other in zip(spaced.points, placed.points, strict=True):
        assert torch.equal(joined(one), joined(other))


def test_recorded_takes_its_gradients_at_once_but_as_if_one_by_one():
    step = Linear(2, 4)
    path = Recorded(count=3).follow(
        step, step.start(), FixedPointIteration(), OneStep(), StoppingRule(steps=9)
    )
    loss = sum((index + 1) * joined(state).square().sum() for index, state in enumerate(path.states))
    (gradient,) = torch.autograd.grad(loss, step.matrix)
    x, loss = torch.zeros(2, 4).double(), 0
    for evaluation in range(1, 10):
        x = torch.einsum("bij,bj->bi", step.matrix.detach(), x) + step.offset
        if evaluation % 3 == 0:
            image = torch.einsum("bij,bj->bi", step.matrix, x) + step.offset
            loss = loss + evaluation // 3 * image.square().sum()
    (expected,) = torch.autograd.grad(loss, step.matrix)
    torch.testing.assert_close(gradient, expected)


def test_segments_end_where_they_are_told():
    step = Linear(2, 4)
    path = Segments(positions=(2, 3, 7)).follow(
        step, step.start(), FixedPointIteration(), OneStep(), StoppingRule(steps=9)
    )
    x = torch.zeros(2, 4).double()
    for state, length in zip(path.states, (2, 1, 4), strict=True):
        for _ in range(length + 1):
            x = torch.einsum("bij,bj->bi", step.matrix.detach(), x) + step.offset
        torch.testing.assert_close(joined(state).detach(), x)


@pytest.mark.parametrize("solver", [FixedPointIteration(), FixedPointIteration(relaxation=0.7)])
def test_unrolled_is_backpropagation_through_time(solver):
    step = Linear(2, 4)
    path = Unrolled().follow(step, step.start(), solver, OneStep(), StoppingRule(steps=5))
    assert len(path.states) == 5
    (gradient,) = torch.autograd.grad(sum(joined(state).square().sum() for state in path.states), step.matrix)
    x, loss = torch.zeros(2, 4).double(), 0
    for _ in range(5):
        image = torch.einsum("bij,bj->bi", step.matrix, x) + step.offset
        loss = loss + image.square().sum()
        x = torch.lerp(x, image, solver.relaxation)
    (expected,) = torch.autograd.grad(loss, step.matrix)
    torch.testing.assert_close(gradient, expected)
    few = Unrolled(positions=(2, 5)).follow(step, step.start(), solver, OneStep(), StoppingRule(steps=5))
    torch.testing.assert_close(joined(few.states[0]), joined(path.states[1]))


@pytest.mark.slow
def test_nothing_leaks_in_ten_thousand_steps():
    """Of the ways of differentiating in turn: half a kilobyte that any of them keeps a step is seen."""
    gradients = [OneStep(), Phantom(steps=2), NeumannPhantom(steps=2), Implicit(stop=StoppingRule(steps=2))]
    model = Gated()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)

    def train(rounds: int) -> None:
        for _, gradient in product(range(rounds), gradients):
            found = solve(model, model.start(), FixedPointIteration(), StoppingRule(steps=2))
            optimizer.zero_grad()
            model.loss(gradient.attach(model, found.state)).backward()
            optimizer.step()

    train(250)
    gc.disable()  # what only the cycle collector frees is a leak in the making
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        train(2_250)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    finally:
        gc.enable()
    assert grown < 1024  # KiB
