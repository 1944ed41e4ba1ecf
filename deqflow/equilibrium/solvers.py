"""Fixed-point solvers: drive ``state = step(state)`` until it stops moving.

A solver only says where to evaluate next; ``solve`` evaluates, measures, stops each sample on its own and
takes finished samples out of the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""Tensors that share their first (batch) dimension; a NamedTuple of tensors serves and is kept."""

S = TypeVar("S", bound=State)
Measure = Callable[[Any, Any], Tensor]
Memory = list[Tensor]


class Step(Protocol):
    """The operator whose fixed point is sought."""

    def __call__(self, state: Any, active: Tensor | None = None) -> Any:
        """Map a state to the next one.

        Args:
            state: the samples still running, (b, ...) each.
            active: (b,) their indices in the full batch, for selecting their inputs; None means all.
        """


def rebuild(like: S, tensors: Sequence[Tensor]) -> S:
    """Tensors put into the kind of tuple that ``like`` is (a NamedTuple takes its fields one by one)."""
    kind = type(like)
    return kind(*tensors) if hasattr(kind, "_fields") else kind(tensors)


def flatten(state: State) -> Tensor:
    """One joint vector per sample, (B, D) in float32 (float64 where the state is)."""
    dtype = torch.float64 if any(part.dtype == torch.float64 for part in state) else torch.float32
    return torch.cat([part.to(dtype).flatten(1) for part in state], dim=1)


def unflatten(vector: Tensor, like: S) -> S:
    """Inverse of ``flatten``: the joint vectors (B, D) cut into tensors shaped and typed as ``like``."""
    pieces = vector.split([part[0].numel() for part in like], dim=1)
    parts = [piece.view_as(part).to(part.dtype) for piece, part in zip(pieces, like, strict=True)]
    return rebuild(like, parts)


def relative_change(new: State, old: State) -> Tensor:
    """Residual |new - old| / |new| of the joint vector in the 2-norm, (B, 1)."""
    a, b = flatten(new), flatten(old)
    scale = torch.linalg.vector_norm(a, dim=1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)
    return torch.linalg.vector_norm(a - b, dim=1, keepdim=True) / scale


