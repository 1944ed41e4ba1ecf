"""The estimator through its public interface, with small random weights."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from evaluation_data import TINY

import deqflow
from deqflow import Anderson, FixedPointIteration, FlowStream, Outcome
from deqflow.config import ModelConfig, SolveSettings
from deqflow.equilibrium import OneStep, Phantom, Recorded
from deqflow.errors import ConfigError, ImageError
from deqflow.estimator import DEQFlow
from deqflow.network import (
    CORRELATIONS,
    GatedStripConfig,
    GRUConfig,
    SeparateEncodersConfig,
)
from deqflow.step import FlowState, Movement


@pytest.fixture
def model(device):
    torch.manual_seed(1)
    return DEQFlow(TINY).to(device).eval().requires_grad_(False)


def frames(height, width, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(2, batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 48), (40, 133)])
def test_any_size_from_16_gives_finite_flow_of_that_size(model, size):
    estimate = model(*frames(*size).to(model.device), steps=5, tolerance=0.0)
    assert estimate.flow.shape == (1, 2, *size)
    assert torch.isfinite(estimate.flow).all()
    assert estimate.trace.shape == (1, 1) and estimate.steps.tolist() == [5]


def test_flat_frames_give_finite_flow(model):
    for value in (0.0, 127.0, 255.0):
        flat = torch.full((1, 3, 32, 32), value, device=model.device)
        assert torch.isfinite(model(flat, flat).flow).all()


def test_a_batch_is_its_samples(model):
    images = frames(48, 56, batch=3).to(model.device)
    together = model(*images, steps=10, tolerance=0.02)
    for index in range(3):
        alone = model(*images[:, index : index + 1], steps=10, tolerance=0.02)
        torch.testing.assert_close(alone.flow[0], together.flow[index], atol=1e-4, rtol=1e-4)
        assert alone.steps[0] == together.steps[index]


def test_every_correlation_gives_the_same_flow(model):
    images, flows = frames(72, 88).to(model.device), []
    for model.correlation in ("auto", *CORRELATIONS):
        flows.append(model(*images, steps=4, tolerance=0.0).flow)
    assert len(flows) > 2
    for flow in flows[1:]:
        torch.testing.assert_close(flow, flows[0], atol=1e-3, rtol=1e-4)


def test_arrays_of_every_kind_are_frames(model):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    other = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    expected = model.estimate(rgb, other, steps=3)
    assert expected.flow.shape == (24, 32, 2) and expected.flow.dtype == np.float32
    assert isinstance(expected.steps, int) and isinstance(expected.converged, bool)
    for same in (rgb.astype(np.float32) / 255, rgb.astype(np.uint16) * 257):
        np.testing.assert_allclose(model.estimate(same, other, steps=3).flow, expected.flow, atol=1e-3)
    assert model.estimate(rgb[..., 0], other[..., :1], steps=2).flow.shape == (24, 32, 2)


def test_the_state_of_one_solve_starts_the_next(model):
    images = frames(32, 40).to(model.device)
    whole = model(*images, steps=8, tolerance=0.0)
    half = model(*images, steps=5, tolerance=0.0)
    rest = model(*images, half.state, steps=3, tolerance=0.0)
    torch.testing.assert_close(rest.flow, whole.flow)
    assert isinstance(rest.state, FlowState)


def test_movement_is_in_full_resolution_pixels():
    still = FlowState(torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
    moved = FlowState(torch.ones(1, 2, 4, 4), torch.full((1, 2, 4, 4), 0.5))
    for stride in (4, 8):
        rms, peak, hidden = Movement(stride)(moved, still)[0].tolist()
        assert rms == pytest.approx(stride * 0.5 * 2**0.5) and peak == pytest.approx(rms) and hidden == 0


def test_another_solver_can_be_asked_for(model):
    estimate = model(*frames(32, 32).to(model.device), solver=Anderson(window=3), steps=6, tolerance=0.0)
    assert torch.isfinite(estimate.flow).all()


@dataclass(frozen=True)
class Explosive(FixedPointIteration):
    """Leaves the range of float32 within four steps."""

    def advance(self, state, image, memory):
        return image._replace(flow=1e12 * image.flow), memory


def test_how_a_solve_ended_is_told(model):
    images = frames(32, 40).to(model.device)
    assert model(*images, steps=2, tolerance=0.0).outcome.tolist() == [Outcome.OUT_OF_STEPS]
    first, second = (image[0].permute(1, 2, 0).cpu().numpy().astype(np.uint8) for image in images)
    calm = model.estimate(first, second, steps=200, tolerance=1e9)
    assert calm.outcome is Outcome.CONVERGED and calm.converged
    wild = model.estimate(first, second, steps=6, tolerance=0.0, solver=Explosive())
    assert wild.outcome is Outcome.DIVERGED and not wild.converged
    assert np.isfinite(wild.flow).all()


def test_a_stream_does_not_start_from_what_diverged(model):
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 40, 3), dtype=np.uint8)
    stream = FlowStream(model, check=False, steps=6, tolerance=0.0, solver=Explosive())
    outcomes = [estimate.outcome for estimate in map(stream.push, frames) if estimate]
    assert outcomes == [Outcome.DIVERGED, Outcome.DIVERGED] and not stream.reused


def test_wrong_input_is_named(model):
    image = torch.zeros(1, 3, 32, 32, device=model.device)
    with pytest.raises(ImageError, match="different shapes"):
        model(image, image[..., :24])
    with pytest.raises(ImageError, match="16x16"):
        model(image[..., :8], image[..., :8])
    with pytest.raises(ImageError, match=r"\(B, 3, H, W\)"):
        model(image[0], image[0])
    with pytest.raises(ConfigError, match="steps"):
        model(image, image, steps=0)
    with pytest.raises(ConfigError, match="tolerance"):
        model(image, image, tolerance=float("nan"))
    with pytest.raises(ConfigError, match="state"):
        model(image, image, model(image[..., :16], image[..., :16], steps=1).state)
    with pytest.raises(ImageError, match="frame1"):
        model.estimate(np.full((32, 32), np.nan), np.zeros((32, 32)))


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="kernel"):
        GatedStripConfig(kernel=4)
    for wrong in (0, -3, 2.5, True, 10**9, "wide"):
        with pytest.raises(ConfigError, match="hidden of the model"):
            ModelConfig(hidden=wrong)
    with pytest.raises(ConfigError, match="block"):
        SeparateEncodersConfig(block="dense")
    with pytest.raises(ConfigError, match="kernels"):
        GRUConfig(kernels=((2, 3),))


def test_the_state_of_halved_frames_becomes_one_of_the_frames():
    """Both grids share the corner of the frame: a slope stays where it is, in pixels twice as many."""
    places = 2 * torch.arange(6.0).repeat(4, 1) + 0.5  # centers of the coarse cells on the fine grid
    coarse = FlowState(torch.full((1, 3, 4, 6), 0.7), torch.stack((places, -3 + 0 * places))[None])
    fine = coarse.enlarged(2, (7, 11))
    assert fine.hidden.shape == (1, 3, 7, 11) and fine.flow.shape == (1, 2, 7, 11)
    torch.testing.assert_close(fine.hidden, torch.full((1, 3, 7, 11), 0.7))
    torch.testing.assert_close(fine.flow[0, 1], torch.full((7, 11), -6.0))
    torch.testing.assert_close(fine.flow[0, 0, :, 1:], 2 * torch.arange(1.0, 11.0).repeat(7, 1))


def test_a_coarse_start_is_the_enlarged_fixed_point_of_the_shrunk_frames(model):
    image1, image2 = frames(160, 176).to(model.device)
    how = {"steps": 4, "tolerance": 0.0}
    halved = (torch.nn.functional.avg_pool2d(image, 2) for image in (image1, image2))
    state = model(*halved, **how).state.enlarged(2, (20, 22))
    pair = model.prepare(image1, image2)
    start = model.coarse_start(pair, model.settings(**how, scales=(16, 8)))
    torch.testing.assert_close(start.flow, state.flow)
    torch.testing.assert_close(start.hidden, state.hidden)
    expected, cold = model(image1, image2, start, **how), model(image1, image2, **how)
    scaled = model(image1, image2, **how, scales=(16, 8))
    torch.testing.assert_close(scaled.flow, expected.flow)
    assert not torch.allclose(cold.flow, expected.flow, atol=1e-3)
    assert {stride: counts.tolist() for stride, counts in scaled.evaluations.items()} == {16: [4], 8: [4]}
    assert scaled[0].cost == 5 and expected[0].evaluations == {8: 4}
    # A start that knows nothing is no start.
    given = model.initial_state(pair.first)
    torch.testing.assert_close(model(image1, image2, given, **how, scales=(16, 8)).flow, scaled.flow)


def test_the_tolerance_doubles_at_the_coarser_scale(model):
    rule = model.settings(tolerance=0.3, scales=(16, 8)).stopping
    assert rule(Movement(8), 8).tolerance[0] == 0.3 and rule(Movement(16), 16).tolerance[0] == 0.6


@pytest.mark.parametrize("size", [(16, 16), (157, 300), (168, 162), (330, 340)])
def test_small_frames_leave_out_coarse_scales(model, size):
    scales = tuple(8 * 2**power for power in range(9, -1, -1))
    image1, image2 = frames(*size, batch=2).to(model.device)
    estimate = model(image1, image2, steps=2, tolerance=0.0, scales=scales)
    assert estimate.flow.shape == (2, 2, *size) and torch.isfinite(estimate.flow).all()
    side = min(model.padding(image1).pad(image1).shape[2:])
    assert set(estimate.evaluations) == {8, *(scale for scale in scales if 8 * side // scale >= 80)}


@pytest.mark.parametrize("scales", [(), (8, 16), (32, 8), (16,), (8, 2), (12, 6), 8, "slow"])
def test_scales_that_the_model_does_not_have_are_refused(model, scales):
    with pytest.raises(ConfigError, match="scale"):
        model.settings(scales=scales)


def test_scales_have_names(model):
    model.defaults = SolveSettings(scales=(16, 8))
    assert model.settings(scales="all").scales == model.settings(scales="fast").scales == (16, 8)


def test_a_pair_is_fitted_in_plain_pytorch(device):
    """A forward pass in a training loop of one's own carries a graph to every parameter that it uses."""
    torch.manual_seed(0)
    model = DEQFlow(TINY).to(device).train()
    image1, image2 = frames(32, 40).to(device)
    truth = torch.tensor([1.0, -0.5], device=device)[None, :, None, None].expand(1, 2, 32, 40)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(40):
        loss = (model(image1, image2, steps=6, tolerance=0.0).flow - truth).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert errors[-1] < 0.3 * errors[0]


