"""Pictures of flow: the wheel's directions, unknown pixels, steady scales."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqflow.errors import ConfigError
from deqflow.visualize import (
    RENDERINGS,
    ColorScale,
    ShownPair,
    color_bar,
    draw_arrows,
    error_map,
    flow_to_image,
    scalar_map,
    side_by_side,
    wheel,
)


def color_of(u: float, v: float, **options: float) -> tuple[int, ...]:
    return tuple(int(value) for value in flow_to_image(np.array([[[u, v]]], np.float32), **options)[0, 0])


def test_no_motion_is_white() -> None:
    assert color_of(0, 0) == (255, 255, 255)
    assert color_of(0, 0, max_magnitude=5) == (255, 255, 255)


def test_directions_of_the_wheel() -> None:
    """Hues of the published color code: right red, down yellow, left cyan, up violet-blue."""
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
    colors = flow_to_image(flow)
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


def test_scale_starts_anew_after_a_cut_and_is_never_below_its_floor() -> None:
    slow, fast = np.full((16, 16, 2), 5, np.float32), np.full((16, 16, 2), 20, np.float32)
    scale = ColorScale()
    before = scale.update(slow)
    assert scale.update(100 * fast, cut=True) == before  # nonsense: drawn as the shot before it
    assert scale.update(fast) == pytest.approx(np.hypot(20, 20))
    for width, floor in ((64, 4.0), (800, 4.0), (1920, 9.6)):
        assert ColorScale().update(np.zeros((16, width, 2), np.float32)) == pytest.approx(floor)


def arrows_of(motion: tuple[float, float], scale: float, spacing: int | None = None) -> np.ndarray:
    """What arrows add to a frame of one gray, bool (H, W)."""
    frame = np.full((64, 64, 3), 128, np.uint8)
    still = draw_arrows(frame, np.zeros((64, 64, 2), np.float32))
    drawn = draw_arrows(frame, np.full((64, 64, 2), motion, np.float32), scale, spacing)
    return (drawn != still).any(axis=2)


@pytest.mark.parametrize("length", [1.0, 100.0])
def test_arrows_fill_their_cells_however_long_the_flow(length: float) -> None:
    """A cell is 16 pixels: arrows of the longest flow are nearly as long, and do not run into each other."""
    drawn = arrows_of((length, 0.0), scale=length)
    assert (drawn == arrows_of((1.0, 0.0), scale=1.0)).all()
    rows, columns = drawn[:16, :16].nonzero()
    assert 13 <= np.ptp(columns) + 1 <= 16
    assert np.ptp(rows) + 1 < 16
    assert drawn.mean() > 0.1
    whole, quarter = (
        np.ptp(arrows_of((part * length, 0.0), length, spacing=64).nonzero()[1]) for part in (1, 1 / 4)
    )
    assert 54 <= whole <= 64
    assert quarter == pytest.approx(whole / 2, abs=5)


def test_arrows_point_along_the_flow_in_the_hue_of_the_wheel() -> None:
    frame = np.full((32, 32, 3), 128, np.uint8)
    drawn = draw_arrows(frame, np.full((32, 32, 2), (3, 0), np.float32), spacing=32)
    red = (drawn[..., 0] > 200) & (drawn[..., 1] < 60)
    left, right = red[:, :16].sum(axis=0), red[:, 16:].sum(axis=0)
    assert red.any() and right.max() > left.max() > 0  # the head is wider than the shaft


def test_arrows_leave_the_image_alone_and_survive_nonsense() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    flow = np.full((64, 64, 2), 6, np.float32)
    flow[:32] = np.nan
    flow[40:50] = 1e20
    drawn = draw_arrows(image, flow, spacing=16)
    assert not image.any()
    ground = draw_arrows(image, np.zeros_like(flow))
    assert (drawn[:32] == ground[:32]).all()
    assert (drawn[32:] != ground[32:]).any()


def shown_pair() -> ShownPair:
    """A texture that moves by (3, 1), everything known of it; the left is hidden in frame 2."""
    texture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    flow = np.full((60, 70, 2), (3, 1), np.float32)
    hidden = np.zeros((60, 70), bool)
    hidden[:, :20] = True
    truth = flow + np.float32(1)
    truth[:30] = np.nan
    return ShownPair(
        texture[5:65, 8:78], texture[4:64, 5:75], flow, 4.0, hidden, hidden * 9.0, hidden * 0.1, truth
    )


@pytest.mark.parametrize("name", RENDERINGS)
def test_renderings_are_pictures_that_say_what_they_need(name: str) -> None:
    pair, rendering = shown_pair(), RENDERINGS[name]
    picture = rendering(pair)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 60 and picture.shape[1] in (70, 140) and picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1 or name == "color"
    if rendering.needs:
        with pytest.raises(ConfigError, match=rendering.needs):
            rendering(replace(pair, **{rendering.needs: None}))


def test_a_frame_carried_back_along_the_true_flow_is_the_first() -> None:
    pair = shown_pair()
    picture = RENDERINGS["warped"](pair)
    carried, difference = picture[:, :70], picture[:, 70:]
    assert (carried[30:59, :67] == pair.frame1[30:59, :67]).all()
    assert (carried[30:, 67:] == 0).all()  # where the flow leaves the frame
    assert (difference[30:59, :67] == scalar_map(np.zeros((1, 1)), 1)).all()
    wrong = RENDERINGS["warped"](replace(pair, flow=np.zeros_like(pair.flow)))
    assert wrong[30:59, 70:].mean() > difference[30:59].mean() + 50


def test_an_overlay_keeps_what_rests_gray_and_occlusion_is_tinted() -> None:
    pair = shown_pair()
    pair.flow[:, 40:] = 0
    picture = RENDERINGS["overlay"](pair).astype(int)
    assert (np.ptp(picture[:, 40:], axis=2) == 0).all()
    assert np.ptp(picture[:, :40], axis=2).min() > 20
    picture = RENDERINGS["occlusion"](pair).astype(int)
    assert (np.ptp(picture[:, 20:], axis=2) == 0).all()
    assert (picture[:, :20, 0] > picture[:, :20, 1] + 50).all()


def test_maps_of_numbers_have_fixed_scales() -> None:
    pair = shown_pair()
    bright, dark = scalar_map(np.array([[1.0, 0.0]]), 1.0)[0]
    picture = RENDERINGS["uncertainty"](pair)
    assert (picture[:, :20] == bright).all() and (picture[:, 20:] == dark).all()
    assert (RENDERINGS["movement"](pair)[:, :20] == scalar_map(np.array([[0.2]]), 1.0)).all()
    error = RENDERINGS["error"](pair)
    assert (error[:30] == 0).all()
    assert (error[30:] == scalar_map(np.array([[2**0.5]]), 5.0)).all()


def test_the_wheel_is_a_disc_of_all_directions() -> None:
    disc = wheel(65)
    assert (disc[0, 0] == 255).all() and (disc[32, 32] == 255).all()
    assert disc[32, 64].tolist() == list(color_of(1, 0))
    assert disc[64, 32].tolist() == list(color_of(0, 1))


def test_error_map() -> None:
    truth = np.zeros((2, 2, 2), np.float32)
    flow = truth.copy()
    flow[0, 1] = (30, 40)
    valid = np.array([[True, True], [True, False]])
    picture = error_map(flow, truth, valid).astype(int).sum(-1)
    assert picture[0, 1] > picture[0, 0]
    assert picture[1, 1] == 0


def test_side_by_side() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    joined = side_by_side([image, image + 9], ["frame"])
    assert joined.shape == (40, 120, 3)
    assert joined[:, :60].any()
    assert not image.any()


def test_scalar_map_and_its_bar() -> None:
    """The bar shows the colors of the map in order, ever brighter."""
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


@pytest.mark.parametrize("name", ["color", "side-by-side", "overlay", "arrows", "uncertainty", "movement"])
@pytest.mark.parametrize("size", [(16, 16), (64, 48), (270, 480)])
def test_a_legend_says_what_colors_mean_in_the_lower_right(name: str, size: tuple[int, int]) -> None:
    frame, flow = np.full((*size, 3), 128, np.uint8), np.zeros((*size, 2), np.float32)
    still = np.zeros(size, np.float32)
    pair = ShownPair(frame, frame, flow, 7.0, uncertainty=still, movement=still)
    plain, told = RENDERINGS[name](pair), RENDERINGS[name](replace(pair, legend=True))
    assert plain.shape == told.shape
    changed = (plain != told).any(axis=2)
    assert changed.any()
    if size == (270, 480):
        y, x = np.nonzero(changed)
        assert y.min() > 180 and x.min() > told.shape[1] - 120
        colors = np.unique(told[changed], axis=0)
        assert len(colors) > 100  # a wheel or a bar, not words alone


def test_a_picture_says_that_the_scene_is_cut() -> None:
    frame, flow = np.full((90, 160, 3), 128, np.uint8), np.zeros((90, 160, 2), np.float32)
    pair = ShownPair(frame, frame, flow, 1.0)
    for name in ("color", "side-by-side", "arrows", "overlay"):
        y, x = np.nonzero((RENDERINGS[name](pair) != RENDERINGS[name](replace(pair, cut=True))).any(axis=2))
        assert y.max() < 30 and x.min() > RENDERINGS[name](pair).shape[1] - 60
