"""Models in other runtimes."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_data import tiny_model
from packaging.version import Version
from published import frames
from small_pyramid import SCALES, small_pyramid

from deqflow import zoo
from deqflow.cli import main
from deqflow.equilibrium import Anderson
from deqflow.errors import ConfigError
from deqflow.export import FixedSteps, usual_settings

SIZES = [(128, 128), (133, 170), (200, 261)]


@pytest.mark.parametrize(
    ("scales", "size"),
    [((8,), (128, 137)), ((16, 8), (160, 168)), ((16, 8), (173, 190)), ((32, 16, 8), (323, 350))],
)
def test_what_is_exported_is_the_model(scales, size):
    model = zoo.load("deqflow-s", device="cpu", precision="float32", scales=scales, steps=2, tolerance=0.0)
    images = frames(*size, seed=1)
    fixed = FixedSteps(model, model.defaults)
    with torch.no_grad():
        expected = model(*images, second_start=False).flow
        torch.testing.assert_close(fixed(*images), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "finest"), [("all", (4,)), ("fine", (4, 2))])
def test_scales_of_one_encoder_are_exported_too(name, finest):
    model = small_pyramid()
    model.defaults = replace(model.defaults, scales=(64, 32, *SCALES))
    settings = usual_settings(model, model.settings(steps=1, tolerance=0.0, scales=name))
    # And not 1/64, which only frames of 640 pixels a side have.
    assert settings.scales == (32, 16, 8, *finest)
    # Nor 1/32, which smaller ones leave out: the volume of 1/2 grows with the square of their pixels.
    settings = replace(settings, scales=settings.scales[1:])
    images = frames(163, 178)
    with torch.no_grad():
        expected = model(*images, steps=1, tolerance=0.0, scales=name).flow
        torch.testing.assert_close(FixedSteps(model, settings)(*images), expected, atol=1e-3, rtol=1e-3)


def test_solvers_that_are_no_iteration_are_refused():
    model = tiny_model()
    with pytest.raises(ConfigError, match="export needs the solver plain or relaxed, not Anderson"):
        FixedSteps(model, model.settings(solver=Anderson()))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["flow.pt"], "must be named .onnx, not flow.pt"),
        (["flow.onnx", "--steps", "0"], "--steps must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_written_is_refused(words, expected, capsys):
    assert main(["export", *words]) == 2
    assert expected in capsys.readouterr().err


def test_without_its_libraries_export_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(tmp_path / "flow.onnx")]) == 2
    assert "`pip install 'deqflow[onnx]'` brings" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.13"), reason="export was tried with PyTorch 2.13 and newer only"
)
def test_onnxruntime_gives_the_flow_of_pytorch_at_any_size(tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime, which runs ONNX files, is not installed"
    )
    model, path, weights = tiny_model(), tmp_path / "flow.onnx", tmp_path / "tiny.safetensors"
    zoo.save_weights(model, weights)
    words = ["export", str(path), "--checkpoint", str(weights), "--steps", "1", "--scales", "16", "8"]
    assert main(words) == 0
    assert "steps: 1 at 1/16, 1 at 1/8, for frames of at least 128x128 pixels" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fixed = FixedSteps(model, model.settings(steps=1, scales=(16, 8)))
    for size in SIZES:
        first, second = frames(*size, seed=size[1])
        (flow,) = session.run(None, {"image1": first.numpy(), "image2": second.numpy()})
        np.testing.assert_allclose(flow, fixed(first, second), atol=1e-3, rtol=1e-3)
