"""How well behaved a fixed point is: Jacobian penalty, spectral radius, path independence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from deqflow.equilibrium.driver import Solution, solve
from deqflow.equilibrium.solvers import Solver
from deqflow.equilibrium.state import S, State, Step, detach, flatten, rebuild, select, unflatten
from deqflow.equilibrium.stopping import StoppingRule


class _Transposed:
    """Products of the transposed Jacobian of a step at a point with joint vectors (B, D)."""

    def __init__(self, step: Step, state: State) -> None:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("products with a Jacobian need a graph: leave torch.inference_mode() for them")
        with torch.enable_grad():
            self.point = rebuild(state, [part.detach().requires_grad_() for part in state])
            self.mapped = step(self.point)
        self.connected = [index for index, part in enumerate(self.mapped) if part.requires_grad]

    def __call__(self, vectors: Tensor, *, create_graph: bool = False) -> Tensor:
        if not self.connected:
            return torch.zeros_like(vectors)
        parts = unflatten(vectors, tuple(self.mapped))
        pulled = torch.autograd.grad(
            [self.mapped[index] for index in self.connected],
            self.point,
            [parts[index] for index in self.connected],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return flatten(pulled)


def jacobian_penalty(
    step: Step, state: State, *, probes: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Hutchinson estimate of ``|J|_F^2 / D`` per sample, differentiable: a loss against wild Jacobians.

    Args:
        step: the operator; its parameters receive the gradient.
        state: where, usually the fixed point; taken as a constant.
        probes: random vectors, at least 1; the estimate is unbiased with any number.
        generator: of the vectors, on the state's device; None draws from the global one.

    Returns:
        (B,), D being the size of the joint vector.

    Source: Bai et al., Stabilizing Equilibrium Models by Jacobian Regularization, ICML 2021, sec. 4.
    """
    if probes < 1:
        raise ValueError(f"probes must be at least 1, not {probes}")
    product = _Transposed(step, state)
    like = flatten(state)
    total = like.new_zeros(len(like))
    for _ in range(probes):
        probe = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        total = total + product(probe, create_graph=True).square().sum(dim=1)
    return total / (probes * like.shape[1])


