"""Timing of the parts of a pair, and the bench command."""

import re

import pytest
import torch
from evaluation_data import tiny_model

from deqflow import zoo
from deqflow.commands.bench import BenchOptions
from deqflow.commands.bench import run as run_bench
from deqflow.errors import ConfigError
from deqflow.evaluation.speed import measure_speed, time_pair


def test_parts_make_up_the_whole_and_precision_is_restored(device):
    model = tiny_model().to(device)
    timings = measure_speed(
        model, precisions=("float32", "bfloat16"), steps=(1, 4), size=(48, 64), repeats=3, progress=False
    )
    assert list(timings) == [("float32", 1), ("float32", 4), ("bfloat16", 1), ("bfloat16", 4)]
    assert all(len(measured) == 3 for measured in timings.values())
    for timing in (timing for measured in timings.values() for timing in measured):
        assert min(timing.encoders, timing.correlation, timing.upsampling) > 0
        assert timing.total >= timing.solve
    assert model.precision == torch.float32


def test_time_is_booked_on_the_part_that_spends_it(monkeypatch):
    """By a clock that only stands still or is put forward: no machine is too slow for it."""
    model, now = tiny_model(), 0.0
    monkeypatch.setattr("deqflow.devices.time.perf_counter", lambda: now)

    def slowed(function, seconds):
        def slow(*arguments, **options):
            nonlocal now
            now += seconds
            return function(*arguments, **options)

        return slow

    for name, seconds in {"_features": 1.0, "operator": 10.0, "update": 4.0, "decode": 3.0}.items():
        part = getattr(model, name)
        if name == "update":
            monkeypatch.setattr(part, "forward", slowed(part.forward, seconds))
        else:
            monkeypatch.setattr(model, name, slowed(part, seconds))
    timing = time_pair(model, *torch.zeros(2, 1, 3, 16, 16), steps=2)
    # The solve builds an operator of its own, which is not booked on it.
    assert (timing.encoders, timing.correlation, timing.solve, timing.upsampling) == (2.0, 10.0, 8.0, 3.0)


def test_bench_prints_a_row_per_combination(monkeypatch, capsys):
    model = tiny_model()
    monkeypatch.setattr(zoo, "load", lambda name, **options: model)
    options = BenchOptions(steps=(1, 2), precisions=("float32",), width=64, height=48, repeats=1)
    assert run_bench(options) == 0
    table = capsys.readouterr().out
    assert "64x48" in table and "deqflow-s, cpu" in table
    assert re.search(r"\| float32 +\| +1 \|", table)
    assert re.search(r"\| float32 +\| +2 \|", table)


@pytest.mark.parametrize("wrong", [{"steps": ()}, {"steps": (0,)}, {"repeats": 0}, {"precisions": ()}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        BenchOptions(**wrong)
