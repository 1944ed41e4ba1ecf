"""What a method costs in a process of its own: processor seconds a pair, and the most memory it ever had.

PyTorch is imported by the processes whose method needs it, not here: it is a good part of what they take.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray
from tqdm import tqdm

from deqflow.evaluation.baselines import dis_flow
from deqflow.tables import markdown

if TYPE_CHECKING:
    from deqflow.estimator import DEQFlow

Image = NDArray[np.uint8]
Method = Callable[[Image, Image], object]

LINUX_STATUS = Path("/proc/self/status")


@dataclass
class ProcessCost:
    """What a method takes.

    Attributes:
        seconds: of the processor, for the pair, each time.
        peak: bytes, the largest resident size that the process had; None where the system does not tell.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None


def peak_memory() -> int | None:
    """Return the largest resident size of this process so far, bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if LINUX_STATUS.exists():
        # What `getrusage` tells here is not below the size of the process that started this one.
        found = [line for line in LINUX_STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(found[0].split()[1]) if found else None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def dis_method(threads: int | None = None) -> Method:
    """Return OpenCV's dense inverse search."""
    if threads is not None:
        cv2.setNumThreads(threads)
    return dis_flow


def model_method(
    load: "Callable[[], DEQFlow]", precision: str = "auto", threads: int | None = None
) -> Method:
    """Return a model as it solves by default.

    Args:
        load: returns it.
        precision: its own, or a name that ``resolve_precision`` knows.
        threads: of the CPU; None is one a core.
    """
    from deqflow.devices import resolve_precision, set_threads

    set_threads(threads)
    model = load()
    if precision != "auto":
        model.precision = resolve_precision(precision, model.device)
    return model.estimate


_running: list[Method] = []
"""What this process measures, once it has been started."""


def _start(make: Callable[[], Method]) -> None:
    _running.append(make())


def _run(frame1: Image, frame2: Image) -> float:
    began = time.process_time()
    _running[-1](frame1, frame2)
    return time.process_time() - began


def measure_processes(
    methods: Mapping[str, Callable[[], Method]], frames: tuple[Image, Image], *, repeats: int
) -> dict[str, ProcessCost]:
    """Let a process for each method estimate a pair again and again, in turns.

    Args:
        methods: make the method in its process, by what to call it; they can be pickled.
        frames: uint8 RGB (H, W, 3).
        repeats: rounds that count, after one that does not.
    """
    costs = {name: ProcessCost() for name in methods}
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in methods}
        for name, process in processes.items():
            process.submit(_start, methods[name]).result()
        for round_ in tqdm(range(1 + repeats), unit="round"):
            for name, process in processes.items():
                seconds = process.submit(_run, *frames).result()
                if round_:
                    costs[name].seconds.append(seconds)
        for name, process in processes.items():
            costs[name].peak = process.submit(peak_memory).result()
    return costs


def process_table(costs: Mapping[str, ProcessCost]) -> str:
    """Return a Markdown table of medians, a row per method; MB are millions of bytes."""
    rows = [
        [name, f"{median(cost.seconds):.3g}", "" if cost.peak is None else f"{cost.peak / 1e6:.0f}"]
        for name, cost in costs.items()
    ]
    return "\n".join(markdown(["method", "CPU seconds a pair", "memory, MB"], rows))