def joint_inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Plain inner products of joint vectors, (B, m, D) x (B, n, D) -> (B, m, n)."""
    return a @ b.transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """When a sample is done.

    Attributes:
        steps: most evaluations of the operator, at least 1.
        tolerance: a sample stops when every column of its residual is at most this; one number or one per
            column. 0 runs all steps and measures nothing on the way.
        minimum: fewest evaluations before a sample may stop.
        measure: ``measure(new, old)`` -> (B, K), how far one evaluation moved each sample.
    """

    steps: int
    tolerance: float | tuple[float, ...] = 0.0
    minimum: int = 2
    measure: Measure = relative_change

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if min(self._tolerances()) < 0:
            raise ValueError(f"tolerance must not be negative, not {self.tolerance}")

    def _tolerances(self) -> tuple[float, ...]:
        return self.tolerance if isinstance(self.tolerance, tuple) else (self.tolerance,)

    @property
    def watches(self) -> bool:
        """Whether residuals can end the solve at all."""
        return min(self._tolerances()) > 0

    def satisfied(self, residual: Tensor) -> Tensor:
        """Which samples (B,) are within tolerance, from residuals (B, K)."""
        return (residual <= residual.new_tensor(self._tolerances())).all(dim=1)


class Solver(Protocol):
    """Says where to evaluate next. ``memory`` is a list of (B, ...) tensors, empty at the first call."""

    def advance(self, state: S, image: S, memory: Memory) -> tuple[S, Memory]:
        """The next state to evaluate, from ``state``, ``image = step(state)`` and the memory so far."""


@dataclass(frozen=True, kw_only=True)
class FixedPointIteration:
    """Plain iteration ``x <- x + relaxation * (step(x) - x)``; keeps nothing but the state.

    Attributes:
        relaxation: 1 evaluates at the last image; below 1 damps, which widens the range of convergence.
    """

    relaxation: float = 1.0

    def advance(self, state: S, image: S, memory: Memory) -> tuple[S, Memory]:
        """See ``Solver.advance``."""
        if self.relaxation == 1.0:
            return image, memory
        return rebuild(
            state, [torch.lerp(x, f, self.relaxation) for x, f in zip(state, image, strict=True)]
        ), []


@dataclass(frozen=True, kw_only=True)
class Anderson:
    """Anderson acceleration: combine past images so that residuals cancel (Walker and Ni, 2011).

    Attributes:
        window: how many past points to combine; the memory is 2 * window joint vectors a sample.
        ridge: added to the diagonal of the residuals' Gram matrix, relative to its mean diagonal.
        mixing: share of the images in the combination, the rest comes from the points (1 = images only).
        inner_product: ``(B, m, D) x (B, n, D) -> (B, m, n)``.
    """

    window: int = 5
    ridge: float = 1e-4
    mixing: float = 1.0
    inner_product: Callable[[Tensor, Tensor], Tensor] = joint_inner_product

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, not {self.window}")

    def advance(self, state: S, image: S, memory: Memory) -> tuple[S, Memory]:
        """See ``Solver.advance``; memory holds the points (B, m, D) and the images (B, m, D)."""
        x, f = flatten(state).unsqueeze(1), flatten(image).unsqueeze(1)
        if memory:
            x = torch.cat([memory[0], x], dim=1)[:, -self.window :]
            f = torch.cat([memory[1], f], dim=1)[:, -self.window :]
        gram = self.inner_product(f - x, f - x)
        mean = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(gram.dtype).tiny)
        # Normalised by its size, so that the same ridge serves at the first step and near convergence.
        gram = gram / mean[:, None, None] + self.ridge * torch.eye(gram.shape[1]).to(gram)
        weights = torch.linalg.solve(gram, torch.ones_like(gram[:, :, :1]))
        weights = (weights / weights.sum(dim=1, keepdim=True)).transpose(1, 2)
        mixed = self.mixing * (weights @ f) + (1 - self.mixing) * (weights @ x)
        return unflatten(mixed.squeeze(1), state), [x, f]


@dataclass(frozen=True)
class Solution:
    """What ``solve`` found, per sample.

    Attributes:
        state: the last image of each sample.
        residual: (B, K) how far the last evaluation moved it; NaN where nothing was measured.
        steps: (B,) int64, evaluations of the operator.
        converged: (B,) bool, stopped by the tolerance.
        trace: (N, B) first column of the residual after each evaluation; NaN after a sample stopped.
        recorded: states after the evaluations asked for, oldest first.
    """

    state: Any
    residual: Tensor
    steps: Tensor
    converged: Tensor
    trace: Tensor
    recorded: list[Any] = field(default_factory=list)


class _Results:
    """What is known of each sample so far; samples are noted by their indices in the full batch."""

    def __init__(self, state: State, steps: int) -> None:
        batch, device = state[0].shape[0], state[0].device
        self.found = [torch.empty_like(part) for part in state]
        self.steps = torch.full((batch,), steps, dtype=torch.int64, device=device)
        self.converged = torch.zeros(batch, dtype=torch.bool, device=device)
        self.residual: Tensor | None = None
        self.trace: list[Tensor] = []
        self.recorded: list[State] = []

    def measured(self, samples: Tensor, moved: Tensor) -> None:
        """Note residuals (b, K) of one evaluation."""
        batch = len(self.steps)
        if self.residual is None:
            self.residual = moved.new_full((batch, moved.shape[1]), torch.nan)
        self.residual[samples] = moved
        row = moved.new_full((batch,), torch.nan)
        row[samples] = moved[:, 0]
        self.trace.append(row)

    def finished(self, samples: Tensor, image: State, evaluation: int) -> None:
        """Keep the images (b, ...) of samples that stop here."""
        for whole, part in zip(self.found, image, strict=True):
            whole[samples] = part.to(whole.dtype)
        self.steps[samples] = evaluation

    def solution(self, like: State) -> Solution:
        assert self.residual is not None  # the last evaluation is always measured
        return Solution(
            state=rebuild(like, self.found),
            residual=self.residual,
            steps=self.steps,
            converged=self.converged,
            trace=torch.stack(self.trace),
            recorded=self.recorded,
        )


@torch.no_grad()
def solve(
    step: Step, state: S, solver: Solver, stop: StoppingRule, *, record: Sequence[int] = ()
) -> Solution:
    """Drive ``state`` towards the fixed point of ``step``, without a graph.

    Each sample stops by itself and leaves the batch, so the operator only ever evaluates those still moving.

    Args:
        step: the operator.
        state: where to start, tensors (B, ...).
        solver: where to evaluate next.
        stop: when a sample is done.
        record: evaluation counts (1-based) whose states are wanted too; needs ``tolerance=0``.

    Raises:
        ValueError: ``record`` together with a tolerance, since samples would be missing from it.
    """
    if record and stop.watches:
        raise ValueError("record needs tolerance=0: with a tolerance, stopped samples leave the batch")
    results = _Results(state, stop.steps)
    samples = torch.arange(state[0].shape[0], device=state[0].device)
    active: Tensor | None = None
    memory: Memory = []
    for evaluation in range(1, stop.steps + 1):
        image = step(state, active)
        if evaluation in record:
            results.recorded.append(image)
        last = evaluation == stop.steps
        if stop.watches or last:
            moved = stop.measure(image, state)
            results.measured(samples, moved)
            if stop.watches and evaluation >= stop.minimum:
                done = stop.satisfied(moved)
                results.converged[samples[done]] = True
            else:
                done = torch.zeros_like(samples, dtype=torch.bool)
            leaving = torch.ones_like(done) if last else done
            if bool(leaving.any()):
                results.finished(samples[leaving], tuple(part[leaving] for part in image), evaluation)
                if bool(leaving.all()):
                    break
                keep = ~leaving
                active = samples = samples[keep]
                state, image = (rebuild(s, [part[keep] for part in s]) for s in (state, image))
                memory = [part[keep] for part in memory]
        state, memory = solver.advance(state, image, memory)
    return results.solution(state)
