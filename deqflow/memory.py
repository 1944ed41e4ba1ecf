"""What the graph of a computation keeps for its backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
