"""What the graph of a computation keeps for its backward pass, and what a step of training costs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")


class SavedBytes:
    """Size of the tensors that a graph holds on to, each storage counted once.

    Args:
        model: whose parameters and buffers are there anyway and do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        self._storages: dict[int, int] = {}
        self._known = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved inside."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        """Bytes so far. The graph must still be alive, else a later tensor may reuse a storage's address."""
        return sum(self._storages.values())


@dataclass(frozen=True)
class StepCost:
    """What a loss and its gradient cost.

    Attributes:
        operations: multiplications and additions of convolutions and matrix products, forward and backward.
        kept: bytes that the graph keeps for the backward pass.
        seconds: of this machine, the only one that depends on it.
    """

    operations: int
    kept: int
    seconds: float


def step_cost(model: nn.Module, objective: Callable[[], tuple[Tensor, T]]) -> tuple[StepCost, Tensor, T]:
    """Compute a loss of ``model`` and its gradient, and count what that took.

    Args:
        model: whose parameters are there anyway.
        objective: computes the loss, and something to report beside it.

    Returns:
        The cost, the loss without a graph, and what was to report.
    """
    saved, started = SavedBytes(model), time.monotonic()
    with FlopCounterMode(display=False) as counter:
        with saved.counting():
            loss, report = objective()
        kept = saved.total
        loss.backward()
    return StepCost(counter.get_total_flops(), kept, time.monotonic() - started), loss.detach(), report
