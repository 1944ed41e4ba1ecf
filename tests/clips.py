"""Small clips of every kind, written with PyAV."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def textured(count: int, size: tuple[int, int] = (48, 64), step: int = 2) -> list[np.ndarray]:
    """Smooth random texture that moves ``step`` pixels to the left from frame to frame."""
    height, width = size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 2, (width + step * count) // 8 + 2, 3)).astype(np.float32)
    wide = np.kron(coarse, np.ones((8, 8, 1), np.float32))
    return [
        np.ascontiguousarray(wide[:height, step * index : step * index + width]).astype(np.uint8)
        for index in range(count)
    ]


def corners(count: int = 2, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Quarters of four colors: every turn and mirror image looks different."""
    image = np.zeros((*size, 3), np.uint8)
    top, left = size[0] // 2, size[1] // 2
    image[:top, :left], image[:top, left:] = (200, 30, 30), (30, 200, 30)
    image[top:, :left], image[top:, left:] = (30, 30, 200), (200, 200, 200)
    return [image] * count


def encode(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: Fraction | int = 25,
    times: Iterable[int] | None = None,
    time_base: Fraction | None = None,
    source: str = "rgb24",
    prepare: Callable[[Any, Any], None] | None = None,
    audio: bool = False,
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Write frames, at ``times`` in units of ``time_base``; ``prepare(container, stream)`` runs first."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if prepare is not None:
            prepare(file, stream)
        sound = file.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48000) if audio else None
        if sound is not None:
            seconds = len(frames) / float(rate)
            for start in range(0, int(seconds * 48000), 960 if path.suffix == ".webm" else 1024):
                length = 960 if path.suffix == ".webm" else 1024
                wave = np.sin(np.arange(start, start + length) * 0.05).astype(np.float32)
                if path.suffix == ".webm":
                    packed = np.repeat(wave, 2)[None]
                    block = av.AudioFrame.from_ndarray(packed, "flt", "stereo")
                else:
                    block = av.AudioFrame.from_ndarray(np.stack((wave, wave)), "fltp", "stereo")
                block.sample_rate, block.pts, block.time_base = 48000, start, Fraction(1, 48000)
                file.mux(sound.encode(block))
            file.mux(sound.encode())
        stamps = iter(times) if times is not None else iter(range(len(frames)))
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, source)
            picture.pts = next(stamps)
            picture.time_base = time_base or 1 / Fraction(rate)
            if pixels != source:
                picture = picture.reformat(format=pixels, threads=1)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def damage(path: Path, numbers: Iterable[int]) -> Path:
    """Overwrite the given packets of a file, from their middle on, with noise."""
    rng = np.random.default_rng(1)
    with av.open(str(path)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        begin, size = packets[number]
        data[begin : begin + size] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    return path
