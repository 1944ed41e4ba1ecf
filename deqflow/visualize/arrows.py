"""Flow as arrows on a grid."""

import cv2
import numpy as np

from deqflow.visualize.wheel import UNKNOWN, Flow, Image, dimmed, flow_to_image


def draw_arrows(
    image: Image, flow: Flow, max_magnitude: float | None = None, spacing: int | None = None
) -> Image:
    """Draw the flow as arrows over a gray copy of the image, readable however short or long it is.

    An arrow fills its cell of the grid where the flow is ``max_magnitude`` or longer, and shrinks with the
    square root of the length, so that slow motion beside fast stays visible. Its hue is that of
    `flow_to_image`. Where the flow is unknown or rests there is none.

    Args:
        image: uint8 RGB (H, W, 3).
        flow: (H, W, 2) in pixels.
        max_magnitude: length in pixels of the longest arrow; the 99th percentile by default.
        spacing: pixels from arrow to arrow; by default a twentieth of the shorter side, at least 16.
    """
    height, width = flow.shape[:2]
    spacing = spacing or max(16, min(height, width) // 20)
    canvas = dimmed(image)
    y, x = (
        axis.ravel() for axis in np.mgrid[spacing // 2 : height : spacing, spacing // 2 : width : spacing]
    )
    motion = np.asarray(flow, np.float64)[y, x]
    length = np.hypot(*motion.T)
    known = length < UNKNOWN  # false for NaN
    if max_magnitude is None:
        max_magnitude = float(np.percentile(length[known], 99)) if known.any() else 0.0
    drawn = known & (length > 0.01 * max_magnitude)
    scale = max(max_magnitude, 1e-9)
    share = np.sqrt(np.minimum(length[drawn] / scale, 1))
    step = motion[drawn] / length[drawn, None] * (0.9 * spacing * share)[:, None]
    center = np.stack((x[drawn], y[drawn]), axis=1)
    # Hue tells the direction of short ones as well: all are drawn in full color.
    colors = flow_to_image((motion[drawn] / length[drawn, None])[None].astype(np.float32), 1.0, clip=True)[0]
    thickness = max(1, spacing // 16)
    # OpenCV takes fractions of a pixel as integers of 1/8: arrows turn smoothly from frame to frame.
    for tail, tip, color in zip(
        np.rint(8 * (center - step / 2)).astype(int),
        np.rint(8 * (center + step / 2)).astype(int),
        colors,
        strict=True,
    ):
        for ink, width_ in (((0, 0, 0), thickness + 2), (color.tolist(), thickness)):
            cv2.arrowedLine(
                canvas, tail.tolist(), tip.tolist(), ink, width_, cv2.LINE_AA, shift=3, tipLength=0.35
            )
    return canvas
