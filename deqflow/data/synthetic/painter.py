"""Drawing layers into a frame, back to front, with the flow and the index of what is seen."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .layers import Layer
from .motion import Homography, apply, displacement, inverse
from .stopwatch import Stopwatch
from .textures import Image

Floats = NDArray[np.float32]
Points = NDArray[np.float64]
Box = tuple[int, int, int, int]  # left, top, right, bottom
_MOST_EXPOSURES = 7
_FURTHEST = 30000.0  # pixels that a corner may lie outside the frame
_UNBENDING = 6  # turns, each leaves a third at most
_EXPOSURE_SPACING = 5.0  # pixels between the samples of a blurred layer, beyond which they would show


@dataclass(frozen=True)
class Fog:
    """Haze that thickens with depth: weight 1 - exp(-density * depth)."""

    color: Floats
    density: float


@dataclass
class Frame:
    """A composed frame: colors (h, w, 3), the topmost layer's index (h, w), its flow to the other frame."""

    image: Image
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


def _clip_near(points: Points, homography: Homography, near: float) -> Points:
    """Project a canvas polygon, cut where its depth falls below `near`. Returns (n, 2) frame points."""
    ends = points @ homography[:, :2].T + homography[:, 2]
    ends = _cut(ends, ends[:, 2] - near)
    return np.asarray(ends[:, :2] / ends[:, 2:])


def _clip_far(points: Points) -> Points:
    """Cut a frame polygon to what fixed-point numbers hold; clipping its corners would turn its edges."""
    for axis in (0, 1):
        for sign in (1, -1):
            points = _cut(points, _FURTHEST - sign * points[:, axis])
    return points


def _cut(points: Points, inside: NDArray[np.float64]) -> Points:
    """Return the part of a polygon (n, d) where a linear function, `inside` (n,) at its corners, is positive.

    Source: Sutherland and Hodgman, Reentrant Polygon Clipping, CACM 1974.
    """
    if not len(points) or inside.min() >= 0:
        return points
    kept: list[Points] = []
    for here, there, a, b in zip(points, np.roll(points, -1, 0), inside, np.roll(inside, -1), strict=True):
        if a >= 0:
            kept.append(here)
        if (a >= 0) != (b >= 0):
            kept.append(here + (there - here) * a / (a - b))
    return np.array(kept) if len(kept) > 2 else np.zeros((0, points.shape[1]))


def _times(image: Image, share: Image) -> Image:
    """Multiply colors (h, w, 3) by a share (h, w), 255 being one."""
    return np.asarray(cv2.multiply(image, cv2.merge([share, share, share]), scale=1 / 255), np.uint8)


