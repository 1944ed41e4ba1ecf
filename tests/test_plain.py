"""The plain form of the published models, which the fast one is held to."""

import re

import pytest
import torch
from published import frames

from deqflow import zoo
from deqflow.cli import main
from deqflow.errors import ConfigError
from deqflow.evaluation.plain import plain_flow


@pytest.mark.parametrize("name", ["deqflow-tiny", "deqflow-b", "raft"])
def test_the_fast_model_gives_the_flow_of_the_plain_one(name):
    torch.manual_seed(1)
    model, images = zoo.create(name).eval(), frames(64, 96, batch=2)
    expected = plain_flow(model, *images, 4)
    with torch.no_grad():
        found = model(*images, steps=4, tolerance=0.0).flow
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", ["deqflow-s", "deqflow-tiny-gma", "raft-small"])
def test_models_of_another_architecture_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} has no plain form"):
        plain_flow(zoo.create(name), *frames(64, 64), 1)


def test_the_command_prints_a_row_for_each_precision(capsys):
    options = ["--width", "64", "--height", "48", "--steps", "1", "--repeats", "1"]
    assert main(["bench", "plain", "--model", "deqflow-tiny", *options]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| plain, float32 +\| +[\d.]+ \| +1\.00 \| +0\.0e\+00 \|", printed)
    (difference,) = re.findall(r"\| float32 +\| +[\d.]+ \| +[\d.]+ \| +([\d.e+-]+) \|", printed)
    assert float(difference) < 1e-4
    assert "| bfloat16" in printed


def test_sizes_that_would_need_padding_are_refused(capsys):
    assert main(["bench", "plain", "--height", "436"]) == 2
    assert "multiples of 8" in capsys.readouterr().err
