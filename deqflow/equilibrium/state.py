"""States: tuples of tensors that share their first (batch) dimension, and their joint vectors."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""Tensors that share their first (batch) dimension; a NamedTuple of tensors serves and is kept."""

S = TypeVar("S", bound=State)


class Step(Protocol):
    """The operator whose fixed point is sought."""

    def __call__(self, state: Any, active: Tensor | None = None) -> Any:
        """Map a state to the next one.

        Args:
            state: the samples still running, (b, ...) each.
            active: (b,) their indices in the full batch, for selecting their inputs; None means all. An index
                may be repeated.
        """


def rebuild(like: S, tensors: Sequence[Tensor]) -> S:
    """Tensors put into the kind of tuple that ``like`` is (a NamedTuple takes its fields one by one)."""
    kind = type(like)
    return kind(*tensors) if hasattr(kind, "_fields") else kind(tensors)


def detach(state: S) -> S:
    """Return the same state without a graph."""
    return rebuild(state, [part.detach() for part in state])


def select(state: S, samples: Tensor) -> S:
    """Return some samples of a state, by index or mask."""
    return rebuild(state, [part[samples] for part in state])


def choose(mask: Tensor, first: S, second: S) -> S:
    """Take the first state where the mask (B,) is true, the second elsewhere."""
    return rebuild(
        first,
        [
            torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b.to(a.dtype))
            for a, b in zip(first, second, strict=True)
        ],
    )


def flatten(state: State) -> Tensor:
    """One joint vector per sample, (B, D) in float32 (float64 where the state is).

    Channels come last in it, (B, C, ...) as (B, ..., C): the order in memory that convolutions are fast at,
    so that nothing is transposed on the way there and back.
    """
    dtype = _joint_dtype(state)
    return torch.cat([part.to(dtype).movedim(1, -1).flatten(1) for part in state], dim=1)


def unflatten(vector: Tensor, like: S) -> S:
    """Inverse of ``flatten``: the joint vectors (B, D) cut into tensors shaped and typed as ``like``."""
    parts = []
    for piece, part in zip(vector.split([part[0].numel() for part in like], dim=1), like, strict=True):
        batch, *sides = part.shape
        last = piece.view(batch, *sides[1:], *sides[:1])
        parts.append(last.movedim(-1, 1).to(part.dtype))
    return rebuild(like, parts)


def finite(state: State) -> Tensor:
    """Which samples (B,) hold neither NaN nor infinity."""
    # As a norm of order infinity would, three times as fast on a CPU.
    largest = [part.abs().amax(dim=tuple(range(1, part.dim()))) for part in state if part.numel()]
    return torch.stack(largest).isfinite().all(dim=0)


def joint_inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Plain inner products of joint vectors, (B, m, D) x (B, n, D) -> (B, m, n)."""
    return a @ b.transpose(1, 2)


def joint_norm(state: State) -> Tensor:
    """2-norm of the joint vector, (B, 1) as ``flatten`` types it; the vector itself is not put together."""
    # Over all dimensions at once: flattening what lies otherwise in memory would copy it.
    norms = [
        torch.linalg.vector_norm(part.to(_joint_dtype(state)), dim=list(range(1, part.dim())))
        for part in state
    ]
    return torch.linalg.vector_norm(torch.stack(norms, dim=1), dim=1, keepdim=True)


def relative_change(new: State, old: State) -> Tensor:
    """Residual |new - old| / |new| of the joint vector in the 2-norm, (B, 1)."""
    scale = joint_norm(new)
    return absolute_change(new, old) / scale.clamp_min(torch.finfo(scale.dtype).tiny)


def absolute_change(new: State, old: State) -> Tensor:
    """Residual |new - old| of the joint vector in the 2-norm, (B, 1)."""
    dtype = _joint_dtype(new)
    return joint_norm(tuple(a.to(dtype) - b.to(dtype) for a, b in zip(new, old, strict=True)))


def _joint_dtype(state: State) -> torch.dtype:
    return torch.float64 if any(part.dtype == torch.float64 for part in state) else torch.float32