def test_the_gradient_of_a_forward_pass_is_the_one_asked_for(device):
    torch.manual_seed(0)
    model = DEQFlow(TINY).to(device).eval()
    images = frames(32, 40).to(device)
    how = {"steps": 5, "tolerance": 0.0}

    def gradient(**options):
        model.zero_grad()
        model(*images, **how, **options).flow.square().mean().backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    pair = model.prepare(*images)
    path = model.trajectory(
        pair, correction=Recorded(count=1), gradient=OneStep(), solver=FixedPointIteration(), steps=5
    )
    model.zero_grad()
    model.flow_at(path.states[0]).square().mean().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(gradient(), expected)
    assert not torch.allclose(gradient(gradient=Phantom(steps=3)), expected)
    with torch.no_grad():
        assert not model(*images, **how).flow.requires_grad
    model.requires_grad_(False)
    assert not model(*images, **how).flow.requires_grad


def test_a_state_of_estimate_starts_a_pass_with_a_graph(device):
    torch.manual_seed(0)
    model = DEQFlow(TINY).to(device).eval()
    image1, image2 = frames(32, 40).to(device)
    arrays = [image[0].permute(1, 2, 0).cpu().numpy().astype(np.uint8) for image in (image1, image2)]
    state = model.estimate(*arrays, steps=3).state
    model(image1, image2, state, steps=3).flow.mean().backward()


