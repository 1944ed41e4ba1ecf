"""From what FFmpeg decodes to the picture that is meant: colors, transparency, orientation, fields."""

from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from deqflow.io.images import to_rgb
from deqflow.io.video.frames import Image

DisplayMatrix = tuple[int, int, int, int]
"""(a, b, c, d), up to scale: the pixel (x, y) is shown at (ax + cy, bx + dy) (ISO/IEC 14496-12, 6.2.2)."""

UNSPECIFIED = 2
"""The color space of frames that do not say (ITU-T H.273)."""


def upright_rgb(frame: av.VideoFrame) -> Image:
    """Convert a decoded frame to uint8 RGB (H, W, 3) as a player shows it, transparent parts over black."""
    transparent = any(component.is_alpha for component in frame.format.components)
    # HD without a label is BT.709, as every player takes it; FFmpeg itself would take BT.601.
    unlabeled_hd = frame.colorspace == UNSPECIFIED and (frame.width >= 1280 or frame.height > 576)
    pixels: NDArray[Any] = frame.to_ndarray(
        format="rgba" if transparent else "rgb24",
        src_colorspace=Colorspace.ITU709 if unlabeled_hd and not frame.format.is_rgb else None,
        threads=1,  # PyAV never ends its pool of threads, and a later fork would hang on it
    )
    image = to_rgb(pixels) if transparent else pixels
    return np.ascontiguousarray(orient(image, display_matrix(frame)), np.uint8)


def display_matrix(frame: av.VideoFrame) -> DisplayMatrix:
    """Return how a frame is to be shown; as it is, if it does not say."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None or len(bytes(data)) < 36:
        return (1, 0, 0, 1)
    # Position and perspective do not matter here.
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    return (a, b, c, d)


def is_turned(matrix: DisplayMatrix) -> bool:
    """Return whether width and height change places when a frame is shown."""
    a, b, c, d = map(abs, matrix)
    return b + c > a + d


def orient(image: NDArray[Any], matrix: DisplayMatrix) -> NDArray[Any]:
    """Turn and mirror an image (H, W, C) to be upright; turns to other than right angles are rounded."""
    across, _, _, down = matrix
    if is_turned(matrix):
        image = image.swapaxes(0, 1)
        _, down, across, _ = matrix
    return image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def deinterlace(frames: Iterable[av.VideoFrame], mode: str) -> Iterator[av.VideoFrame]:
    """Make whole pictures of interlaced frames (bwdif); one for each.

    Args:
        frames: decoded frames in order.
        mode: "on" for all, "off" for none, "auto" for those that say that they are interlaced.
    """
    graph: Graph | None = None
    layout: tuple[int, int, str] | None = None
    for frame in frames:
        found = (frame.width, frame.height, frame.format.name)
        if graph is not None and layout != found:
            yield from _drain(graph)
            graph = None
        if graph is None and (mode == "on" or (mode == "auto" and frame.interlaced_frame)):
            graph, layout = _deinterlacer(frame, every=mode == "on"), found
        if graph is None:
            yield frame
        else:
            graph.vpush(frame)
            yield from _pull(graph)
    if graph is not None:
        yield from _drain(graph)


def _deinterlacer(frame: av.VideoFrame, *, every: bool) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    bwdif = graph.add("bwdif", f"mode=send_frame:deint={'all' if every else 'interlaced'}")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _pull(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return


def _drain(graph: Graph) -> Iterator[av.VideoFrame]:
    graph.vpush(None)
    yield from _pull(graph)
