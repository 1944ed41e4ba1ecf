"""Small problems with known fixed points, for the tests of the equilibrium library."""

from typing import NamedTuple

import torch
from torch import Tensor


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
