"""Frames of a camera, as they come."""

import contextlib
import time
from collections.abc import Generator, Iterator
from fractions import Fraction

import cv2
import numpy as np

from deqflow.errors import VideoError
from deqflow.io.images import quiet_opencv
from deqflow.io.video.frames import Image, VideoFrame, VideoSource, check_size, plausible_rate
from deqflow.io.video.selection import WHOLE, Place, Span

_TICK = Fraction(1, 1000)


def open_webcam(index: int, rate: Fraction | None = None, span: Span = WHOLE) -> VideoSource:
    """Open a camera by its number.

    Args:
        index: from 0.
        rate: frames per second to assume, instead of the times at which frames come.
        span: which frames to take.

    Raises:
        VideoError: there is none, or it gives no frames.
    """
    with quiet_opencv():
        camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise VideoError(f"no file is named {index} and no webcam has this index")
        done, frame = camera.read()
        if not done:
            raise VideoError(f"webcam {index} gives no frames")
        usual = plausible_rate(rate, camera.get(cv2.CAP_PROP_FPS))
    finally:
        camera.release()
    height, width = frame.shape[:2]
    return check_size(
        VideoSource(
            f"webcam {index}",
            float(usual),
            (height, width),
            None,
            lambda: _read(index, rate, span),
            time_base=1 / rate if rate else _TICK,
        )
    )


def _read(index: int, rate: Fraction | None, span: Span) -> Iterator[VideoFrame]:
    with contextlib.closing(_places(index, rate)) as places:
        for time_, number, image, _ in span.pick(places, f"webcam {index}"):
            yield VideoFrame(image, time_, number, f"frame {number} of webcam {index}")


def _places(index: int, rate: Fraction | None) -> Generator[Place[Image]]:
    camera = cv2.VideoCapture(index)
    began = last = None
    number = 0
    try:
        while True:
            done, frame = camera.read()
            if not done:
                return
            now = round(1000 * time.monotonic())
            began = now if began is None else began
            last = now if last is None else max(now, last + 1)
            when = number / rate if rate else (last - began) * _TICK
            number += 1
            image = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
            yield Place(when, number, image)
    finally:
        camera.release()
