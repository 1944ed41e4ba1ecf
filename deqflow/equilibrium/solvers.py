"""Fixed-point solvers: each says where to evaluate next, and ``solve`` does the rest."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from deqflow.equilibrium.state import S, flatten, joint_inner_product, rebuild, unflatten

Memory = list[Tensor]
InnerProduct = Callable[[Tensor, Tensor], Tensor]


class Solver(Protocol):
    """Says where to evaluate next. ``memory`` is a list of (B, ...) tensors, empty at the first call.

    A solver of one's own is a subclass with ``advance``; samples of a batch must not influence each other.

    Attributes:
        returns_point: whether the answer is the point evaluated, and not the state it is mapped to. The
            latter is closer where the step contracts, which a root finder does not need.
    """

    returns_point: ClassVar[bool] = False

    @abstractmethod
    def advance(self, state: S, mapped: S, memory: Memory) -> tuple[S, Memory]:
        """Return the next state, from ``state``, ``mapped = step(state)`` and the memory so far."""


@dataclass(frozen=True, kw_only=True)
class FixedPointIteration(Solver):
    """Plain iteration ``x <- x + relaxation * (step(x) - x)``; keeps nothing but the state.

    Attributes:
        relaxation: 1 evaluates at what the step returned; below 1 damps, which widens the range of
            convergence; between 1 and 2 takes longer strides, which helps where all eigenvalues are near 1.
    """

    relaxation: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.relaxation < 2:
            raise ValueError(f"relaxation must be between 0 and 2, not {self.relaxation}")

    def advance(self, state: S, mapped: S, memory: Memory) -> tuple[S, Memory]:
        """See ``Solver.advance``."""
        if self.relaxation == 1.0:
            return mapped, memory
        parts = [torch.lerp(x, f, self.relaxation) for x, f in zip(state, mapped, strict=True)]
        return rebuild(state, parts), memory


@dataclass(frozen=True, kw_only=True)
class DampedIteration(Solver):
    """Plain iteration, damped at each position where its steps turn back.

    A state may rest everywhere but in a few places that jump to and fro, and keep all others waiting. Where a
    step goes against the one before, the next state lies between the ends of both: where, were the operator
    linear there, nothing would move (Aitken's delta-squared process, for alternating sequences only).

    Each tensor of a state, (B, C, ...), is damped by itself, and a position is all of its C channels.
    """

    def advance(self, state: S, mapped: S, memory: Memory) -> tuple[S, Memory]:
        """See ``Solver.advance``; memory holds the mapped states of the last call, then its steps."""
        steps = [f - x for x, f in zip(state, mapped, strict=True)]
        if not memory:
            return mapped, [*mapped, *steps]
        before, stepped = memory[: len(steps)], memory[len(steps) :]
        parts = []
        for end, step, last_end, last_step in zip(mapped, steps, before, stepped, strict=True):
            back = -(step * last_step).sum(dim=1, keepdim=True).clamp_max(0)
            length = last_step.square().sum(dim=1, keepdim=True)
            share = back / (length + back).clamp_min(torch.finfo(back.dtype).tiny)
            parts.append(torch.lerp(end, last_end, share.nan_to_num(0.0)))
        return rebuild(state, parts), [*mapped, *steps]


@dataclass(frozen=True, kw_only=True)
class Anderson(Solver):
    """Anderson acceleration: combine past mapped states so that residuals cancel (Walker and Ni, 2011).

    Attributes:
        window: how many past points to combine; the memory is 2 * window joint vectors a sample.
        ridge: added to the diagonal of the residuals' Gram matrix.
        ridge_scale: ``relative`` to the mean of that diagonal, so that the same ridge serves at the first
            step and near convergence, or ``absolute``, as in published DEQ code.
        mixing: share of the mapped states in the combination; the rest comes from the points.
        inner_product: ``(B, m, D) x (B, n, D) -> (B, m, n)``.
    """

    window: int = 5
    ridge: float = 1e-4
    ridge_scale: Literal["relative", "absolute"] = "relative"
    mixing: float = 1.0
    inner_product: InnerProduct = joint_inner_product

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, not {self.window}")
        if self.ridge < 0:
            raise ValueError(f"ridge must not be negative, not {self.ridge}")
        if not 0 < self.mixing <= 1:
            raise ValueError(f"mixing must be in (0, 1], not {self.mixing}")

    def advance(self, state: S, mapped: S, memory: Memory) -> tuple[S, Memory]:
        """See ``Solver.advance``.

        Memory: the residuals' Gram matrix (B, m, m), then m residuals and m combinations of a point with what
        it was mapped to, (B, D) each and the oldest first. Vectors stay where they are, so that an evaluation
        reads each of them twice and copies none.
        """
        latest = flatten(mapped)
        residual = latest - flatten(state)
        past = len(memory) // 2
        residuals, images = (
            [*memory[1 : past + 1], residual],
            [*memory[past + 1 :], self._mixed(latest, residual)],
        )
        with torch.autocast(latest.device.type, enabled=False):
            products = [self.inner_product(residual[:, None], other[:, None]) for other in residuals]
            row = torch.cat(products, dim=2)
            gram = row
            if past:
                gram = torch.cat((torch.cat((memory[0], row[:, :, :-1].mT), dim=2), row), dim=1)
            if past == self.window:
                gram, residuals, images = gram[:, 1:, 1:], residuals[1:], images[1:]
            weights = self._weights(gram).unbind(dim=2)
            mixed = weights[0] * images[0]
            for weight, image in zip(weights[1:], images[1:], strict=True):
                mixed = mixed.addcmul_(weight, image)
        return unflatten(finite_or(mixed, latest), state), [gram, *residuals, *images]

    def _mixed(self, mapped: Tensor, residual: Tensor) -> Tensor:
        """Return a point on the way to what it was mapped to."""
        return mapped if self.mixing == 1.0 else torch.sub(mapped, residual, alpha=1 - self.mixing)

    def _weights(self, gram: Tensor) -> Tensor:
        """Weights (B, 1, m) that sum to one and make the combined residual small."""
        if self.ridge_scale == "relative":
            mean = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(gram.dtype).tiny)
            gram = gram / mean[:, None, None]
        gram = gram + self.ridge * torch.eye(gram.shape[1]).to(gram)
        # A singular system gives what is not finite instead of an error, and is caught by the caller.
        weights = torch.linalg.solve_ex(gram, torch.ones_like(gram[:, :, :1])).result
        return (weights / weights.sum(dim=1, keepdim=True)).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class Broyden(Solver):
    """Broyden's good method on ``step(x) - x = 0`` with limited memory (Bai et al., DEQ, 2019, app. A).

    The inverse Jacobian starts at minus the identity, which makes the first step a plain one, and every
    evaluation adds one rank to it.

    Attributes:
        history: most ranks kept; the oldest is dropped. The memory is 2 * history + 3 joint vectors a sample.
        line_search: how often in a row a step that made the residual grow may be halved; 0 takes every step.
            Each trial is an evaluation and counts as one.
        inner_product: ``(B, m, D) x (B, n, D) -> (B, m, n)``.
    """

    returns_point: ClassVar[bool] = True

    history: int = 12
    line_search: int = 0
    inner_product: InnerProduct = joint_inner_product

    def __post_init__(self) -> None:
        if self.history < 1:
            raise ValueError(f"history must be at least 1, not {self.history}")
        if self.line_search < 0:
            raise ValueError(f"line_search must not be negative, not {self.line_search}")

    def advance(self, state: S, mapped: S, memory: Memory) -> tuple[S, Memory]:
        """See ``Solver.advance``.

        Memory: point, residual and direction of the last accepted step (B, 1, D), the halvings since (B,),
        and the factors U, V (B, m, D) of the inverse Jacobian ``-I + U^T V``.
        """
        x = flatten(state).unsqueeze(1)
        latest = flatten(mapped)
        with torch.autocast(x.device.type, enabled=False):
            g = latest.unsqueeze(1) - x
            if not memory:
                empty = x[:, :0]
                memory = [x, g, g, x.new_zeros(len(x)), empty, empty]
            else:
                memory = self._updated(x, g, memory)
            point, _, direction, halvings, _, _ = memory
            following = torch.addcmul(point, direction, (0.5**halvings)[:, None, None]).squeeze(1)
        return unflatten(finite_or(following, latest), state), memory

    def _updated(self, x: Tensor, g: Tensor, memory: Memory) -> Memory:
        """Return the memory after one more evaluation: a step halved or taken, and one rank more."""
        point, residual, direction, halvings, u, v = memory
        grew = torch.linalg.vector_norm(g, dim=2) > torch.linalg.vector_norm(residual, dim=2)
        halve = grew.squeeze(1) & (halvings < self.line_search)
        moved, changed = x - point, g - residual
        row = -moved + self.inner_product(moved, u) @ v
        divisor = self.inner_product(row, changed)
        column = (moved - self._newton(changed, u, v)) / divisor
        useless = ~torch.isfinite(column).all(dim=2, keepdim=True)
        column, row = column.masked_fill(useless, 0.0), row.masked_fill(useless, 0.0)
        u, v = self._appended(u, column, halve), self._appended(v, row, halve)
        chosen = halve[:, None, None]
        return [
            torch.where(chosen, point, x),
            torch.where(chosen, residual, g),
            torch.where(chosen, direction, -self._newton(g, u, v)),
            torch.where(halve, halvings + 1, 0.0),
            u,
            v,
        ]

    def _newton(self, vector: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the inverse Jacobian ``-I + U^T V`` times vectors (B, 1, D)."""
        return -vector + self.inner_product(vector, v) @ u

    def _appended(self, factors: Tensor, latest: Tensor, halve: Tensor) -> Tensor:
        """One row more; samples that only halve their step get zeros, and lose no history for it."""
        if self.line_search == 0:
            return torch.cat((factors, latest), dim=1)[:, -self.history :]
        taken = torch.cat((factors, latest), dim=1)[:, -self.history :]
        waiting = torch.cat((factors, torch.zeros_like(latest)), dim=1)[:, : self.history]
        return torch.where(halve[:, None, None], waiting, taken)


def finite_or(vector: Tensor, fallback: Tensor) -> Tensor:
    """Vectors (B, D), replaced per sample by the fallback where they are not finite."""
    good = torch.isfinite(vector).all(dim=1, keepdim=True)
    return torch.where(good, vector, fallback)


SOLVERS: Mapping[str, Solver] = {
    "plain": FixedPointIteration(),
    "relaxed": FixedPointIteration(relaxation=0.6),
    "damped": DampedIteration(),
    "anderson": Anderson(),
    "broyden": Broyden(),
}
"""Solvers by name, with their usual settings."""
