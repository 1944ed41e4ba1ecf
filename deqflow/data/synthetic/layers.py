"""Textured planar layers, drawn into both frames through known maps, so that their flow is exact.

Every layer has a canvas. Frame k shows it through the homography `maps[k]` (canvas to frame); frame 1 looks
it up after an optional smooth displacement D. A point x of frame 1 therefore lies at H1^-1(x + D(x)) on the
canvas and at H2(H1^-1(x + D(x))) in frame 2: the flow of frame 1 is exact. That of frame 2, back to frame 1,
undoes D by iteration, which shrinks what is left of it at every turn because D never folds.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .motion import Homography
from .textures import Image


@dataclass
class Layer:
    """One surface of a scene.

    Attributes:
        texture: RGB, mirrored without end, or premultiplied RGBA, transparent outside.
        maps: canvas to frame 1 and to frame 2, scaled alike, so that their third rows compare depths.
        depth: distance in arbitrary units, for fog. None takes it per pixel from the map (scenes of planes).
        outline: (n, 2) polygon on the canvas that bounds the layer, or None.
        bend: amplitude in pixels and seed of the displacement of frame 1, or None.
        shadow: offset x, y, softness (pixels) and strength of the shadow it drops behind it, or None.
        group: layers of one number are one thing, a body and its limbs; 0 is what only the camera moves.
    """

    texture: Image
    maps: tuple[Homography, Homography]
    depth: float | None = 1.0
    outline: NDArray[np.float64] | None = None
    bend: tuple[float, int] | None = None
    shadow: tuple[float, float, float, float] | None = None
    group: int = 0

    def __post_init__(self) -> None:
        self.opaque = self.texture.shape[2] == 3
        # OpenCV warps four channels in less than half the time of three.
        whole = cv2.cvtColor(self.texture, cv2.COLOR_RGB2RGBA) if self.opaque else self.texture
        self._levels = [np.asarray(whole, np.uint8)]

    def level(self, index: int) -> tuple[Image, Homography]:
        """Return the texture halved `index` times, RGBA, and the map from full-size canvas to it."""
        while len(self._levels) <= index and min(self._levels[-1].shape[:2]) > 3:
            last = self._levels[-1]
            size = ((last.shape[1] + 1) // 2, (last.shape[0] + 1) // 2)
            self._levels.append(np.asarray(cv2.resize(last, size, interpolation=cv2.INTER_AREA), np.uint8))
        image = self._levels[min(index, len(self._levels) - 1)]
        sy, sx = image.shape[0] / self.texture.shape[0], image.shape[1] / self.texture.shape[1]
        return image, np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])

    @property
    def endless(self) -> bool:
        """Whether the layer fills the frame."""
        return self.outline is None and self.opaque
