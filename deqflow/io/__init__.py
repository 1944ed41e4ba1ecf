"""Files in and out: images, flow files, video. Formats only, no estimation."""

from deqflow.io.flow_files import FLOW_FORMATS, read_flow, write_flow
from deqflow.io.images import read_image, shrink, to_rgb, write_image
from deqflow.io.quantized import dequantize_flow, quantize_flow
from deqflow.io.video import Deinterlace, VideoFrame, VideoSource, VideoWriter, open_video

__all__ = [
    "FLOW_FORMATS",
    "Deinterlace",
    "VideoFrame",
    "VideoSource",
    "VideoWriter",
    "dequantize_flow",
    "open_video",
    "quantize_flow",
    "read_flow",
    "read_image",
    "shrink",
    "to_rgb",
    "write_flow",
    "write_image",
]
