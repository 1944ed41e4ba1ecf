"""Motion programs: sequences of exactly known flow over one picture, for what reuse on video must get right.

Their motion changes while the picture stays real: pans that stop, shakes, animation on twos, things that
start to move. A solve that stays where it began is wrong in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from deqflow.data.sample import Sample
from deqflow.geometry import warp

from .motion import Homography, inverse, similarity, translation

Point = tuple[int, int]
SIZE = (192, 256)
"""Height and width of the frames unless told otherwise."""


@dataclass(frozen=True)
class MotionProgram:
    """How a picture, and a thing before it, move from frame to frame.

    Attributes:
        name: what to call it in a table.
        camera: one affine map per frame from the picture to the frame, both with the origin at their center.
        thing: center of an ellipse in each frame, pixels from the frame's center, which shows another part of
            the picture; empty without one.
    """

    name: str
    camera: tuple[Homography, ...]
    thing: tuple[Point, ...] = ()

    @classmethod
    def of_shifts(cls, name: str, shifts: Sequence[Point], thing: Sequence[Point] = ()) -> "MotionProgram":
        """Return a program of a picture that is shifted by so many pixels from its place in each frame."""
        ends = np.array(shifts)
        right, down = ((ends.min(axis=0) + ends.max(axis=0)) // 2).tolist()  # the path around the center
        return cls(name, tuple(translation(x - right, y - down) for x, y in shifts), tuple(thing))

    def render(self, picture: NDArray[np.uint8], size: tuple[int, int] = SIZE) -> list[Sample]:
        """Return the pairs of neighboring frames with their flow, known everywhere.

        Args:
            picture: RGB (H, W, 3), mirrored beyond its border where the camera looks there.
            size: height and width of the frames.
        """
        height, width = size
        at_center = translation((width - 1) // 2, (height - 1) // 2)
        from_center = translation(-((picture.shape[1] - 1) // 2), -((picture.shape[0] - 1) // 2))
        views = [at_center @ place @ from_center for place in self.camera]
        frames = [_view(picture, inverse(view), size) for view in views]
        flows = [_motion(after @ inverse(before), size) for before, after in pairwise(views)]
        if self.thing:
            masks = [_ellipse(center, size) for center in self.thing]
            for frame, mask, (x, y) in zip(frames, masks, self.thing, strict=True):
                # What it shows lies a third of the picture to the left and above.
                part = (
                    at_center
                    @ translation(x + picture.shape[1] // 3, y + picture.shape[0] // 3)
                    @ from_center
                )
                frame[mask] = _view(picture, inverse(part), size)[mask]
            for flow, mask, (before, after) in zip(flows, masks, pairwise(self.thing), strict=False):
                flow[mask] = np.subtract(after, before)
        return [
            Sample(
                *pair,
                flow,
                np.ones(size, np.bool_),
                name=f"{self.name} {index}",
                sequence=self.name,
                index=index,
            )
            for index, (pair, flow) in enumerate(zip(pairwise(frames), flows, strict=True))
        ]


def _motion(change: Homography, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return how far an affine map moves each pixel, (H, W, 2)."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    moved = np.stack([x, y], axis=-1) @ (change[:2, :2] - np.eye(2)).T + change[:2, 2]
    return np.asarray(moved, np.float32)


def _view(picture: NDArray[np.uint8], back: Homography, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the frame that shows at each pixel what the picture has at its place under ``back``."""
    places = _motion(back, size)
    corners = places[[0, 0, -1, -1], [0, -1, 0, -1]] + np.array(
        [[x, y] for y in (0, size[0] - 1) for x in (0, size[1] - 1)]
    )
    last = np.array([picture.shape[1] - 1, picture.shape[0] - 1])
    margin = int(np.ceil(max(0, -corners.min(), (corners - last).max())))
    wide = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    return cast(NDArray[np.uint8], warp(wide, places + np.float32(margin))[0].round().astype(np.uint8))


def _ellipse(center: Point, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where (H, W) a thing around a point is that is a third of the frame high and wide."""
    y, x = np.ogrid[: size[0], : size[1]]
    across = (x - (size[1] - 1) // 2 - center[0]) / (size[1] / 6)
    down = (y - (size[0] - 1) // 2 - center[1]) / (size[0] / 6)
    return np.asarray(across**2 + down**2 < 1)


def _programs() -> tuple[MotionProgram, ...]:
    shifts = MotionProgram.of_shifts
    pan = (0, 1, 2, 3, 3, 3, 3, 3)
    halts = (0, 1, 2, 3, 3, 3)
    return (
        shifts("steady", [(5 * i, 2 * i) for i in range(7)]),
        *(shifts(f"pan and stop, {n} px", [(n * i, 0) for i in pan]) for n in (8, 20, 30)),
        *(shifts(f"shake, {n} px", [(n * (i % 2), 0) for i in range(8)]) for n in (8, 12, 20)),
        shifts("jump", [(0, 0), *((3 + 3 * i + 32 * (i > 0), 0) for i in range(7))]),
        shifts("on twos", [(14 * (i // 2), 0) for i in range(9)]),
        shifts("on threes", [(12 * (i // 3), 0) for i in range(10)]),
        shifts("acceleration", [(round(1.5 * i * i), 0) for i in range(8)]),
        shifts("reversal", [(6 * i, 2 * i) for i in (0, 1, 2, 3, 2, 1, 0)]),
        shifts(
            "object start",
            [(i, 0) for i in range(8)],
            thing=[(14 * max(0, i - 3) - 35, 0) for i in range(8)],
        ),
        MotionProgram("zoom and stop", tuple(similarity(0, 0.05 * i, (0, 0)) for i in halts)),
        MotionProgram("rotation and stop", tuple(similarity(4 * i, 0, (0, 0)) for i in halts)),
    )


PROGRAMS = _programs()
"""The motions that a stream is measured on."""
