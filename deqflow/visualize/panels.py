"""Pictures beside each other, with words on them."""

from collections.abc import Sequence

import cv2
import numpy as np

from deqflow.visualize.wheel import Image


def write_text(image: Image, text: str, *, bottom: bool = False) -> None:
    """Write white words with a dark rim into ``image`` itself, in the upper left corner or the lower left."""
    size = max(0.5, image.shape[0] / 900)
    origin = (round(16 * size), image.shape[0] - round(16 * size) if bottom else round(34 * size))
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)


def side_by_side(images: Sequence[Image], labels: Sequence[str] = ()) -> Image:
    """Join images of one height from left to right and write a label into each one's upper left corner."""
    panels = [np.ascontiguousarray(image).copy() for image in images]
    for panel, label in zip(panels, labels, strict=False):
        write_text(panel, label)
    return np.concatenate(panels, axis=1)