class Painter:
    """Draws a list of layers, back to front, into one frame."""

    def __init__(
        self,
        height: int,
        width: int,
        *,
        shutter: float = 0.0,
        fog: Fog | None = None,
        watch: Stopwatch | None = None,
    ) -> None:
        self.size = (height, width)
        self.watch = Stopwatch() if watch is None else watch
        self.shutter = shutter
        self.fog = fog

    def paint(self, layers: list[Layer], which: int, *, flow: bool = True) -> Frame:
        """Compose frame `which` (0 or 1), with its flow unless told otherwise."""
        height, width = self.size
        frame = Frame(
            np.zeros((height, width, 3), np.uint8),
            np.zeros((height, width), np.uint8),
            np.zeros((height, width, 2), np.float32),
            np.ones((height, width), np.bool_),
        )
        outlines = self._outlines(layers, which)
        for number, layer in enumerate(layers):
            if layer.outline is None or number in outlines:
                self._add(frame, layer, number, which, outlines.get(number), with_flow=flow)
        return frame

    def _outlines(self, layers: list[Layer], which: int) -> dict[int, tuple[Image, Box]]:
        """Draw the matte of every outlined layer, with the box of what nearer ones leave to be seen of it."""
        hidden = np.zeros(self.size, np.uint8)
        mattes: dict[int, tuple[Image, Box]] = {}
        for number in reversed(range(len(layers))):
            outline = layers[number].outline
            polygon = (
                np.zeros((0, 2)) if outline is None else _clip_near(outline, layers[number].maps[which], 0.02)
            )
            polygon = _clip_far(polygon)
            if not len(polygon):
                continue
            matte = np.zeros(self.size, np.uint8)
            corners = np.round(polygon * 16).astype(np.int32)
            cv2.fillPoly(matte, [corners], 255, cv2.LINE_AA, 4)
            left, top, w, h = cv2.boundingRect(cv2.subtract(matte, hidden))
            if w:
                mattes[number] = matte, (left, top, left + w, top + h)
                # Where the matte is soft, what lies behind shines through.
                hidden = np.asarray(
                    cv2.max(hidden, cv2.threshold(matte, 254, 255, cv2.THRESH_BINARY)[1]), np.uint8
                )
        return mattes

    def _add(
        self,
        frame: Frame,
        layer: Layer,
        number: int,
        which: int,
        outline: tuple[Image, Box] | None,
        *,
        with_flow: bool,
    ) -> None:
        maps = self._exposures(layer, which)
        # A blurred plane is drawn whole, because its drawing is moved about afterwards.
        box = self._box(layer, maps) if outline is None or len(maps) > 1 else outline[1]
        if box[2] - box[0] < 1 or box[3] - box[1] < 1:
            return
        area = np.s_[box[1] : box[3], box[0] : box[2]]
        bend = None if layer.bend is None or which == 1 else self._bend(layer.bend, box)
        matte = None if outline is None else outline[0][area]
        middle = self._expose(layer, layer.maps[which], box, bend, matte)
        soft = middle
        if len(maps) > 1:
            with self.watch.timed("motion blur"):
                soft = self._average(layer, maps, box, bend, middle)
        if layer.endless:
            frame.image[area] = self._haze(layer, which, box, soft, None)
            frame.index[area] = number
            if with_flow:
                frame.flow[area], frame.valid[area] = self._flow(layer, which, box, bend)
            return
        colors, alpha = np.asarray(cv2.cvtColor(soft, cv2.COLOR_RGBA2RGB), np.uint8), soft[..., 3].copy()
        solid = middle[..., 3] >= 128
        colors = self._haze(layer, which, box, colors, alpha)
        if layer.shadow is not None:
            with self.watch.timed("drop shadow"):
                self._drop_shadow(frame, layer.shadow, box, alpha)
        frame.image[area] = cv2.add(_times(frame.image[area], np.asarray(cv2.bitwise_not(alpha))), colors)
        np.copyto(frame.index[area], number, where=solid)
        if with_flow:
            flow, valid = self._flow(layer, which, box, bend)
            here = np.ascontiguousarray(frame.flow[area])
            frame.flow[area] = cv2.copyTo(flow, np.ascontiguousarray(solid).view(np.uint8), here)
            np.copyto(frame.valid[area], valid, where=solid)

    def _average(
        self, layer: Layer, maps: list[Homography], box: Box, bend: Floats | None, middle: Image
    ) -> Image:
        """Average the layer over the instants of the exposure; `middle` is the sharp drawing."""
        total = np.zeros(middle.shape, np.float32)
        shift = np.array([[1.0, 0, box[0]], [0, 1, box[1]], [0, 0, 1]])
        back = inverse(maps[len(maps) // 2])
        size = (box[2] - box[0], box[3] - box[1])
        for number, homography in enumerate(maps):
            if number == len(maps) // 2:
                exposure = middle
            elif layer.outline is None:
                exposure = self._expose(layer, homography, box, bend, None)
            else:  # drawing a plane in perspective is dear: move the drawing instead
                move = inverse(shift) @ homography @ back @ shift
                moved = cv2.warpPerspective(middle, move, size, borderMode=cv2.BORDER_REPLICATE)
                exposure = np.asarray(moved, np.uint8)
            cv2.accumulate(exposure, total)
        return np.asarray(cv2.convertScaleAbs(total, alpha=1 / len(maps)), np.uint8)

    def _exposures(self, layer: Layer, which: int) -> list[Homography]:
        """Return the layer's maps to the frame at the instants that motion blur averages over."""
        change = layer.maps[1] - layer.maps[0]
        return [layer.maps[which] + t * change for t in self._instants(layer)]

    def _instants(self, layer: Layer) -> list[float]:
        """Return them in frame intervals from the frame's own."""
        if self.shutter <= 0:
            return [0.0]
        height, width = self.size
        xs, ys = np.meshgrid([0.1, 0.5, 0.9], [0.2, 0.5, 0.9])
        points = np.stack([xs.ravel() * width, ys.ravel() * height], 1)
        if not layer.endless and layer.outline is None:
            h, w = layer.texture.shape[:2]
            points = apply(layer.maps[0], np.array([[0.5 * w, 0.5 * h], [0, 0], [w, 0], [0, h], [w, h]]))
        moved = apply(layer.maps[1] @ inverse(layer.maps[0]), points) - points
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

    def _bend(self, bend: tuple[float, int], box: Box) -> Floats:
        """Return the displacement of frame 1 in a box."""
        amplitude, seed = bend
        return displacement(np.random.default_rng(seed), box[3] - box[1], box[2] - box[0], amplitude)

    def _expose(
        self, layer: Layer, homography: Homography, box: Box, bend: Floats | None, matte: Image | None
    ) -> Image:
        """Draw the layer at one instant: RGB if endless, else premultiplied RGBA."""
        back = inverse(homography)
        if matte is not None:
            return self._expose_outlined(layer, back, box, matte)
        return self._look_up(layer, self._uniform_level(back, box), back, box, bend)

    def _uniform_level(self, back: Homography, box: Box) -> int:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        w = back[2, 0] * x + back[2, 1] * y + back[2, 2]
        shrink = 0.5 * math.log2(max(abs(np.linalg.det(back) / w**3), 1e-9))
        return min(max(math.floor(shrink + 0.6), 0), 8)

    def _look_up(self, layer: Layer, level: int, back: Homography, box: Box, bend: Floats | None) -> Image:
        image, reduce = layer.level(level)
        border = cv2.BORDER_REFLECT if layer.opaque else cv2.BORDER_CONSTANT
        size = (box[2] - box[0], box[3] - box[1])
        to_level = reduce @ back
        if bend is None:
            to_level[:, 2] += to_level[:, 0] * box[0] + to_level[:, 1] * box[1]
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            drawn = cv2.warpPerspective(image, to_level, size, flags=flags, borderMode=border)
        else:
            x, y = _grid(box)
            u, v, w = _rows(to_level, x + bend[..., 0], y + bend[..., 1])
            drawn = cv2.remap(image, u / w, v / w, cv2.INTER_LINEAR, borderMode=border)
        return np.asarray(cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB) if layer.opaque else drawn, np.uint8)

    def _expose_outlined(self, layer: Layer, back: Homography, box: Box, matte: Image) -> Image:
        """Draw a plane in perspective: its scale varies, so texture levels are mixed per pixel."""
        depth = _rows(back, *_grid(box))[2]
        # Half the base-2 logarithm of the Jacobian's determinant: canvas pixels per frame pixel.
        constant = np.float32(0.5 * math.log2(abs(np.linalg.det(back))) + 0.4)
        shrink = np.clip(constant - 1.5 * np.log2(np.maximum(depth, 1e-7)), 0, 7)
        shrink = np.broadcast_to(np.rint(255 * shrink), matte.shape)
        inside = shrink[matte > 0] / 255
        if not len(inside):
            return np.zeros((*matte.shape, 4), np.uint8)
        mixed = np.zeros((*matte.shape, 3), np.uint8)
        for level in range(int(inside.min()), math.ceil(inside.max()) + 1):
            # A triangle about the level. Neighbors' shares add up to 255, because `shrink` is rounded.
            share = np.maximum(255 - np.abs(shrink - 255 * level), 0).astype(np.uint8)
            left, top, w, h = cv2.boundingRect(cv2.min(share, matte))
            if not w:
                continue
            part = np.s_[top : top + h, left : left + w]
            at = (box[0] + left, box[1] + top, box[0] + left + w, box[1] + top + h)
            sampled = self._look_up(layer, level, back, at, None)
            mixed[part] = cv2.add(mixed[part], _times(sampled, np.ascontiguousarray(share[part])))
        return np.asarray(cv2.merge([*cv2.split(_times(mixed, matte)), matte]), np.uint8)

    def _flow(
        self, layer: Layer, which: int, box: Box, bend: Floats | None
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the motion to the other frame, and where that lies before its camera."""
        x, y = _grid(box)
        from_x, from_y = (x, y) if bend is None else (x + bend[..., 0], y + bend[..., 1])
        change = layer.maps[1 - which] @ inverse(layer.maps[which])
        if np.abs(change[2, :2]).max() < 1e-12:  # affine: no division
            u, v, _ = _rows(change / change[2, 2], from_x, from_y)
            valid = np.ones(u.shape, np.bool_)
        else:
            u, v, w = _rows(change, from_x, from_y)
            valid = np.broadcast_to(w > 0.02, u.shape)
            scale = 1 / np.maximum(w, np.float32(0.02))
            u, v = (np.asarray(part * scale, np.float32) for part in (u, v))
        if which == 1 and layer.bend is not None:
            u, v = self._unbend(layer, layer.bend, u, v)
        return np.asarray(cv2.merge([u - x, v - y]), np.float32), valid

    def _unbend(self, layer: Layer, bend: tuple[float, int], u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Return the points x of frame 1 with x + D(x) = (u, v); D goes on beyond its box as at the edge."""
        left, top, right, bottom = self._box(layer, self._exposures(layer, 0))
        if left >= right or top >= bottom:
            return u, v
        field = self._bend(bend, (left, top, right, bottom))
        u, v = u - np.float32(left), v - np.float32(top)
        x, y = u, v
        for _ in range(_UNBENDING):
            moved = cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            x, y = u - moved[..., 0], v - moved[..., 1]
        return x + np.float32(left), y + np.float32(top)

    def _haze(self, layer: Layer, which: int, box: Box, colors: Image, alpha: Image | None) -> Image:
        if self.fog is None:
            return colors
        with self.watch.timed("fog"):
            return self._through(self.fog, layer, which, box, colors, alpha)

    def _through(
        self, fog: Fog, layer: Layer, which: int, box: Box, colors: Image, alpha: Image | None
    ) -> Image:
        if alpha is None:
            alpha = np.full(colors.shape[:2], 255, np.uint8)
        air = cv2.merge([cv2.convertScaleAbs(alpha, alpha=float(c) / 255) for c in fog.color])
        if layer.depth is not None:
            weight = float(1 - np.exp(-fog.density * layer.depth))
            return np.asarray(cv2.addWeighted(colors, 1 - weight, air, weight, 0), np.uint8)
        w = _rows(inverse(layer.maps[which]), *_grid(box))[2]
        clear = np.zeros(colors.shape[:2], np.float32)
        clear[:] = np.exp(-fog.density / np.maximum(w, 1e-3))
        return np.asarray(cv2.blendLinear(colors, air, clear, 1 - clear), np.uint8)

    def _drop_shadow(
        self, frame: Frame, shadow: tuple[float, float, float, float], box: Box, alpha: Image
    ) -> None:
        dx, dy, softness, strength = shadow
        height, width = self.size
        pad = int(2 * softness) + 1
        left, top = max(0, box[0] + int(dx) - pad), max(0, box[1] + int(dy) - pad)
        right, bottom = min(width, box[2] + int(dx) + pad), min(height, box[3] + int(dy) + pad)
        if right <= left or bottom <= top:
            return
        move = np.array([[1.0, 0, box[0] + int(dx) - left], [0, 1, box[1] + int(dy) - top]])
        cast = cv2.warpAffine(alpha, move, (right - left, bottom - top))
        shade = cv2.blur(cv2.blur(cast, (pad, pad)), (pad, pad))
        light = np.asarray(cv2.convertScaleAbs(shade, alpha=strength), np.uint8)
        part = frame.image[top:bottom, left:right]
        frame.image[top:bottom, left:right] = _times(part, np.asarray(cv2.bitwise_not(light), np.uint8))


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
