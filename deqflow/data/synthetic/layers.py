"""Textured planar layers, drawn into both frames through known maps, so that their flow is exact.

Every layer has a canvas. Frame k shows it through the homography `maps[k]` (canvas to frame); frame 1 looks it up after an
optional smooth displacement D. A point x of frame 1 therefore lies at H1^-1(x + D(x)) on the canvas and at
H2(H1^-1(x + D(x))) in frame 2: no map is ever inverted numerically.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .motion import Homography, apply, displacement
from .textures import Image

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]  # left, top, right, bottom
_MOST_EXPOSURES = 7
_EXPOSURE_SPACING = 5.0  # pixels between the samples of a blurred layer, beyond which they would show


@dataclass
class Layer:
    """One surface of a scene.

    Attributes:
        texture: RGB, mirrored without end, or premultiplied RGBA, transparent outside.
        maps: canvas to frame 1 and to frame 2, scaled alike, so that their third rows compare depths.
        depth: distance in arbitrary units, for fog. None takes it per pixel from the map (scenes of planes).
        outline: (n, 2) polygon on the canvas that bounds the layer, or None.
        bend: amplitude in pixels and seed of the displacement of frame 1, or None.
        shadow: offset x, y, softness (pixels) and strength of the shadow dropped on what lies behind, or None.
    """

    texture: Image
    maps: tuple[Homography, Homography]
    depth: float | None = 1.0
    outline: NDArray[np.float64] | None = None
    bend: tuple[float, int] | None = None
    shadow: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        self._levels = [self.texture]

    def level(self, index: int) -> tuple[Image, Homography]:
        """Return the texture halved `index` times and the map from full-size canvas to it."""
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
        return self.outline is None and self.texture.shape[2] == 3


@dataclass(frozen=True)
class Fog:
    """Haze that thickens with depth: weight 1 - exp(-density * depth)."""

    colour: Floats
    density: float


@dataclass
class Frame:
    """A composed frame: colours 0..255 (h, w, 3), the topmost layer's index (h, w) and, in frame 1, its flow."""

    image: Floats
    index: NDArray[np.uint8]
    flow: Floats
    valid: NDArray[np.bool_]


def _grid(box: Box) -> tuple[Floats, Floats]:
    left, top, right, bottom = box
    return np.arange(left, right, dtype=np.float32)[None], np.arange(top, bottom, dtype=np.float32)[:, None]


def _rows(homography: Homography, x: Floats, y: Floats) -> list[Floats]:
    """Return the three homogeneous coordinates of the mapped points."""
    h = homography.astype(np.float32)
    if x.shape == y.shape:
        return [h[i, 0] * x + h[i, 1] * y + h[i, 2] for i in range(3)]
    return [h[i, 0] * x + (h[i, 1] * y + h[i, 2]) for i in range(3)]


def _clip_near(points: NDArray[np.float64], homography: Homography, near: float) -> NDArray[np.float64]:
    """Project a canvas polygon, cut where its depth falls below `near`. Returns (n, 2) frame points."""
    ends = np.concatenate([points, np.ones((len(points), 1))], 1) @ homography.T
    kept: list[NDArray] = []
    for here, there in zip(ends, np.roll(ends, -1, axis=0), strict=True):
        if here[2] >= near:
            kept.append(here)
        if (here[2] >= near) != (there[2] >= near):
            kept.append(here + (there - here) * (near - here[2]) / (there[2] - here[2]))
    if len(kept) < 3:
        return np.zeros((0, 2))
    stacked = np.array(kept)
    return np.asarray(stacked[:, :2] / stacked[:, 2:])


