"""The renderings that stills and video choose from, by name: each makes one picture of a shown pair.

A new one is a function of `ShownPair` and a line in `RENDERINGS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deqflow.errors import ConfigError
from deqflow.visualize.arrows import draw_arrows
from deqflow.visualize.maps import error_map, scalar_map
from deqflow.visualize.panels import draw_bar, draw_wheel, side_by_side, write_text
from deqflow.visualize.wheel import Flow, Image, dimmed, flow_to_image

MOST_ERROR = 5.0
"""Pixels of error, expected or real, at the bright end of its picture."""

MOST_MOVEMENT = 0.5
"""Pixels per step at the bright end of the picture of what still moves."""

_OCCLUDED = np.array((230, 40, 120))


@dataclass(frozen=True)
class ShownPair:
    """A pair of frames and what is known of its motion. Arrays are (H, W, ...) of the frames' size.

    Attributes:
        frame1: uint8 RGB (H, W, 3).
        frame2: uint8 RGB (H, W, 3).
        flow: float32 (H, W, 2), from frame 1 to frame 2 in pixels.
        scale: length of flow in pixels that is drawn in full color.
        occlusion: bool (H, W), true where a point of frame 1 is not visible in frame 2.
        uncertainty: float (H, W), error in pixels that the model expects of itself.
        movement: float (H, W), how far one more step of the solver moves the flow, in pixels.
        truth: float32 (H, W, 2), the true flow; NaN where it is not known.
        cut: whether the frames show different scenes, which the picture then says.
        legend: whether the picture says what its colors mean.
    """

    frame1: Image
    frame2: Image
    flow: Flow
    scale: float
    occlusion: NDArray[np.bool_] | None = None
    uncertainty: NDArray[np.floating] | None = None
    movement: NDArray[np.floating] | None = None
    truth: Flow | None = None
    cut: bool = False
    legend: bool = False


@dataclass(frozen=True)
class Rendering:
    """One way to show a pair.

    Attributes:
        summary: what it shows, in a line.
        draw: makes the picture; pictures of one rendering and one frame size are of one size.
        needs: the field of `ShownPair` without which there is nothing to show; empty if there is none.
        brightest: number at the bright end of its colors; None where they are those of the wheel.
    """

    summary: str
    draw: Callable[[ShownPair], Image]
    needs: str = ""
    brightest: float | None = None

    def __call__(self, pair: ShownPair) -> Image:
        """Draw the picture, uint8 RGB.

        Raises:
            ConfigError: what it needs is not there.
        """
        if self.needs and getattr(pair, self.needs) is None:
            raise ConfigError(f"a picture of {self.summary} needs {self.needs}, which this pair has not")
        picture = self.draw(pair)
        if pair.cut or pair.legend:
            picture = np.ascontiguousarray(picture)
        if pair.cut:
            write_text(picture, "cut", right=True)
        if pair.legend and self.brightest is not None:
            draw_bar(picture, self.brightest)
        elif pair.legend and self.draw in _WHEELS:
            draw_wheel(picture, pair.scale)
        return picture


def _colors(pair: ShownPair) -> Image:
    return flow_to_image(pair.flow, pair.scale, clip=True)


def _arrows(pair: ShownPair) -> Image:
    picture = draw_arrows(pair.frame1, pair.flow, pair.scale)
    write_text(picture, f"longest {pair.scale:.3g} px", bottom=True)
    return picture


def _overlay(pair: ShownPair) -> Image:
    """Color over the gray frame, the stronger the longer the flow; what rests stays gray."""
    length = np.hypot(pair.flow[..., 0], pair.flow[..., 1])
    share = 0.75 * np.sqrt(np.clip(np.nan_to_num(length / pair.scale), 0, 1))[..., None]
    return np.rint(share * _colors(pair) + (1 - share) * dimmed(pair.frame1)).astype(np.uint8)


def _side_by_side(pair: ShownPair) -> Image:
    return side_by_side([pair.frame1, _colors(pair)])


def _warped(pair: ShownPair) -> Image:
    """Draw frame 2 carried back along the flow, which should be frame 1, and its distance from that."""
    from deqflow.geometry import warp  # which imports torch

    carried, inside = warp(pair.frame2, np.nan_to_num(pair.flow))
    difference = np.abs(carried - pair.frame1).mean(axis=2)
    return side_by_side(
        [np.rint(carried).astype(np.uint8), scalar_map(difference, 64.0, inside)],
        ["frame 2 carried back", "difference to frame 1"],
    )


def _occlusion(pair: ShownPair) -> Image:
    assert pair.occlusion is not None
    gray = dimmed(pair.frame1)
    tinted = 0.25 * gray + 0.75 * _OCCLUDED
    return np.rint(np.where(pair.occlusion[..., None], tinted, gray)).astype(np.uint8)


def _uncertainty(pair: ShownPair) -> Image:
    assert pair.uncertainty is not None
    return scalar_map(pair.uncertainty, MOST_ERROR)


def _movement(pair: ShownPair) -> Image:
    assert pair.movement is not None
    return scalar_map(pair.movement, MOST_MOVEMENT)


def _error(pair: ShownPair) -> Image:
    assert pair.truth is not None
    return error_map(pair.flow, pair.truth, max_error=MOST_ERROR)


_WHEELS = (_colors, _arrows, _overlay, _side_by_side)

RENDERINGS: dict[str, Rendering] = {
    "color": Rendering("the flow in the usual color wheel", _colors),
    "arrows": Rendering("the flow as arrows on the frame", _arrows),
    "overlay": Rendering("the flow's colors over the frame", _overlay),
    "side-by-side": Rendering("the frame and the flow's colors", _side_by_side),
    "warped": Rendering("frame 2 carried back along the flow, and its difference to frame 1", _warped),
    "occlusion": Rendering("what is hidden in frame 2, tinted", _occlusion, "occlusion"),
    "uncertainty": Rendering(
        f"the error that the model expects, up to {MOST_ERROR:g} px", _uncertainty, "uncertainty", MOST_ERROR
    ),
    "movement": Rendering(
        f"how far one more step moves the flow, up to {MOST_MOVEMENT:g} px",
        _movement,
        "movement",
        MOST_MOVEMENT,
    ),
    "error": Rendering(
        f"the error against ground truth, up to {MOST_ERROR:g} px", _error, "truth", MOST_ERROR
    ),
}
"""By the names that ``--formats`` of stills and ``--layout`` of video take."""

PICTURES = {name: rendering for name, rendering in RENDERINGS.items() if rendering.needs != "truth"}
"""The renderings of an estimate alone."""
