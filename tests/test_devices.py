"""Where devices, precision and cores are decided."""

import os

import pytest
import torch

from deqflow.devices import autocast, keep_freed_memory, pin_process, resolve_device, resolve_precision
from deqflow.errors import ConfigError


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