def spectral_radius(
    step: Step,
    state: State,
    *,
    subspace: int = 24,
    cycles: int = 40,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Largest modulus of the eigenvalues of the step's Jacobian, (B,).

    Below 1 plain iteration converges from nearby. A power iteration on a whole subspace: Arnoldi's method,
    restarted from what its Ritz vectors of largest modulus span. A Rayleigh quotient alone would fail where
    the dominant eigenvalues are a complex pair, as they often are, since no real vector converges then.

    Args:
        step: the operator.
        state: where to linearize, usually the fixed point.
        subspace: dimension of the Krylov space; as many joint vectors a sample are kept.
        cycles: most restarts.
        tolerance: stop when no sample's answer has changed by more than this share for two cycles.
        generator: of the starting vector, on the state's device; None draws from the global one.

    Source: Saad, Numerical Methods for Large Eigenvalue Problems, 2011, ch. 6.
    """
    product = _Transposed(step, state)
    like = flatten(state)
    start = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    radius = like.new_zeros(len(like))
    settled = 0
    with torch.autocast(like.device.type, enabled=False):
        for _ in range(cycles):
            basis, hessenberg = _arnoldi(product, start, min(subspace, like.shape[1]))
            values, vectors = torch.linalg.eig(hessenberg.double())
            order = values.abs().argsort(dim=1, descending=True)
            before, radius = radius, values.abs().amax(dim=1).to(like.dtype)
            settled = settled + 1 if bool(((radius - before).abs() <= tolerance * radius).all()) else 0
            if settled == 2:
                break
            start = _restart(basis, values, vectors, order)
    return radius


def _arnoldi(product: _Transposed, start: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Orthonormal basis (B, m, D) of the Krylov space of (B, D), and the operator on it (B, m, m)."""
    tiny = torch.finfo(start.dtype).tiny
    basis = (start / torch.linalg.vector_norm(start, dim=1, keepdim=True).clamp_min(tiny)).unsqueeze(1)
    hessenberg = start.new_zeros(len(start), size + 1, size)
    for column in range(size):
        mapped = product(basis[:, column])
        scale = torch.linalg.vector_norm(mapped, dim=1, keepdim=True)
        for _ in range(2):  # twice is enough for orthogonality in floating point
            along = basis @ mapped.unsqueeze(2)
            mapped = mapped - (basis * along).sum(dim=1)
            hessenberg[:, : column + 1, column] += along.squeeze(2)
        length = torch.linalg.vector_norm(mapped, dim=1, keepdim=True)
        # An invariant subspace: the rest is rounding, and must not be blown up to a direction of its own.
        length = torch.where(length > 1e3 * torch.finfo(start.dtype).eps * scale, length, 0.0)
        hessenberg[:, column + 1, column] = length.squeeze(1)
        mapped = torch.where(length > 0, mapped / length.clamp_min(tiny), 0.0)
        basis = torch.cat((basis, mapped.unsqueeze(1)), dim=1)
    return basis[:, :size], hessenberg[:, :size]


def _restart(basis: Tensor, values: Tensor, vectors: Tensor, order: Tensor) -> Tensor:
    """Return a real vector (B, D) in the span of the quarter of Ritz vectors with the largest moduli."""
    wanted = order[:, : max(2, order.shape[1] // 4)]
    chosen = torch.gather(vectors, 2, wanted[:, None, :].expand(-1, vectors.shape[1], -1))
    sizes = torch.gather(values, 1, wanted).abs()
    # Real and imaginary part of a pair span the same plane; their sum lies in it and in no other.
    mixture = ((chosen.real + chosen.imag) * sizes[:, None, :]).sum(dim=2).to(basis.dtype)
    return (basis * mixture.unsqueeze(2)).sum(dim=1)


@dataclass(frozen=True)
class PathIndependence(Generic[S]):
    """How alike the fixed points are that different starts lead to.

    Attributes:
        solutions: one per start.
        alignment: (B,) mean cosine between the first solution's joint vector and each other's: 1 where all
            starts lead to one point.
        mean: state, the mean over the starts.
        deviation: state, root mean square distance from that mean, element by element: an uncertainty.
    """

    solutions: list[Solution]
    alignment: Tensor
    mean: S
    deviation: S


def path_independence(
    step: Step, starts: Sequence[S], solver: Solver, stop: StoppingRule
) -> PathIndependence[S]:
    """Solve from several starts and compare where they end.

    Args:
        step: the operator.
        starts: at least two states; zeros and ``exchanged`` fixed points are what the score is defined with.
        solver: where to evaluate next.
        stop: when a sample is done; the score is asymptotic, so allow many steps.

    Raises:
        ValueError: fewer than two starts.

    Source: Anil et al., Path Independent Equilibrium Models Can Better Exploit Test-Time Computation,
    NeurIPS 2022, sec. 4 (asymptotic alignment).
    """
    if len(starts) < 2:
        raise ValueError(f"path independence needs at least two starts, not {len(starts)}")
    solutions = [solve(step, start, solver, stop) for start in starts]
    aligned = [alignment(solutions[0].state, solution.state) for solution in solutions[1:]]
    joint = torch.stack([flatten(solution.state) for solution in solutions])
    mean = joint.mean(dim=0)
    deviation = (joint - mean).square().mean(dim=0).sqrt()
    like = solutions[0].state
    return PathIndependence(
        solutions, torch.stack(aligned).mean(dim=0), unflatten(mean, like), unflatten(deviation, like)
    )


def alignment(first: State, second: State) -> Tensor:
    """Return the cosine between the joint vectors of two states, (B,)."""
    return torch.cosine_similarity(flatten(first), flatten(second), dim=1)


def exchanged(state: S) -> S:
    """Each sample's state given to the next sample: the adversarial start of the asymptotic alignment score.

    Raises:
        ValueError: a batch of one has nobody to exchange with.
    """
    batch = state[0].shape[0]
    if batch < 2:
        raise ValueError("exchanging states needs a batch of at least 2")
    order: Any = torch.arange(batch, device=state[0].device).roll(1)
    return select(detach(state), order)