def test_what_a_loop_of_ones_own_forgot_is_said_once(model):
    images = frames(32, 40).to(model.device)
    model.train()
    with pytest.warns(UserWarning, match="trainable=True"):
        model(*images, steps=1)
    with pytest.warns(UserWarning, match=r"0\.\.255"):
        model(*images / 255, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(*images, steps=1)
        model(*images / 255, steps=1)
        fresh = DEQFlow(TINY).to(model.device).eval()
        fresh(torch.zeros_like(images[0]), torch.zeros_like(images[1]), steps=1)  # black is black


def test_lists_and_tensors_of_pairs_are_batches(model):
    images = frames(32, 40, batch=3).round()
    one, two = (image.permute(0, 2, 3, 1).numpy().astype(np.uint8) for image in images)
    expected = [model.estimate(a, b, steps=3) for a, b in zip(one, two, strict=True)]
    batches = (
        (list(one), list(two)),
        (tuple(images[0]), list(two)),
        (images[0] / 255, images[1] / 255),
        ([one[0] / 255.0, images[0][1], one[2]], list(two)),
    )
    for firsts, seconds in batches:
        found = model.estimate(firsts, seconds, steps=3)
        assert [estimate.steps for estimate in found] == [3, 3, 3]
        for estimate, alone in zip(found, expected, strict=True):
            np.testing.assert_allclose(estimate.flow, alone.flow, atol=1e-4)
    for wrong in ((list(one), list(two)[:2]), (list(one), two[0]), ([], [])):
        with pytest.raises(ImageError, match="as many first frames as second ones"):
            model.estimate(*wrong)
    with pytest.raises(ImageError, match="different shapes"):
        model.estimate([one[0], one[1][:20]], [two[0], two[1][:20]])
    with pytest.raises(ImageError, match="frame2 of pair 2 contains NaN"):
        model.estimate([one[0], one[1]], [two[0], np.full((32, 40), np.nan)])


def test_a_solve_starts_from_someones_flow(model):
    """A constant flow is that of the state's grid, whatever the padding."""
    one, two = (image[0].permute(1, 2, 0).numpy().astype(np.uint8) for image in frames(35, 43))
    flow = np.tile(np.array([4.0, -8.0], np.float32), (35, 43, 1))
    seen = []
    forward = model.forward

    def watched(image1, image2, state, **options):
        seen.append(state)
        return forward(image1, image2, state, **options)

    model.forward = watched
    found = model.estimate(one, two, steps=2, flow=flow)
    assert (seen[0].flow[:, 0] == 0.5).all() and (seen[0].flow[:, 1] == -1).all()
    assert not np.allclose(found.flow, model.estimate(one, two, steps=2).flow, atol=1e-3)
    batch = model.estimate([one, one], [two, two], steps=2, flow=np.stack((flow, flow)))
    np.testing.assert_allclose(batch[1].flow, found.flow, atol=1e-4)
    with pytest.raises(ConfigError, match=r"flow has shape \(1, 35, 40, 2\), expected \(1, 35, 43, 2\)"):
        model.estimate(one, two, flow=flow[:, :40])
    with pytest.raises(ConfigError, match="state and flow"):
        model.estimate(one, two, flow=flow, state=found.state)


def test_an_estimate_writes_its_flow_and_draws_it(model, tmp_path):
    one, two = (image[0].permute(1, 2, 0).numpy().astype(np.uint8) for image in frames(35, 43))
    estimate = model.estimate(one, two, steps=2)
    estimate.save(tmp_path / "x.flo")
    assert np.array_equal(deqflow.read_flow(tmp_path / "x.flo")[0], estimate.flow)
    assert np.array_equal(estimate.to_image(), deqflow.flow_to_image(estimate.flow))
    assert estimate.to_image(max_flow=1e-3).shape == (35, 43, 3)


def test_the_public_names_are_there():
    for name in deqflow.__all__:
        assert getattr(deqflow, name).__name__ == name
    assert set(deqflow.list_models()) >= {"deqflow-s", "raft-small"}
