"""Work of each part of an estimate against what the machine can do (Williams et al., Roofline, 2009)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from deqflow.devices import span_seconds, stopwatch
from deqflow.estimator import DEQFlow
from deqflow.tables import markdown

_aten = torch.ops.aten
_GATHERS = (_aten.index_select, _aten.index, _aten.embedding, _aten.gather)


@dataclass
class Work:
    """What is computed and moved.

    Attributes:
        convolution: floating-point operations of convolutions.
        product: the same of matrix products.
        traffic: bytes that operations read and write, each operation on its own; views are free, and of what
            is gathered only the chosen entries count.
    """

    convolution: int = 0
    product: int = 0
    traffic: int = 0


@dataclass(frozen=True)
class Ceilings:
    """What a machine reaches: operations per second of both kinds, and bytes read and written per second."""

    convolution: float
    product: float
    traffic: float

    def seconds(self, work: Work) -> float:
        """Return the least time of ``work`` if what is computed and what is moved overlap entirely."""
        computing = work.convolution / self.convolution + work.product / self.product
        return max(computing, work.traffic / self.traffic)


class WorkCounter(TorchDispatchMode):
    """Count the work of a block by the innermost span (``record_function``) that it is done in."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: dict[str, Work] = {}
        self._open: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket if hasattr(func, "overloadpacket") else None
        if packet is torch.ops.profiler._record_function_enter_new:
            self._open.append(args[0])
        elif "_record_function_exit" in str(func):
            self._open.pop()
        elif self._open and packet is not None:
            work = self.spans.setdefault(self._open[-1], Work())
            if packet in flop_registry:
                flops = flop_registry[packet](*args, **(kwargs or {}), out_val=result)
                if packet is _aten.convolution:
                    work.convolution += flops
                else:
                    work.product += flops
            if not _is_view(func):
                read = [result, *args[1:]] if packet in _GATHERS else [args, kwargs]
                work.traffic += sum(map(_nbytes, chain(tree_leaves(read), tree_leaves(result))))
        return result


def _is_view(func: Any) -> bool:
    returned = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def _nbytes(value: Any) -> int:
    """Return the bytes that a tensor takes; one that is expanded or overlaps itself takes its storage."""
    return min(value.nbytes, value.untyped_storage().nbytes()) if isinstance(value, Tensor) else 0


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, repeats: int = 5) -> Ceilings:
    """Return what ``device`` reaches in ``dtype``, the best of ``repeats`` each.

    A product of 1024x1024 matrices, a 3x3 convolution of 128 channels on a grid of 55x128, and a copy of
    64 MiB, which is more than caches hold.
    """
    matrix = torch.randn(1024, 1024, device=device, dtype=dtype)
    grid = torch.randn(1, 128, 55, 128, device=device, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )
    filters = torch.randn(128, 128, 3, 3, device=device, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )
    source = torch.zeros(2**24, device=device)
    target = torch.zeros_like(source)
    clock = stopwatch(device)

    def rate(amount: float, run: Callable[[], Any]) -> float:
        run()
        seconds = []
        for _ in range(repeats):
            next(clock)
            run()
            seconds.append(next(clock))
        return amount / min(seconds)

    return Ceilings(
        convolution=rate(2 * 128 * 128 * 9 * 55 * 128, lambda: F.conv2d(grid, filters, padding=1)),
        product=rate(2 * 1024**3, lambda: matrix @ matrix),
        traffic=rate(2 * source.nbytes, lambda: target.copy_(source)),
    )


@torch.no_grad()
def measure_parts(
    model: DEQFlow, *, steps: int, size: tuple[int, int], repeats: int = 3
) -> tuple[dict[str, Work], dict[str, float]]:
    """Return the work of every part of an estimate, and its seconds, the least of ``repeats``.

    Args:
        model: any.
        steps: evaluations of the update operator at every scale.
        size: height and width of the frames, which hold noise.
        repeats: estimates that are timed, after one that is counted.
    """
    noise = torch.randint(0, 256, (2, 1, 3, *size), generator=torch.Generator().manual_seed(0))
    frame1, frame2 = noise.to(model.device).float()
    with WorkCounter() as counter:
        model(frame1, frame2, steps=steps, tolerance=0.0)
    least: dict[str, float] = {}
    for _ in range(repeats):
        with span_seconds(model.device) as seconds:
            model(frame1, frame2, steps=steps, tolerance=0.0)
        least = {part: min(spent, least.get(part, spent)) for part, spent in seconds.items()}
    return counter.spans, least


def roofline_table(parts: Mapping[str, Work], seconds: Mapping[str, float], ceilings: Ceilings) -> str:
    """Return a Markdown table: the work of each part, the least time it implies, and the time it took."""
    rows = []
    for part, work in parts.items():
        floor, spent = ceilings.seconds(work), seconds[part]
        operations = (work.convolution / 1e9, work.product / 1e9, work.traffic / 1e9)
        rows.append(
            [part, *(f"{n:.2f}" for n in operations), f"{floor:.3f}", f"{spent:.3f}", f"{spent / floor:.1f}"]
        )
    header = ["part", "GFLOP convolved", "GFLOP multiplied", "GB moved", "floor s", "measured s", "ratio"]
    return "\n".join(markdown(header, rows))
