"""Coarse solves that are begun from no motion too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_pyramid import CONFIG, frames, small_pyramid

from deqflow import second_start
from deqflow.cli import main
from deqflow.equilibrium import solve
from deqflow.export import FixedSteps
from deqflow.io import read_flow, write_image
from deqflow.reuse import Matching
from deqflow.step import FlowState, Movement
from deqflow.stream import FlowStream
from deqflow.zoo import save_weights

HOW = {"steps": 9, "fine_steps": 2, "tolerance": 0.0}


@pytest.fixture
def model(device):
    return small_pyramid().to(device)


@pytest.fixture
def images(device):
    return frames(48, 64).to(device)


def state(u, v=0.0, size=(12, 20)):
    flow = torch.tensor([u, v]).view(1, 2, 1, 1).expand(1, 2, *size).contiguous()
    return FlowState(torch.zeros(1, 4, *size), flow)


@pytest.fixture
def moved():
    """Frame 2 shows what frame 1 does, four cells to the right of it."""
    wide = torch.randn(1, 32, 12, 24, generator=torch.Generator().manual_seed(0))
    return Matching(wide[..., 4:].contiguous(), wide[..., :20].contiguous())


def test_a_cell_goes_over_to_what_explains_the_frames_better(moved):
    chosen = second_start.better(moved, state(0.0), state(4.0))
    assert chosen[..., :14].all()  # further right it leaves the frame, or its neighborhood does
    assert not chosen[..., -3:].any()
    assert not second_start.better(moved, state(4.0), state(0.0)).any()


def test_nothing_is_said_against_a_flow_that_leaves_the_frame(moved):
    assert not second_start.better(moved, state(30.0), state(4.0)).any()


def test_small_differences_are_not_for_matching_to_judge(moved):
    assert not second_start.better(moved, state(2.5), state(4.0)).any()
    assert second_start.better(moved, state(1.5), state(4.0)).any()


@pytest.mark.parametrize("where", ["nowhere", "everywhere", "left"])
def test_a_solve_goes_on_from_what_was_chosen(model, images, monkeypatch, where):
    """At 8 alone: at 16 no scale comes before, and 4 is the finest."""
    asked = []

    def chosen(matching, found, other):
        asked.append(found.flow.shape[2:])
        mask = torch.zeros_like(found.flow[:, :1], dtype=torch.bool)
        mask[..., : {"nowhere": 0, "left": 3, "everywhere": 8}[where]] = True
        return mask

    monkeypatch.setattr(second_start, "better", chosen)
    monkeypatch.setattr(second_start, "MORE_DOUBT", np.inf)
    settings = model.settings(**HOW, second_start=True)
    pair = model.prepare(*images, scales=(16, 8, 4))
    whole = model.solve(pair, settings=settings)
    assert asked == [(6, 8)]
    again = 0 if where == "nowhere" else 9
    assert {scale: int(steps) for scale, steps in whole.evaluations.items()} == {
        16: 9,
        8: 9 + 6 + again,
        4: 2,
    }
    first = model.solve(pair, settings=replace(settings, scales=(16, 8), second_start=False)).finest.state
    operator, stop = model.operator(pair, 8), settings.stopping(Movement(8), 8)
    other = solve(operator, operator.start, settings.solver, replace(stop, steps=6)).state
    mask = chosen(None, first, other)
    last = solve(operator, other.where(mask, first), settings.solver, stop).state
    near = torch.zeros_like(mask)
    near[..., : {"nowhere": 0, "left": 3 + second_start.NEAR, "everywhere": 8}[where]] = True
    wanted = last.where(near, first)
    torch.testing.assert_close(whole.reusable.state.flow, wanted.flow)
    torch.testing.assert_close(whole.reusable.state.hidden, wanted.hidden)


def test_one_that_expects_much_larger_errors_of_itself_is_not_chosen(model, images, monkeypatch):
    monkeypatch.setattr(second_start, "better", lambda matching, found, other: found.flow[:, :1] > -np.inf)
    for more, evaluations in ((0.0, 15), (np.inf, 24)):
        monkeypatch.setattr(second_start, "MORE_DOUBT", more)
        assert model(*images, **HOW, second_start=True)[0].evaluations[8] == evaluations


def test_a_model_that_tells_no_errors_goes_by_matching_alone(images):
    plain = small_pyramid(replace(CONFIG, uncertainty=None)).to(images.device)
    estimate = plain(*images, **HOW, second_start=True)[0]
    assert estimate.evaluations[8] in (15, 24) and estimate.flow.shape == (48, 64, 2)


def test_a_start_that_is_given_is_the_only_one(model, images):
    start = model(*images, **HOW).state
    once, twice = (model(*images, start, **HOW, second_start=second) for second in (False, True))
    torch.testing.assert_close(twice.flow, once.flow, rtol=0, atol=0)
    assert twice[0].evaluations == once[0].evaluations


def test_fast_begins_twice_at_an_eighth_too(model, images):
    assert model(*images, **HOW, scales="fast", second_start=True)[0].evaluations[8] > 9


def test_a_flow_carries_a_graph(model, images):
    model.requires_grad_(True).train()
    model(*images, **HOW, second_start=True).flow.abs().mean().backward()
    stem = next(model.encoder.parameters())
    assert stem.grad is not None and stem.grad.abs().max() > 0


def test_cold_pairs_of_a_stream_begin_twice(model, images):
    shown = [image[0].permute(1, 2, 0).cpu().numpy().astype(np.uint8) for image in images]
    stream = FlowStream(model, **HOW, second_start=True)
    stream.push(shown[0])
    assert stream.push(shown[1]).evaluations[8] > 9


def test_the_commands_take_it(tmp_path, capsys, images):
    weights = tmp_path / "weights.safetensors"
    model = small_pyramid(name="deqflow-s")
    save_weights(model, weights)
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for file, image in zip(files, images, strict=True):
        write_image(file, image[0].permute(1, 2, 0).cpu().numpy().astype(np.uint8))
    words = ["flow", *files, "--checkpoint", str(weights), "--output", str(tmp_path), "--formats", "flo"]
    words += ["--device", "cpu", "--precision", "float32", "--steps", "9", "--fine-steps", "2"]
    assert main([*words, "--tolerance", "0", "--second-start", "True", "--scales", "16", "8", "4"]) == 0
    wanted = model.estimate(*files, **HOW, second_start=True).flow
    np.testing.assert_allclose(read_flow(tmp_path / "a.flo")[0], wanted, atol=1e-4)
    words = ["bench", "errors", "--second-start", "True", "--pairs", "1", "--width", "64", "--height", "48"]
    assert main([*words, "--device", "cpu", "--checkpoint", str(weights)]) == 0
    assert "EPE mean" in capsys.readouterr().out


@torch.no_grad()
def test_what_is_exported_begins_once(model, images):
    exported = FixedSteps(model, model.settings(**HOW, second_start=True))(*images)
    expected = model(*images, **HOW, second_start=False).flow
    torch.testing.assert_close(exported, expected, atol=1e-3, rtol=1e-3)
