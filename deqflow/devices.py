"""The one place that decides devices, precision, threads and the allocator."""

import ctypes
import math
import os
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import cv2
import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from deqflow.errors import ConfigError

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says what a container may take of the processor."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device that ``name`` means: ``auto`` takes cuda, then mps, then cpu.

    Raises:
        ConfigError: a device that is unknown or not on this machine.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} is not available here; expected auto, cpu, cuda or mps"
        ) from error
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of convolutions and matrix products under autocast.

    ``auto`` takes bfloat16 where the hardware multiplies it faster than float32: CUDA from Ampere on, and the
    CPUs that ``_fast_bfloat16_cpu`` knows.

    Raises:
        ConfigError: an unknown name.
    """
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.get_device_capability(device) >= (8, 0)
        else:
            fast = device.type == "cpu" and _fast_bfloat16_cpu()
        return torch.bfloat16 if fast else torch.float32
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is unknown; expected auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _fast_bfloat16_cpu() -> bool:
    """Whether this CPU multiplies bfloat16 at twice the rate of float32, or more.

    Those are CPUs with AMX tiles, and those of AMD with the AVX-512 bfloat16 instructions, which on Zen 4 and
    Zen 5 were measured to halve the time of a convolution. The instructions alone say little: on another CPU
    a convolution took 1.7 times as long with them as in float32. Measuring would be surer, but a run that is
    resumed must come to the same answer.
    """
    # Older releases of PyTorch cannot tell: float32 then, which is right everywhere.
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    amd = str(has.get("cpu_name", "")).startswith("AMD")
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and amd))


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Mixed precision in ``dtype``; float32 switches it off.

    The weight cache stays off: it would keep casts made inside the solver, which runs without a graph, and
    hand them to the gradient step, whose weights would then get no gradient.
    """
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False)


def tune_for_fixed_sizes(device: torch.device) -> None:
    """Let cuDNN try its algorithms on every new size of a convolution and keep the fastest (CUDA).

    It pays where sizes repeat, as in training; where each frame has another size it costs more than it gains.
    """
    if device.type == "cuda" and not is_deterministic():
        torch.backends.cudnn.benchmark = True


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on ``device`` without swapping."""
    if device.type == "cuda":
        # What PyTorch holds and does not use is free for its tensors, though not for others.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(psutil.virtual_memory().available)


def working_set(device: torch.device) -> int:
    """Return the bytes that one portion of work should take, where work can be cut into portions.

    On a CPU they stay near the core and in memory that the allocator has at hand; elsewhere a portion must be
    large enough to keep the device busy.
    """
    return 2**22 if device.type == "cpu" else 2**28


def set_threads(count: int | None = None) -> None:
    """Compute on the CPU with so many threads; None: one a core, but no more than a container is granted."""
    if count is None:
        # PyTorch counts the cores of the machine; threads beyond those granted wait for each other.
        count = max(1, int(min(torch.get_num_threads(), _granted_cores())))
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def _granted_cores() -> float:
    """Return how many cores' time the control group of this process may take (Linux), infinity for all."""
    try:
        quota, period = CPU_LIMIT.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf


def keep_freed_memory(largest: int = 2**30) -> None:
    """Tell glibc not to return big tensors to the kernel after every step (1.7x faster training on a CPU).

    Args:
        largest: bytes of the tensors that are kept. Where they are few and large, as those of large frames,
            what is kept lies in pieces that no other fits into, and memory for them is taken several times.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and others
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    for option, value in (
        (trim_threshold, 2**31 - 1),
        (top_pad, 2**26),
        (mmap_threshold, largest),
    ):
        mallopt(option, value)


def make_deterministic() -> None:
    """Let every operation give the same bits from run to run, in this process from now on.

    What depends on the memory that happens to be free then goes by size alone, and float32 is float32 on
    CUDA, where convolutions otherwise round to TensorFloat-32.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = False


def is_deterministic() -> bool:
    """Whether this process is to give the same bits from run to run."""
    return torch.are_deterministic_algorithms_enabled()


def stopwatch(device: torch.device, *, processor: bool = False) -> Iterator[float]:
    """Seconds since the last value, once the device has finished what it was given.

    Args:
        device: that computes.
        processor: on a CPU, count what this process took of it, which other work hardly lengthens.
    """
    clock = time.process_time if processor and device.type == "cpu" else time.perf_counter
    last = clock()
    while True:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        last, before = clock(), last
        yield last - before


def processor_seconds() -> float:
    """Return the processor time of this process and of those it has started, such as workers, so far.

    Of workers that have ended it is known on Linux alone.
    """
    process = psutil.Process()
    times = [process.cpu_times()]
    ended = getattr(times[0], "children_user", 0.0) + getattr(times[0], "children_system", 0.0)
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            times.append(child.cpu_times())
    return float(ended + sum(one.user + one.system for one in times))


@contextmanager
def span_seconds(device: torch.device) -> Iterator[dict[str, float]]:
    """Profile a block; seconds in each span (``record_function``) by name are there once it has ended.

    On CUDA they are those that the device works on what was launched in the span, by any thread; else those
    of the host. A span has the time of those inside it too.
    """
    cuda = device.type == "cuda"
    seconds: dict[str, float] = {}
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        yield seconds
        if cuda:
            torch.cuda.synchronize(device)
    seconds.update(_seconds_by_span(profiler.events(), launched=cuda))


def _seconds_by_span(events: Iterable[Any], *, launched: bool) -> dict[str, float]:
    """Sum up the spans among a profile's events by name.

    Args:
        events: ``torch.autograd.profiler_util.FunctionEvent``.
        launched: count the kernels that were launched in a span, not the time between its ends. Profiles
            have spans of the device too, but each from its first kernel to its last with the gaps between,
            and without the kernels of spans inside it or of other threads, where backward passes run.
    """
    host = [event for event in events if event.device_type.name == "CPU"]
    spans = [event for event in host if event.is_user_annotation]
    # What is named like its event is a span of the device.
    kernels = sorted(
        (event.time_range.start, kernel.duration)
        for event in host
        for kernel in event.kernels
        if kernel.name != event.name
    )
    starts = [start for start, _ in kernels]
    until = [0.0, *accumulate(duration for _, duration in kernels)]
    seconds: dict[str, float] = {}
    for span in spans:
        first, last = span.time_range.start, span.time_range.end
        spent = until[bisect_right(starts, last)] - until[bisect_left(starts, first)]
        seconds[span.name] = seconds.get(span.name, 0.0) + (spent if launched else last - first) / 1e6
    return seconds


def pin_process(rank: int, processes: int) -> None:
    """Give each of several CPU processes its own equal share of the cores, and as many threads."""
    if processes == 1 or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // processes)
    mine = cores[rank * share : (rank + 1) * share] or cores
    os.sched_setaffinity(0, mine)
    set_threads(len(mine))  # OpenCV, which renders the scenes, would otherwise count all cores
