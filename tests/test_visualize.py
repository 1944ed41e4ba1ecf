"""Pictures of flow: the wheel's directions, unknown pixels, steady scales."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqflow.visualize import (
    ColorScale,
    color_bar,
    draw_arrows,
    error_map,
    flow_to_color,
    plot_convergence,
    scalar_map,
    side_by_side,
)


def color_of(u: float, v: float, **options: float) -> tuple[int, ...]:
    return tuple(int(value) for value in flow_to_color(np.array([[[u, v]]], np.float32), **options)[0, 0])


def test_no_motion_is_white() -> None:
    assert color_of(0, 0) == (255, 255, 255)
    assert color_of(0, 0, max_magnitude=5) == (255, 255, 255)


def test_directions_of_the_wheel() -> None:
    """Hues of the published colour code: right red, down yellow, left cyan, up violet-blue."""
    red, green, blue = color_of(1, 0)
    assert (red, green, blue) == (255, 0, 0)
    red, green, blue = color_of(0, 1)
    assert red == 255
    assert green > 200
    assert blue == 0
    red, green, blue = color_of(-1, 0)
    assert red == 0
    assert green > 200
    assert blue > 200
    red, green, blue = color_of(0, -1)
    assert blue == 255
    assert green == 0
    assert red < 150


@given(angle=st.floats(0, 2 * np.pi), length=st.floats(0.01, 1))
def test_saturation_is_length_and_hue_is_direction(angle: float, length: float) -> None:
    u, v = np.cos(angle), np.sin(angle)
    full = np.array(color_of(u, v, max_magnitude=1.0000001), float)
    part = np.array(color_of(length * u, length * v, max_magnitude=1), float)
    assert np.abs(part - (255 - length * (255 - full))).max() <= 2


def test_beyond_the_scale_is_dark_or_clipped() -> None:
    assert color_of(4, 0, max_magnitude=2) == (191, 0, 0)
    assert color_of(4, 0, max_magnitude=2, clip=True) == (255, 0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e10])
def test_unknown_is_black_and_does_not_disturb_the_rest(value: float) -> None:
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 0, 0] = value
    flow[1, 1, 0] = 3
    colors = flow_to_color(flow)
    assert colors[0, 0].tolist() == [0, 0, 0]
    assert colors[1, 1].tolist() == [255, 0, 0]
    assert colors.dtype == np.uint8


def test_scale_of_a_video_does_not_flicker() -> None:
    scale = ColorScale()
    slow, fast = np.full((16, 16, 2), 5, np.float32), np.full((16, 16, 2), 20, np.float32)
    first = scale.update(slow)
    assert first == pytest.approx(np.hypot(5, 5))
    one_fast = scale.update(fast)
    assert first < one_fast < np.hypot(20, 20)
    assert scale.update(slow) > 0.9 * one_fast
    assert ColorScale().update(0 * slow) == ColorScale.floor
    assert ColorScale(fixed=7).update(fast) == 7


def test_arrows_leave_the_image_alone_and_survive_nonsense() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    flow = np.full((64, 64, 2), 6, np.float32)
    flow[:32] = np.nan
    flow[40:50] = 1e20
    drawn = draw_arrows(image, flow, spacing=16)
    assert drawn.any()
    assert not image.any()
    assert not drawn[:32].any()


def test_error_map() -> None:
    truth = np.zeros((2, 2, 2), np.float32)
    flow = truth.copy()
    flow[0, 1] = (30, 40)
    valid = np.array([[True, True], [True, False]])
    picture = error_map(flow, truth, valid).astype(int).sum(-1)
    assert picture[0, 1] > picture[0, 0]
    assert picture[1, 1] == 0


def test_side_by_side_and_convergence_plot() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    joined = side_by_side([image, image + 9], ["frame"])
    assert joined.shape == (40, 120, 3)
    assert joined[:, :60].any()
    assert not image.any()
    plot = plot_convergence(np.array([1.0, 0.1, 0.01]), tolerance=0.05)
    assert plot.ndim == 3
    assert plot.dtype == np.uint8
    assert plot.std() > 0


def test_scalar_map_and_its_bar() -> None:
    """The bar shows the colours of the map in order, ever brighter."""
    values = np.array([[0.0, 1.0, 2.0, 9.0, np.nan]])
    colors = scalar_map(values, 2.0)[0]
    bar = color_bar(101, 3)
    assert bar.shape == (3, 101, 3)
    assert (bar == bar[:1]).all()
    assert colors[0].tolist() == bar[0, 0].tolist()
    assert colors[1].tolist() == bar[0, 50].tolist()
    assert colors[2].tolist() == colors[3].tolist() == bar[0, 100].tolist()
    assert colors[4].tolist() == [0, 0, 0]
    assert (np.diff(bar[0].astype(int).sum(-1)) >= -3).all()
    assert (scalar_map(values, 2.0, np.array([[True, False, True, True, True]]))[0, 1] == 0).all()
    assert scalar_map(np.zeros((2, 2)), 0.0).shape == (2, 2, 3)
