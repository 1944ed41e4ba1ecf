"""Padding, warping and splatting: exact for whole-pixel motion, properties for the rest."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqflow.geometry import (
    Padding,
    backward_warp,
    coordinate_grid,
    forward_backward_consistency,
    forward_splat,
)

SIDES = st.integers(1, 40)


def constant_flow(
    u: float, v: float, size: tuple[int, int], device: torch.device | str = "cpu"
) -> torch.Tensor:
    return torch.tensor([u, v], device=device).view(1, 2, 1, 1).expand(1, 2, *size).contiguous()


def test_coordinate_grid_counts_x_then_y() -> None:
    grid = coordinate_grid(2, 3)
    assert grid[0].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert grid[1].tolist() == [[0, 0, 0], [1, 1, 1]]


@given(height=SIDES, width=SIDES, multiple=st.integers(1, 32), centered=st.booleans())
def test_padding_is_the_smallest_and_crop_undoes_it(
    height: int, width: int, multiple: int, centered: bool
) -> None:
    padding = Padding.for_size(height, width, multiple, centered=centered)
    image = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    padded = padding.pad(image)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert padded.shape[2] - height < multiple
    assert padded.shape[3] - width < multiple
    assert torch.equal(padding.crop(padded), image)
    assert set(padded.unique().tolist()) == set(image.unique().tolist())


def test_padding_as_in_published_evaluations() -> None:
    assert Padding.for_size(436, 1021) == Padding(left=1, right=2, top=2, bottom=2)
    assert Padding.for_size(370, 1226, centered=False) == Padding(left=3, right=3, top=0, bottom=6)


def test_padding_refuses_empty_images() -> None:
    with pytest.raises(ValueError, match="positive"):
        Padding.for_size(0, 8)


@given(u=st.integers(-5, 5), v=st.integers(-5, 5))
def test_whole_pixel_motion_is_exact_in_both_directions(u: int, v: int) -> None:
    image = torch.rand(1, 3, 9, 12)
    flow = constant_flow(u, v, (9, 12))
    warped, inside = backward_warp(image, flow)
    splatted, weight = forward_splat(image, flow)
    for y in range(9):
        for x in range(12):
            is_inside = 0 <= x + u < 12 and 0 <= y + v < 9
            assert bool(inside[0, 0, y, x]) == is_inside
            if is_inside:
                torch.testing.assert_close(warped[..., y, x], image[..., y + v, x + u])
                assert torch.equal(splatted[..., y + v, x + u], image[..., y, x])
    assert weight.sum() == inside.sum()
    assert (splatted[(weight == 0).expand_as(splatted)] == 0).all()


def test_half_pixels_are_interpolated(device: torch.device) -> None:
    image = torch.arange(8.0, device=device).view(1, 1, 1, 8).expand(1, 1, 4, 8).contiguous()
    warped, _ = backward_warp(image, constant_flow(0.5, 0.5, (4, 8), device))
    torch.testing.assert_close(warped[0, 0, 0, :7], torch.arange(7.0, device=device) + 0.5)
    splatted, weight = forward_splat(image, constant_flow(0.5, 0, (4, 8), device))
    torch.testing.assert_close(splatted[0, 0, 0, 1:], torch.arange(7.0, device=device) + 0.5)
    torch.testing.assert_close(weight[0, 0, 0, 1:], torch.ones(7, device=device))


@given(seed=st.integers(0, 1000), scale=st.floats(0, 20))
def test_splatting_keeps_constants_and_conserves_weight(seed: int, scale: float) -> None:
    flow = scale * torch.randn(2, 2, 7, 11, generator=torch.Generator().manual_seed(seed))
    splatted, weight = forward_splat(torch.full((2, 3, 7, 11), 5.0), flow)
    reached = (weight > 0).expand_as(splatted)
    torch.testing.assert_close(splatted[reached], torch.full_like(splatted[reached], 5.0))
    assert weight.sum() <= 2 * 7 * 11 + 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_impossible_flow_is_dropped(value: float) -> None:
    image = torch.ones(1, 1, 4, 4)
    flow = constant_flow(value, 0, (4, 4))
    assert forward_splat(image, flow)[1].sum() == 0
    assert not backward_warp(image, flow)[1].any()


def test_low_precision_and_one_pixel_sides() -> None:
    image = torch.rand(1, 2, 1, 5).to(torch.bfloat16)
    flow = constant_flow(0, 0, (1, 5))
    assert torch.equal(backward_warp(image, flow)[0], image)
    assert torch.equal(forward_splat(image, flow)[0], image)


def test_forward_backward_consistency() -> None:
    forward = constant_flow(3, -1, (10, 10))
    consistent = forward_backward_consistency(forward, -forward)
    assert torch.equal(consistent, backward_warp(forward, forward)[1])
    assert not forward_backward_consistency(forward, forward).any()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\).*\(1, 3, 4, 4\)"):
        backward_warp(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="size"):
        forward_splat(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 5, 4))
