"""What docs/extending.md shows works as it is."""

import json
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
import torch
from dataset_files import HEIGHT, WIDTH, corner, write_frame, write_motion

from deqflow import zoo
from deqflow.cli import main
from deqflow.commands.common import SolverName
from deqflow.config import COMPONENTS, ModelConfig
from deqflow.data.datasets import DATASETS, open_dataset
from deqflow.data.datasets.headers import pixel_size
from deqflow.equilibrium import SOLVERS, StoppingRule, solve
from deqflow.errors import FlowFileError
from deqflow.estimator import DEQFlow
from deqflow.io.flow_files import FLOW_FORMATS, read_flow, write_flow
from deqflow.network import CORRELATIONS, build_correlation
from deqflow.visualize import ShownPair, scalar_map


@pytest.fixture
def shown(repository):
    """The modules of the page, in its order."""
    blocks = (repository / "docs" / "extending.md").read_text().split("```python\n")[1:]
    modules = []
    for number, block in enumerate(blocks):
        module = ModuleType(f"shown_{number}")
        exec(compile(block.partition("```")[0], "extending.md", "exec"), vars(module))
        modules.append(module)
    return modules


def test_a_flow_format(shown, tmp_path, monkeypatch):
    form = shown[0].TEXT
    monkeypatch.setitem(FLOW_FORMATS, form.suffix, form)
    flow = np.random.default_rng(0).normal(0, 9, (HEIGHT, WIDTH, 2)).astype(np.float32)
    write_flow(tmp_path / "a.flotxt", flow, corner(7, 9))
    read, valid = read_flow(tmp_path / "a.flotxt")
    assert np.array_equal(valid, corner(7, 9)) and np.array_equal(read[valid], flow[valid])
    assert pixel_size(tmp_path / "a.flotxt") == (WIDTH, HEIGHT)
    (tmp_path / "b.flotxt").write_text("9 9\n1 2\n")
    with pytest.raises(FlowFileError, match=r"b.flotxt is not a usable flow in text: it says 9x9 pixels"):
        read_flow(tmp_path / "b.flotxt")


def test_a_data_set(shown, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DATASETS, "renders", shown[1].RENDERS)
    for number in (1, 2, 3):
        write_frame(tmp_path / "training" / "shot1" / f"{number:04d}.png", number)
        write_motion(tmp_path / "training" / "shot1" / f"{number:04d}.exr", number)
    (dataset,) = open_dataset("renders", tmp_path)
    assert [sample.flow[0, 0, 0] for sample in dataset] == [1, 2]
    assert main(["datasets", "check", str(tmp_path), "--dataset", "renders"]) == 0
    assert "Renders, training: 2 pairs" in capsys.readouterr().out
    options = ["--dataset", "renders", "--data", str(tmp_path), "--baselines", "zero", "--steps", "1"]
    assert main(["evaluate", *options, "--json", str(tmp_path / "a.json")]) == 0
    errors = json.loads((tmp_path / "a.json").read_text())["datasets"]["Renders"]["zero"]
    assert errors["epe"] == pytest.approx((np.hypot(1, 2) + np.hypot(2, 2)) / 2)


def test_a_rendering(shown):
    rendering = shown[2].SPEED
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[:, 5:] = (3, 4)
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture = rendering(ShownPair(frame, frame, flow, 10.0))
    assert np.array_equal(
        picture, scalar_map(np.where(np.arange(WIDTH) >= 5, 5.0, 0) * np.ones((HEIGHT, 1)), 10)
    )


def test_a_solver(shown):
    solver = shown[3].HeavyBall()
    matrix = torch.diag(torch.tensor([0.95, 0.5, -0.2]))
    target = torch.ones(2, 3)

    def step(state, active=None):
        (x,) = state
        return (x @ matrix + (target if active is None else target[active]),)

    rule = StoppingRule(steps=300, tolerance=1e-6)
    found, plain = (solve(step, (torch.zeros(2, 3),), one, rule) for one in (solver, SOLVERS["plain"]))
    torch.testing.assert_close(
        found.state[0], target @ torch.linalg.inv(torch.eye(3) - matrix), rtol=1e-3, atol=0
    )
    assert found.converged.all() and found.steps.max() < plain.steps.min()
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    model = zoo.load("deqflow-s", device="cpu")
    assert model.estimate(frame, frame, solver=solver).flow.shape == (64, 64, 2)


def test_the_command_line_knows_every_solver():
    assert set(get_args(SolverName)) == set(SOLVERS)


def test_an_encoder(shown, tmp_path, monkeypatch):
    monkeypatch.setitem(COMPONENTS["encoder"], "patches", shown[4].PatchEncoderConfig)
    config = ModelConfig.from_dict({"encoder": {"kind": "patches", "width": 16}})
    assert config.strides == (8,) and ModelConfig.from_dict(config.to_dict()) == config
    model = DEQFlow(config, name="deqflow-s").eval()
    frame = np.random.default_rng(0).integers(0, 256, (64, 72, 3), dtype=np.uint8)
    assert np.isfinite(model.estimate(frame, frame, steps=2).flow).all()
    zoo.save_weights(model, tmp_path / "patches.safetensors")
    with pytest.warns(match="another configuration"):
        assert zoo.load("deqflow-s", checkpoint=tmp_path / "patches.safetensors").config == config


def test_a_correlation(shown, monkeypatch):
    monkeypatch.setitem(CORRELATIONS, "sampled", shown[5].SampledCorrelation)
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 2, 8, 13, 17, generator=generator)
    flow = 6 * torch.randn(2, 2, 13, 17, generator=generator)
    kinds = ("sampled", "all-pairs", "on-demand")
    sampled, *others = (build_correlation(one, two, levels=3, radius=2, kind=kind) for kind in kinds)
    assert sampled.channels == others[0].channels and sampled.nbytes > 0
    for active in (None, torch.tensor([1])):
        asked = flow if active is None else flow[active]
        for other in others:
            torch.testing.assert_close(
                sampled.lookup(asked, active), other.lookup(asked, active), rtol=1e-4, atol=1e-4
            )
