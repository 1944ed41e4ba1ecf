"""Video in and out: any file FFmpeg reads, images and webcams to frames; frames to files that play."""

from deqflow.io.video.containers import Deinterlace
from deqflow.io.video.frames import VideoFrame, VideoSource
from deqflow.io.video.opening import open_video
from deqflow.io.video.queues import Behind, ahead
from deqflow.io.video.sequences import open_images
from deqflow.io.video.writer import OUTPUT_SUFFIXES, FrameWriter, ImageWriter, VideoWriter

__all__ = [
    "OUTPUT_SUFFIXES",
    "Behind",
    "Deinterlace",
    "FrameWriter",
    "ImageWriter",
    "VideoFrame",
    "VideoSource",
    "VideoWriter",
    "ahead",
    "open_images",
    "open_video",
]