class Painter:
    """Draws a list of layers, back to front, into one frame."""

    def __init__(self, height: int, width: int, *, shutter: float = 0.0, fog: Fog | None = None) -> None:
        self.size = (height, width)
        self.shutter = shutter
        self.fog = fog

    def paint(self, layers: list[Layer], which: int) -> Frame:
        """Compose frame `which` (0 or 1)."""
        height, width = self.size
        frame = Frame(
            np.zeros((height, width, 3), np.float32),
            np.zeros((height, width), np.uint8),
            np.zeros((height, width, 2), np.float32),
            np.ones((height, width), np.bool_),
        )
        for number, layer in enumerate(layers):
            self._add(frame, layer, number, which)
        return frame

    def _add(self, frame: Frame, layer: Layer, number: int, which: int) -> None:
        height, width = self.size
        times = self._exposures(layer, which)
        change = layer.maps[1] - layer.maps[0]
        maps = [layer.maps[which] + t * change for t in times]
        box = self._box(layer, maps)
        if box[2] - box[0] < 1 or box[3] - box[1] < 1:
            return
        bend = self._bend(layer, which, box)
        middle = self._expose(layer, layer.maps[which], box, bend)
        soft = self._average(layer, maps, box, bend, middle)
        area = np.s_[box[1] : box[3], box[0] : box[2]]
        if layer.endless:
            frame.image[area] = soft if self.fog is None else self._haze(layer, which, box, soft, None)
            frame.index[area] = number
            if which == 0:
                frame.flow[area], frame.valid[area] = self._flow(layer, box, bend)
            return
        colours, alpha = cv2.cvtColor(soft, cv2.COLOR_RGBA2RGB), soft[..., 3] * np.float32(1 / 255)
        solid = np.ascontiguousarray(middle[..., 3] >= 128)
        if self.fog is not None:
            colours = self._haze(layer, which, box, colours, alpha[..., None])
        if layer.shadow is not None:
            self._drop_shadow(frame, layer.shadow, box, alpha)
        clear = 1 - alpha
        behind = cv2.multiply(np.ascontiguousarray(frame.image[area]), cv2.merge([clear, clear, clear]))
        frame.image[area] = cv2.add(behind, colours)
        np.copyto(frame.index[area], number, where=solid)
        if which == 0:
            flow, valid = self._flow(layer, box, bend)
            frame.flow[area] = cv2.copyTo(flow, solid.view(np.uint8), np.ascontiguousarray(frame.flow[area]))
            np.copyto(frame.valid[area], valid, where=solid)

    def _average(
        self, layer: Layer, maps: list[Homography], box: Box, bend: Floats | None, middle: Image
    ) -> Floats:
        """Average the layer over the instants of the exposure; `middle` is the sharp drawing."""
        if len(maps) == 1:
            return middle.astype(np.float32)
        soft = np.zeros(middle.shape, np.float32)
        shift = np.array([[1.0, 0, box[0]], [0, 1, box[1]], [0, 0, 1]])
        back = np.linalg.inv(maps[len(maps) // 2])
        size = (box[2] - box[0], box[3] - box[1])
        for number, homography in enumerate(maps):
            if number == len(maps) // 2:
                exposure = middle
            elif layer.outline is None:
                exposure = self._expose(layer, homography, box, bend)
            else:  # drawing a plane in perspective is dear: move the drawing instead
                move = np.linalg.inv(shift) @ homography @ back @ shift
                exposure = cv2.warpPerspective(middle, move, size, borderMode=cv2.BORDER_REPLICATE)
            cv2.accumulate(exposure, soft)
        return np.asarray(soft * np.float32(1 / len(maps)), np.float32)

    def _exposures(self, layer: Layer, which: int) -> list[float]:
        """Return the instants, in frame intervals from the frame's own, that motion blur averages over."""
        if self.shutter <= 0:
            return [0.0]
        height, width = self.size
        xs, ys = np.meshgrid([0.1, 0.5, 0.9], [0.2, 0.5, 0.9])
        points = np.stack([xs.ravel() * width, ys.ravel() * height], 1)
        if not layer.endless and layer.outline is None:
            h, w = layer.texture.shape[:2]
            points = apply(layer.maps[0], np.array([[0.5 * w, 0.5 * h], [0, 0], [w, 0], [0, h], [w, h]]))
        moved = apply(layer.maps[1] @ np.linalg.inv(layer.maps[0]), points) - points
        length = float(np.quantile(np.hypot(moved[:, 0], moved[:, 1]), 0.7))
        if not np.isfinite(length) or length * self.shutter < 0.7:
            return [0.0]
        count = int(min(_MOST_EXPOSURES, 3 + 2 * (length * self.shutter // (2 * _EXPOSURE_SPACING / 1.5))))
        reach = min(self.shutter, count * _EXPOSURE_SPACING / length)
        return [float(t) for t in np.linspace(-reach / 2, reach / 2, count)]

    def _box(self, layer: Layer, maps: list[Homography]) -> Box:
        height, width = self.size
        if layer.endless:
            return 0, 0, width, height
        h, w = layer.texture.shape[:2]
        corners = np.array([[-1.0, -1], [w, -1], [w, h], [-1, h]]) if layer.outline is None else layer.outline
        points = np.concatenate([_clip_near(corners, m, 1e-3) for m in maps])
        if not len(points):
            return 0, 0, 0, 0
        margin = 2 + (3.2 * layer.bend[0] if layer.bend else 0)
        low = np.clip(points.min(0) - margin, 0, (width, height))
        high = np.clip(points.max(0) + margin, 0, (width, height))
        return int(low[0]), int(low[1]), int(np.ceil(high[0])), int(np.ceil(high[1]))

    def _bend(self, layer: Layer, which: int, box: Box) -> Floats | None:
        if layer.bend is None or which == 1:
            return None
        amplitude, seed = layer.bend
        return displacement(np.random.default_rng(seed), box[3] - box[1], box[2] - box[0], amplitude)

    def _expose(self, layer: Layer, homography: Homography, box: Box, bend: Floats | None) -> Image:
        """Draw the layer at one instant: RGB if endless, else premultiplied RGBA."""
        inverse = np.linalg.inv(homography)
        if layer.outline is not None:
            return self._expose_outlined(layer, homography, inverse, box)
        level = self._uniform_level(inverse, box)
        return self._look_up(layer, level, inverse, box, bend)

    def _uniform_level(self, inverse: Homography, box: Box) -> int:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        w = inverse[2] @ [x, y, 1]
        shrink = 0.5 * np.log2(max(abs(np.linalg.det(inverse) / w**3), 1e-9))
        return int(np.clip(np.floor(shrink + 0.6), 0, 8))

    def _look_up(self, layer: Layer, level: int, inverse: Homography, box: Box, bend: Floats | None) -> Image:
        image, reduce = layer.level(level)
        border = cv2.BORDER_REFLECT if image.shape[2] == 3 else cv2.BORDER_CONSTANT
        size = (box[2] - box[0], box[3] - box[1])
        to_level = reduce @ inverse
        if bend is None:
            shift = np.array([[1.0, 0, box[0]], [0, 1, box[1]], [0, 0, 1]])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            return np.asarray(
                cv2.warpPerspective(image, to_level @ shift, size, flags=flags, borderMode=border)
            )
        x, y = _grid(box)
        u, v, w = _rows(to_level, x + bend[..., 0], y + bend[..., 1])
        return np.asarray(cv2.remap(image, u / w, v / w, cv2.INTER_LINEAR, borderMode=border))

    def _expose_outlined(self, layer: Layer, homography: Homography, inverse: Homography, box: Box) -> Image:
        """Draw a plane in perspective: its scale varies, so texture levels are mixed per pixel."""
        assert layer.outline is not None
        mask = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
        polygon = _clip_near(layer.outline, homography, 0.02)
        if len(polygon):
            polygon = np.clip(polygon - box[:2], -30000, 30000)
            cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        result = np.zeros((*mask.shape, 4), np.uint8)
        left, top, w, h = cv2.boundingRect(mask)
        if not w:
            return result
        mask = mask[top : top + h, left : left + w]
        left, top = left + box[0], top + box[1]
        depth = _rows(inverse, *_grid((left, top, left + w, top + h)))[2]
        # Half the base-2 logarithm of the Jacobian's determinant: canvas pixels per frame pixel.
        shrink = np.float32(0.5 * np.log2(abs(np.linalg.det(inverse))) + 0.4) - 1.5 * np.log2(
            np.maximum(depth, 1e-7)
        )
        shrink = np.clip(np.broadcast_to(shrink, mask.shape), 0, 7)
        seen = shrink[mask > 0]
        lowest, highest = int(seen.min()), int(np.ceil(seen.max()))
        mixed = np.zeros((h, w, 3), np.float32)
        for level in range(lowest, highest + 1):
            weight = 1 - np.minimum(np.abs(shrink - np.float32(level)), 1)
            used = (weight > 0) & (mask > 0)
            rows, columns = np.flatnonzero(used.any(1)), np.flatnonzero(used.any(0))
            if not len(rows):
                continue
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            at = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
            sampled = self._look_up(layer, level, inverse, at, None).astype(np.float32)
            share = np.ascontiguousarray(weight[part])
            mixed[part] += cv2.multiply(sampled, cv2.merge([share, share, share]))
        opaque = mask.astype(np.float32) * np.float32(1 / 255)
        mixed = cv2.multiply(mixed, cv2.merge([opaque, opaque, opaque]))
        inner = np.s_[top - box[1] : top - box[1] + h, left - box[0] : left - box[0] + w]
        result[inner] = np.dstack([cv2.convertScaleAbs(mixed), mask])
        return result

    def _flow(self, layer: Layer, box: Box, bend: Floats | None) -> tuple[Floats, NDArray[np.bool_]]:
        x, y = _grid(box)
        from_x, from_y = (x, y) if bend is None else (x + bend[..., 0], y + bend[..., 1])
        change = layer.maps[1] @ np.linalg.inv(layer.maps[0])
        u, v, w = _rows(change, from_x, from_y)
        valid = np.broadcast_to(w > 0.02, np.broadcast_shapes(u.shape, w.shape))
        w = np.maximum(w, 0.02)
        return cv2.merge([np.asarray(u / w - x), np.asarray(v / w - y)]), valid

    def _haze(self, layer: Layer, which: int, box: Box, colours: Floats, alpha: Floats | None) -> Floats:
        assert self.fog is not None
        if layer.depth is not None:
            weight: float | Floats = float(1 - np.exp(-self.fog.density * layer.depth))
        else:
            w = _rows(np.linalg.inv(layer.maps[which]), *_grid(box))[2]
            depth = 1 / np.maximum(np.broadcast_to(w, colours.shape[:2]), 1e-3)
            weight = (1 - np.exp(-self.fog.density * depth))[..., None].astype(np.float32)
        air = self.fog.colour * weight
        return np.asarray(colours * (1 - weight) + (air if alpha is None else air * alpha), np.float32)

    def _drop_shadow(
        self, frame: Frame, shadow: tuple[float, float, float, float], box: Box, alpha: Floats
    ) -> None:
        dx, dy, softness, strength = shadow
        height, width = self.size
        pad = int(2 * softness) + 1
        left, top = max(0, box[0] + int(dx) - pad), max(0, box[1] + int(dy) - pad)
        right, bottom = min(width, box[2] + int(dx) + pad), min(height, box[3] + int(dy) + pad)
        if right <= left or bottom <= top:
            return
        move = np.array([[1.0, 0, box[0] + int(dx) - left], [0, 1, box[1] + int(dy) - top]])
        shade = cv2.warpAffine(alpha, move, (right - left, bottom - top))
        shade = 1 - strength * cv2.blur(cv2.blur(shade, (pad, pad)), (pad, pad))
        frame.image[top:bottom, left:right] *= shade[..., None]


def occluded(first: Frame, second: Frame) -> NDArray[np.bool_]:
    """Tell which points of frame 1 leave frame 2 or lie under a nearer layer there."""
    height, width = first.index.shape
    x, y = _grid((0, 0, width, height))
    at_x = np.clip(x + first.flow[..., 0], -2, width + 1)
    at_y = np.clip(y + first.flow[..., 1], -2, height + 1)
    there = cv2.remap(
        second.index, at_x, at_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=255
    )
    return np.asarray((there > first.index) | ~first.valid)
