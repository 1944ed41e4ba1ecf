"""Solvers against closed forms, gradients against autograd, corrections against plain loops."""

from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from deqflow.equilibrium import (
    Anderson,
    FixedPointIteration,
    OneStep,
    Phantom,
    Recorded,
    Segments,
    StoppingRule,
    solve,
)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class Linear:
    """x <- A x + b on a state of two tensors, A a contraction; counts evaluations per sample."""

    def __init__(self, batch: int, size: int, *, radius: float = 0.7, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(batch, size, size, generator=generator, dtype=torch.float64)
        norms = torch.linalg.matrix_norm(matrix, 2)
        self.matrix = (radius * matrix / norms[:, None, None]).requires_grad_()
        self.offset = torch.randn(batch, size, generator=generator, dtype=torch.float64)
        self.counts = torch.zeros(batch, dtype=torch.int64)

    def __call__(self, state: Pair, active: Tensor | None = None) -> Pair:
        chosen = torch.arange(len(self.counts)) if active is None else active
        self.counts += torch.bincount(chosen, minlength=len(self.counts))
        x = torch.cat([part.flatten(1) for part in state], dim=1)
        y = torch.einsum("bij,bj->bi", self.matrix[chosen], x) + self.offset[chosen]
        return Pair(y[:, :2], y[:, 2:].view(len(y), 1, -1))

    def start(self) -> Pair:
        batch, size = self.offset.shape
        return Pair(torch.zeros(batch, 2).double(), torch.zeros(batch, 1, size - 2).double())

    def solution(self) -> Tensor:
        identity = torch.eye(self.offset.shape[1]).double()
        return torch.linalg.solve(identity - self.matrix.detach(), self.offset)


def joined(state: Pair) -> Tensor:
    return torch.cat([part.flatten(1) for part in state], dim=1)


SOLVERS = [
    FixedPointIteration(),
    FixedPointIteration(relaxation=0.8),
    Anderson(),
    Anderson(window=2, mixing=0.7),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_linear_contraction_reaches_the_closed_form(solver):
    step = Linear(3, 6)
    found = solve(step, step.start(), solver, StoppingRule(steps=200, tolerance=1e-10))
    assert isinstance(found.state, Pair)
    assert found.converged.all()
    torch.testing.assert_close(joined(found.state), step.solution(), atol=1e-8, rtol=0)


def test_anderson_needs_fewer_steps_than_plain_iteration():
    step = Linear(4, 8, radius=0.95)
    stop = StoppingRule(steps=500, tolerance=1e-8)
    plain = solve(step, step.start(), FixedPointIteration(), stop)
    accelerated = solve(step, step.start(), Anderson(window=6), stop)
    assert (accelerated.steps < plain.steps).all()


@hypothesis.given(seed=st.integers(0, 1000), tolerance=st.sampled_from([1e-2, 1e-4, 1e-7]))
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_samples_stop_by_themselves(solver, seed, tolerance):
    step = Linear(4, 5, seed=seed)
    with torch.no_grad():
        step.matrix *= torch.tensor([0.05, 0.5, 0.9, 1.2]).double()[:, None, None]
    found = solve(step, step.start(), solver, StoppingRule(steps=60, tolerance=tolerance))
    assert torch.equal(step.counts, found.steps)
    assert (found.residual[found.converged, 0] <= tolerance).all()
    for sample in range(4):
        alone = Linear(4, 5, seed=seed)
        alone.matrix, alone.offset = step.matrix[[sample]], step.offset[[sample]]
        alone.counts = torch.zeros(1, dtype=torch.int64)
        single = solve(alone, alone.start(), solver, StoppingRule(steps=60, tolerance=tolerance))
        assert single.steps.item() == found.steps[sample]
        torch.testing.assert_close(joined(single.state)[0], joined(found.state)[sample])


def test_zero_tolerance_runs_every_step_and_a_tolerance_at_least_two():
    step = Linear(2, 4)
    assert (solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=7)).steps == 7).all()
    at_rest = Linear(2, 4)
    at_rest.offset.zero_()
    found = solve(at_rest, at_rest.start(), FixedPointIteration(), StoppingRule(steps=9, tolerance=1.0))
    assert (found.steps == 2).all() and found.converged.all()


def test_trace_holds_residuals_until_a_sample_stops():
    step = Linear(2, 4)
    with torch.no_grad():
        step.matrix[0] *= 0.01
    found = solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=40, tolerance=1e-4))
    first, second = found.steps.tolist()
    assert first < second == len(found.trace)
    assert torch.isfinite(found.trace[:first, 0]).all() and torch.isnan(found.trace[first:, 0]).all()
    assert torch.isfinite(found.trace[:, 1]).all()


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


@pytest.mark.parametrize(
    "make",
    [
        lambda: StoppingRule(steps=0),
        lambda: StoppingRule(steps=3, tolerance=-1.0),
        lambda: Phantom(steps=0),
        lambda: Phantom(damping=0.0),
        lambda: Anderson(window=0),
        lambda: Segments(count=5).follow(None, (), FixedPointIteration(), OneStep(), StoppingRule(steps=4)),
        lambda: solve(None, (torch.zeros(1),), Anderson(), StoppingRule(steps=4, tolerance=1), record=[2]),
    ],
)
def test_impossible_requests_are_refused(make):
    with pytest.raises(ValueError, match=r"must|need"):
        make()
