"""The files a video can be written to: which encoder, pixels and clock, by the suffix of the name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.filter import Graph


@dataclass(frozen=True)
class Encoder:
    """How a kind of file is written.

    Attributes:
        muxer: FFmpeg's name of the file format.
        codec: FFmpeg's name of the encoder.
        pixels: its pixel format.
        options: those of the encoder, for a constant rate factor of x264's scale, 0 (best) to 51.
        muxing: options of the muxer.
        tick: unit of the file's times; None if it takes the source's.
        shortest: ticks that a frame lasts at least; frames that come earlier are left out.
        even: whether width and height must be even numbers.
        sound: whether the file can hold sound.
        aspect: whether the file can say that pixels are not square.
        joins: whether files of this kind can be joined packet by packet.
    """

    muxer: str
    codec: str
    pixels: str
    options: Callable[[int], dict[str, str]]
    muxing: dict[str, str] = field(default_factory=dict)
    tick: Fraction | None = None
    shortest: int = 1
    even: bool = True
    sound: bool = True
    aspect: bool = True
    joins: bool = True


def _x264(quality: int) -> dict[str, str]:
    # zerolatency: nothing waits in the encoder, so an interrupted file has (nearly) all its frames.
    return {"crf": str(quality), "preset": "medium", "tune": "zerolatency"}


def _vp9(quality: int) -> dict[str, str]:
    return {
        "crf": str(round(quality * 63 / 51)),
        "b": "0",
        "deadline": "good",
        "cpu-used": "5",
        "row-mt": "1",
        "lag-in-frames": "0",
        "auto-alt-ref": "0",
    }


def _webp(quality: int) -> dict[str, str]:
    return {"quality": str(100 - quality // 2)}


# Written in fragments, which closing turns into an ordinary file: what there is plays at any moment.
_FRAGMENTS = {"movflags": "hybrid_fragmented+frag_keyframe", "flush_packets": "1"}

_MILLISECOND = Fraction(1, 1000)

ENCODERS = {
    ".mp4": Encoder("mp4", "libx264", "yuv420p", _x264, _FRAGMENTS),
    ".mov": Encoder("mov", "libx264", "yuv420p", _x264, _FRAGMENTS),
    ".mkv": Encoder("matroska", "libx264", "yuv420p", _x264, {"flush_packets": "1"}, _MILLISECOND),
    ".webm": Encoder(
        "webm", "libvpx-vp9", "yuv420p", _vp9, {"flush_packets": "1"}, _MILLISECOND, aspect=False
    ),
    ".webp": Encoder(
        "webp",
        "libwebp_anim",
        "bgra",
        _webp,
        {"loop": "0"},
        _MILLISECOND,
        even=False,
        sound=False,
        aspect=False,
        joins=False,
    ),
    ".gif": Encoder(
        "gif",
        "gif",
        "pal8",
        lambda quality: {},
        tick=Fraction(1, 100),
        shortest=2,  # browsers slow anything faster down to ten hundredths
        even=False,
        sound=False,
        aspect=False,
        joins=False,
    ),
}
"""By suffix."""

LOSSLESS = Encoder("matroska", "ffv1", "bgr0", lambda quality: {}, tick=_MILLISECOND, even=False, sound=False)
"""For pictures that are to be encoded later."""


class Palette:
    """Reduces frames to 256 colors, chosen for each (FFmpeg's palettegen and paletteuse)."""

    def __init__(self, width: int, height: int, tick: Fraction) -> None:
        self._graph = graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=tick)
        split = graph.add("split")
        chosen = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        used = graph.add("paletteuse", "new=1")
        source.link_to(split)
        split.link_to(chosen, 0, 0)
        split.link_to(used, 1, 0)
        chosen.link_to(used, 0, 1)
        used.link_to(graph.add("buffersink"))
        graph.configure()

    def reduce(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Return what has become of the frames so far."""
        self._graph.vpush(frame)
        while True:
            try:
                yield self._graph.vpull()
            except av.BlockingIOError:
                return
