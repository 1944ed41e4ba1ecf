"""Where devices, precision and cores are decided."""

import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from deqflow import devices
from deqflow.cli import main
from deqflow.devices import (
    autocast,
    keep_freed_memory,
    pin_process,
    processor_seconds,
    resolve_device,
    resolve_precision,
    stopwatch,
)
from deqflow.errors import ConfigError
from deqflow.io import write_image
from deqflow.network.correlation import choose_correlation


@pytest.fixture
def restored():
    """Threads and determinism as they were before, afterwards."""
    threads, drawn = torch.get_num_threads(), cv2.getNumThreads()
    cudnn = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(drawn)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = cudnn
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, torch.float32),
        ({"avx2": True}, torch.float32),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R) Processor"}, torch.float32),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC"}, torch.float32),
    ],
)
def test_a_cpu_gets_bfloat16_only_where_it_is_fast(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems forget ended processes")
def test_processor_seconds_are_those_of_workers_too():
    before, own = processor_seconds(), time.process_time()
    command = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", command], check=True)
    assert processor_seconds() - before > 0.25 + (time.process_time() - own) / 2
    with subprocess.Popen([sys.executable, "-c", f"{command}\ninput()"], stdin=subprocess.PIPE) as worker:
        while processor_seconds() - before < 0.55:
            assert worker.poll() is None
        worker.communicate(b"\n")


def test_a_stopwatch_of_the_processor_stands_still_while_nothing_is_computed():
    clock, wall = stopwatch(torch.device("cpu"), processor=True), stopwatch(torch.device("cpu"))
    next(clock), next(wall)
    time.sleep(0.2)
    assert next(clock) < 0.1 < next(wall)


def test_names_that_mean_nothing_are_refused():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="abacus"):
        resolve_device("abacus")
    with pytest.raises(ConfigError, match="float7"):
        resolve_precision("float7", torch.device("cpu"))


def test_weights_used_inside_the_solver_still_get_gradients():
    layer = torch.nn.Linear(4, 4)
    with autocast(torch.device("cpu"), torch.bfloat16):
        with torch.no_grad():
            layer(torch.ones(1, 4))  # a cached cast of the weights would be reused below, without a graph
        layer(torch.ones(1, 4)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_processes_get_cores_of_their_own(monkeypatch):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    given = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4, 5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: given.append(list(cores)))
    threads = torch.get_num_threads()
    try:
        for rank in range(2):
            pin_process(rank, 2)
            assert torch.get_num_threads() == 2
        pin_process(0, 1)
    finally:
        torch.set_num_threads(threads)
    assert given == [[0, 1], [4, 5]]


def test_the_allocator_setting_is_harmless_anywhere(monkeypatch):
    keep_freed_memory()
    monkeypatch.setattr("sys.platform", "plan9")
    keep_freed_memory()


@pytest.mark.parametrize(
    ("granted", "cores"),
    [("max 100000", 4), ("150000 100000", 1), ("300000 100000", 3), ("10000 100000", 1), (None, 4)],
)
def test_a_container_gets_no_more_threads_than_it_is_granted(granted, cores, tmp_path, monkeypatch, restored):
    limit = tmp_path / "cpu.max"
    if granted is not None:
        limit.write_text(granted + "\n")
    monkeypatch.setattr(devices, "CPU_LIMIT", limit)
    torch.set_num_threads(4)
    devices.set_threads()
    assert torch.get_num_threads() == cores
    devices.set_threads(3)
    assert torch.get_num_threads() == 3


@pytest.fixture
def noise(tmp_path):
    rng = np.random.default_rng(0)
    frames = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for frame in frames:
        write_image(frame, rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
    return frames


def test_memory_that_pytorch_holds_unused_counts_as_free_on_cuda(monkeypatch):
    figures = {"mem_get_info": (100, 1000), "memory_reserved": 70, "memory_allocated": 30}
    for name, value in figures.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda device, value=value: value)
    assert devices.free_memory(torch.device("cuda")) == 140


def test_deterministic_runs_give_the_same_bits_however_much_memory_is_free(
    noise, tmp_path, monkeypatch, restored
):
    written = []
    for run, free in enumerate((2**40, 2**28)):
        monkeypatch.setattr(devices, "free_memory", lambda device, free=free: free)
        monkeypatch.setattr("deqflow.network.correlation.free_memory", lambda device, free=free: free)
        out = tmp_path / f"{run}.flo"
        words = ["--precision", "float32", "--deterministic", "--threads", "2"]
        assert main(["flow", *noise, "--output", str(out), *words]) == 0
        written.append(out.read_bytes())
        assert torch.get_num_threads() == 2
    assert written[0] == written[1]
    monkeypatch.setattr("deqflow.network.correlation.free_memory", lambda device: 0)
    assert choose_correlation(torch.zeros(1, 1, 8, 8)) == "all-pairs"
    torch.use_deterministic_algorithms(False)
    assert choose_correlation(torch.zeros(1, 1, 8, 8)) == "on-demand"


def test_threads_are_at_least_one(noise, capsys):
    assert main(["flow", *noise, "--threads", "0"]) == 2
    assert "--threads must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "expected"), [(None, "1000"), ("7", "7")])
def test_waiting_threads_soon_give_up_their_core_unless_told_otherwise(given, expected, monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back afterwards
    if given is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    else:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    assert main(["--version"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == expected
