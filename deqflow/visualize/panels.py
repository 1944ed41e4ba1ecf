"""Pictures beside each other, with words on them."""

from collections.abc import Sequence

import cv2
import numpy as np

from deqflow.visualize.maps import color_bar
from deqflow.visualize.wheel import Image, wheel


def _text_size(image: Image) -> float:
    return max(0.5, image.shape[0] / 900)


def write_text(image: Image, text: str, *, bottom: bool = False, right: bool = False) -> None:
    """Write white words with a dark rim into a corner of ``image`` itself, by default the upper left."""
    size = _text_size(image)
    margin = round(16 * size)
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    origin = (
        image.shape[1] - width - margin if right else margin,
        image.shape[0] - margin if bottom else round(34 * size),
    )
    # The rim is the words themselves, shifted: OpenCV 5 sets thicker ones wider.
    rim = [((0, 0, 0), across, down) for across in (-1, 0, 1) for down in (-1, 0, 1)]
    for color, across, down in (*rim, ((255, 255, 255), 0, 0)):
        place = (origin[0] + across, origin[1] + down)
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def draw_wheel(image: Image, scale: float) -> None:
    """Draw the color wheel into ``image``, lower right, with the length in pixels of its full color."""
    shortest = min(image.shape[:2])
    side = min(shortest, max(24, shortest // 5))
    inside = np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]) <= 1
    place = _above_text(image, side, side)
    place[inside] = wheel(side)[inside]
    write_text(image, f"{scale:.3g} px", bottom=True, right=True)


def draw_bar(image: Image, brightest: float) -> None:
    """Draw the colors from 0 to ``brightest`` pixels into ``image``, lower right."""
    height, width = max(6, image.shape[0] // 40), max(32, image.shape[1] // 5)
    place = _above_text(image, height, width)
    place[:] = color_bar(place.shape[1], place.shape[0])
    write_text(image, f"0 to {brightest:g} px", bottom=True, right=True)


def _above_text(image: Image, height: int, width: int) -> Image:
    """Return the part of an image that lies above words in the lower right corner, as a view."""
    margin = round(16 * _text_size(image))
    bottom, right = max(height, image.shape[0] - 4 * margin), max(width, image.shape[1] - margin)
    return image[bottom - height : bottom, right - width : right]


def side_by_side(images: Sequence[Image], labels: Sequence[str] = ()) -> Image:
    """Join images of one height from left to right and write a label into each one's upper left corner."""
    panels = [np.ascontiguousarray(image).copy() for image in images]
    for panel, label in zip(panels, labels, strict=False):
        write_text(panel, label)
    return np.concatenate(panels, axis=1)
