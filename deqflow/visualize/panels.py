"""Pictures beside each other, with words on them."""

from collections.abc import Sequence

import cv2
import numpy as np

from deqflow.visualize.wheel import Image


def write_text(image: Image, text: str, *, bottom: bool = False, right: bool = False) -> None:
    """Write white words with a dark rim into a corner of ``image`` itself, by default the upper left."""
    size = max(0.5, image.shape[0] / 900)
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


def side_by_side(images: Sequence[Image], labels: Sequence[str] = ()) -> Image:
    """Join images of one height from left to right and write a label into each one's upper left corner."""
    panels = [np.ascontiguousarray(image).copy() for image in images]
    for panel, label in zip(panels, labels, strict=False):
        write_text(panel, label)
    return np.concatenate(panels, axis=1)
