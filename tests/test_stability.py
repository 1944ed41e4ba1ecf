"""Jacobian penalty, spectral radius and path independence against what is known exactly."""

import pytest
import torch
from fixed_points import Linear, Pair, joined

from deqflow.equilibrium import (
    FixedPointIteration,
    StoppingRule,
    exchanged,
    jacobian_penalty,
    path_independence,
    spectral_radius,
)


def test_jacobian_penalty_is_the_frobenius_norm_on_average():
    step = Linear(3, 5)
    generator = torch.Generator().manual_seed(0)
    found = jacobian_penalty(step, step.start(), probes=4000, generator=generator)
    exact = step.matrix.detach().square().sum(dim=(1, 2)) / 5
    torch.testing.assert_close(found.detach(), exact, rtol=0.05, atol=0)


def test_jacobian_penalty_trains_the_step():
    step = Linear(2, 4, radius=0.9)
    generator = torch.Generator().manual_seed(0)
    start = float(jacobian_penalty(step, step.start(), probes=200, generator=generator).mean().detach())
    for _ in range(40):
        loss = jacobian_penalty(step, step.start(), generator=generator).mean()
        (gradient,) = torch.autograd.grad(loss, step.matrix)
        with torch.no_grad():
            step.matrix -= 0.2 * gradient
    after = float(jacobian_penalty(step, step.start(), probes=200, generator=generator).mean().detach())
    assert after < 0.5 * start


def test_a_step_that_ignores_its_state_has_no_jacobian():
    def constant(state, active=None):
        return Pair(torch.ones_like(state.left), torch.ones_like(state.right))

    start = Linear(2, 4).start()
    assert torch.equal(jacobian_penalty(constant, start), torch.zeros(2).double())
    assert torch.equal(spectral_radius(constant, start), torch.zeros(2).double())


def rotating(size: int, radius: float, *, below: float, shear: float, seed: int) -> torch.Tensor:
    """A non-normal matrix whose dominant eigenvalues are a complex pair of this modulus."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.zeros(size, size, dtype=torch.float64)
    for index in range(0, size - 1, 2):
        modulus = radius if index == 0 else below * float(torch.rand((), generator=generator))
        angle = 0.3 + 2.5 * torch.rand((), generator=generator, dtype=torch.float64)
        c, s = modulus * torch.cos(angle), modulus * torch.sin(angle)
        blocks[index : index + 2, index : index + 2] = torch.stack((c, -s, s, c)).view(2, 2)
    upper = torch.randn(size, size, generator=generator, dtype=torch.float64).triu(2)
    turned = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return turned @ (blocks + shear * upper) @ turned.T


@pytest.mark.parametrize("below", [0.5, 0.93])
@pytest.mark.parametrize(("size", "shear"), [(7, 1.0), (40, 0.3), (200, 0.1)])
def test_spectral_radius_of_complex_pairs_within_one_percent(size, shear, below):
    matrices = [rotating(size, radius, below=below, shear=shear, seed=size) for radius in (0.95, 1.4)]
    step = Linear(2, size)
    step.matrix = torch.stack(matrices)
    found = spectral_radius(step, step.start(), generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.eigvals(step.matrix).abs().amax(dim=1)
    torch.testing.assert_close(found, exact, rtol=0.01, atol=0)


def test_spectral_radius_of_real_eigenvalues_and_of_rank_one():
    step = Linear(2, 6)
    step.matrix = torch.diag_embed(torch.tensor([[0.9, -0.95, 0.3, 0, 0, 0], [2.0, 0, 0, 0, 0, 0]]).double())
    found = spectral_radius(step, step.start(), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, torch.tensor([0.95, 2.0]).double(), rtol=1e-3, atol=0)


def test_contractions_are_path_independent():
    step = Linear(3, 5)
    generator = torch.Generator().manual_seed(0)
    zeros = step.start()
    noise = Pair(*(torch.randn(part.shape, generator=generator).double() for part in zeros))
    found = path_independence(step, [zeros, noise], FixedPointIteration(), StoppingRule(steps=200))
    torch.testing.assert_close(found.alignment, torch.ones(3).double())
    torch.testing.assert_close(joined(found.mean), step.solution())
    assert isinstance(found.deviation, Pair) and joined(found.deviation).max() < 1e-10


def test_two_wells_are_not():
    def step(state, active=None):
        return (torch.tanh(3 * state[0]),)

    start = (torch.tensor([[0.5, 0.5], [-0.5, 0.5]]).double(),)
    found = path_independence(step, [start, exchanged(start)], FixedPointIteration(), StoppingRule(steps=99))
    well = float(found.solutions[0].state[0][0, 0])
    torch.testing.assert_close(found.alignment, torch.zeros(2).double())
    torch.testing.assert_close(found.deviation[0], torch.tensor([[well, 0.0], [well, 0.0]]).double())


@pytest.mark.parametrize(
    "make",
    [
        lambda: path_independence(None, [()], FixedPointIteration(), StoppingRule(steps=2)),
        lambda: exchanged((torch.zeros(1, 3),)),
        lambda: jacobian_penalty(None, (), probes=0),
    ],
)
def test_impossible_requests_are_refused(make):
    with pytest.raises(ValueError, match=r"least"):
        make()


def test_a_jacobian_without_a_graph_is_refused_and_not_zero():
    def step(state, active=None):
        return (0.5 * state[0],)

    start = (torch.ones(1, 3),)
    assert spectral_radius(step, start).item() == pytest.approx(0.5, rel=1e-3)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        spectral_radius(step, start)
