"""Losses without ground truth: what they must ignore, and what they must see."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deqflow import zoo
from deqflow.data.synthetic import SyntheticScenes, Textures
from deqflow.training.data import Batch
from deqflow.training.stages import stage_for
from deqflow.training.starts import StepRandomness
from deqflow.training.unsupervised import (
    UnsupervisedObjective,
    census_distance,
    distillation_loss,
    photometric_loss,
    smoothness_loss,
)


def texture(height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return 255 * torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic").clamp(0, 1)


def constant(height: int, width: int, u: float, v: float) -> torch.Tensor:
    return torch.tensor([u, v]).view(1, 2, 1, 1).expand(1, 2, height, width).clone()


def everywhere(height: int, width: int) -> torch.Tensor:
    return torch.ones(1, 1, height, width, dtype=torch.bool)


def test_census_ignores_brightness_and_sees_structure():
    image, other = texture(40, 48), texture(40, 48, seed=1)
    inner = (..., slice(3, -3), slice(3, -3))
    assert census_distance(image, image + 20)[inner].abs().max() < 1e-4
    assert census_distance(image, other)[inner].mean() > 5


def test_photometric_loss_is_smallest_at_the_true_flow():
    big = texture(80, 96)
    first, second = big[..., 8:72, 8:88], big[..., 6:70, 3:83]  # content moves by (5, 2)
    losses = {
        (u, v): float(photometric_loss(first, second, constant(64, 80, u, v), everywhere(64, 80)))
        for u in (3, 4, 5, 6)
        for v in (1, 2, 3)
    }
    assert min(losses, key=losses.__getitem__) == (5, 2)
    torch.testing.assert_close(losses[5, 2], 0.01**0.4, atol=1e-3, rtol=0)  # nothing is left


def test_photometric_loss_pulls_towards_the_true_flow():
    big = texture(80, 96)
    first, second = big[..., 8:72, 8:88], big[..., 8:72, 6:86]
    flow = constant(64, 80, 1.4, 0.0).requires_grad_()
    photometric_loss(first, second, flow, everywhere(64, 80)).backward()
    assert flow.grad[:, 0].sum() < 0  # descending raises u towards 2


def test_hidden_pixels_do_not_count():
    first, second = texture(40, 48), texture(40, 48)
    second[..., 20:, :] = 0
    visible = everywhere(40, 48)
    assert photometric_loss(first, second, constant(40, 48, 0, 0), visible) > 1
    visible[..., 17:, :] = False
    torch.testing.assert_close(
        photometric_loss(first, second, constant(40, 48, 0, 0), visible), torch.tensor(0.01**0.4)
    )
    nothing = photometric_loss(first, second, constant(40, 48, 99, 0), visible)
    assert nothing == 0


@pytest.mark.parametrize("order", [1, 2])
def test_smoothness_forgives_edges_of_the_frame_and_planes_at_second_order(order):
    flat, edged = torch.full((1, 3, 32, 32), 99.0), torch.full((1, 3, 32, 32), 99.0)
    edged[..., 16:] = 200
    step = constant(32, 32, 0, 0)
    step[..., 16:] = 4
    assert smoothness_loss(edged, step, order=order) < 0.1 * smoothness_loss(flat, step, order=order)
    ramp = 0.5 * torch.arange(32.0).expand(1, 2, 32, 32)
    assert (smoothness_loss(flat, ramp, order=order) < 0.01) == (order == 2)


def test_smoothness_of_another_order_is_refused():
    with pytest.raises(ValueError, match="order must be 1 or 2, not 3"):
        smoothness_loss(texture(16, 16), constant(16, 16, 0, 0), order=3)


def test_distillation_counts_trusted_pixels_only():
    trusted = everywhere(16, 16)
    trusted[..., :8] = False
    teacher, student = constant(16, 16, 1, 2), constant(16, 16, 1, 2)
    student[..., :8] = 50
    assert distillation_loss(student, teacher, trusted) < 2e-3
    torch.testing.assert_close(
        distillation_loss(student + 3, teacher, trusted), torch.tensor(3.0), rtol=1e-3, atol=0
    )


def test_training_on_frames_alone_lowers_the_photometric_error():
    model = zoo.load("deqflow-s-v0", device="cpu").train().requires_grad_(True)
    scenes = SyntheticScenes(Textures(), 64, 96, seed=3)
    frames = [np.stack([getattr(scenes[index], name) for index in range(2)]) for name in ("frame1", "frame2")]
    image1, image2 = (torch.from_numpy(part).permute(0, 3, 1, 2).float() for part in frames)
    everything = torch.ones(2, 1, 64, 96, dtype=torch.bool)

    @torch.no_grad()
    def error() -> float:
        return float(photometric_loss(image1, image2, model(image1, image2).flow, everything))

    stage = replace(stage_for("footage"), corrections=2, coarse_start_probability=0.0)
    objective = UnsupervisedObjective(model, stage)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch = Batch(image1, image2, torch.zeros(2, 2, 64, 96), torch.zeros(2, 1, 64, 96))
    randomness = StepRandomness(torch.zeros(0), 8)
    before = error()
    for _ in range(8):
        loss, metrics = objective(batch, randomness)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert 0 < float(metrics.visible) <= 1 and float(metrics.distillation) > 0
    assert error() < before
