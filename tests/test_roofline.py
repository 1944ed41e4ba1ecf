"""Work of the parts of an estimate, counted exactly, and the command that prints it."""

import re

import pytest
import torch
from evaluation_data import tiny_model
from torch.profiler import record_function

from deqflow.cli import main
from deqflow.evaluation.roofline import Ceilings, Work, WorkCounter, measure_parts, roofline_table


def test_work_is_counted_by_the_innermost_span():
    image, filters = torch.zeros(1, 4, 10, 10), torch.zeros(6, 4, 3, 3)
    left, right = torch.zeros(5, 8), torch.zeros(8, 3)
    with torch.no_grad(), WorkCounter() as counter:
        left @ right  # outside any span
        with record_function("outer"):
            with record_function("inner"):
                torch.nn.functional.conv2d(image, filters)
            left.t().t() @ right
            left.index_select(0, torch.tensor([2]))
    positions = 8 * 8
    assert counter.spans["inner"] == Work(2 * positions * 6 * 4 * 9, 0, 4 * (400 + 216 + 6 * positions))
    product, gather = 4 * (5 * 8 + 8 * 3 + 5 * 3), 4 * 2 * 8 + 8
    outer = counter.spans["outer"]
    assert (outer.convolution, outer.product) == (0, 2 * 5 * 8 * 3)
    assert outer.traffic >= product + gather


def test_the_floor_is_the_longer_of_computing_and_moving():
    ceilings = Ceilings(convolution=10, product=20, traffic=100)
    assert ceilings.seconds(Work(10, 20, 100)) == 2
    assert ceilings.seconds(Work(10, 20, 500)) == 5
    table = roofline_table({"solve": Work(10, 20, 500)}, {"solve": 7.5}, ceilings)
    assert re.search(r"\| solve +\|.* 5\.000 +\| +7\.500 +\| +1\.5 +\|", table)


def test_steps_add_to_the_solve_alone():
    few, many = (measure_parts(tiny_model(), steps=steps, size=(48, 64), repeats=1) for steps in (1, 3))
    assert few[0].keys() == many[0].keys() == few[1].keys()
    for part, work in few[0].items():
        assert (part == "solve") == (many[0][part] != work)


@pytest.mark.parametrize("model", ["deqflow-s", "deqflow-tiny"])
def test_the_command_prints_a_row_for_each_part_with_weights_or_without(model, capsys):
    options = ["--model", model, "--width", "64", "--height", "48", "--steps", "1", "--repeats", "1"]
    assert main(["bench", "roofline", *options]) == 0
    printed = capsys.readouterr().out
    assert "GB/s moved" in printed
    for part in ("encode", "correlation", "context", "solve", "decode"):
        assert re.search(rf"^\| {part} ", printed, re.MULTILINE)


@pytest.mark.parametrize("wrong", ["--steps", "--repeats"])
def test_options_out_of_range_are_refused(wrong, capsys):
    assert main(["bench", "roofline", wrong, "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
