"""The processes of a run: one, or several that ``torchrun`` started."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from deqflow.devices import keep_freed_memory, pin_process, resolve_device


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        device: where this one computes.
        rank: its number, from 0; rank 0 alone writes files and talks.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each value over the processes, which must all call this with the same names."""
        if self.count == 1:
            return dict(values)
        # Float64 does not exist on mps, which knows no process groups either.
        together = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return dict(zip(values, (together / self.count).tolist(), strict=True))

    def alike(self, *values: int) -> bool:
        """Whether all processes, which must all call this, have the same numbers."""
        if self.count == 1:
            return True
        both = torch.tensor([*values, *(-value for value in values)], device=self.device)
        dist.all_reduce(both, dist.ReduceOp.MIN)
        least, negative_most = both.chunk(2)
        return torch.equal(least, -negative_most)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            dist.barrier()


_LEFT: list[dist.ProcessGroup | None] = []
"""Groups that were left, for as long as this process lives.

The last to let a group go waits for its threads, which may need the interpreter's lock to let tensors go.
Python gives the lock up meanwhile; the reducer of ``DistributedDataParallel`` does not, and would never end.
"""


@contextmanager
def start_processes(device_name: str) -> Iterator[Processes]:
    """Join the other processes of this run (``torchrun`` tells of them in the environment), leave at the end.

    On CUDA each takes one GPU and NCCL connects them, elsewhere an equal share of the cores and gloo.

    Raises:
        ConfigError: no such device.
    """
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = resolve_device(device_name)
    if device.type == "cpu":
        keep_freed_memory()
        pin_process(local, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    elif device.type == "cuda" and count > 1:
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if count > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
    try:
        yield Processes(device, rank, count)
    finally:
        if count > 1:
            _LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()
