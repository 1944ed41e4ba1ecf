"""The sound of a source, copied as it is beside frames made from its pictures."""

from collections.abc import Iterator
from fractions import Fraction

import av
from av.container import OutputContainer
from av.stream import Discard

from deqflow.io.video.frames import Sound


class SoundCopy:
    """Copies the packets of a sound stream into a file that is being written, in step with its frames."""

    def __init__(self, sound: Sound, output: OutputContainer, begins: Fraction) -> None:
        """Add the stream to ``output``.

        Args:
            sound: where it is.
            output: a container whose header is not written yet.
            begins: time of the source that is time 0 of the output, seconds.

        Raises:
            FFmpegError, ValueError: it cannot be read, or the output does not take it.
        """
        self._input = av.open(sound.place, "r", metadata_errors="replace")
        try:
            stream = self._input.streams[sound.stream]
            for other in self._input.streams:
                if other is not stream:
                    other.discard = Discard.all
            self._output = output.add_stream_from_template(stream)
            self._base = stream.time_base or Fraction(1, av.time_base)
            self._shift = round((sound.begins + begins) / self._base)
            if begins > 1:
                self._input.seek(self._shift, stream=stream)
            self._packets = self._shifted(stream)
            self._next: av.Packet[av.stream.Stream] | None = next(self._packets, None)
        except (av.FFmpegError, ValueError):
            self.close()
            raise

    def until(self, time: Fraction) -> "Iterator[av.Packet[av.stream.Stream]]":
        """Yield the packets that begin before ``time`` in the output and have not been yielded yet."""
        while self._next is not None and (self._next.pts or 0) * self._base < time:
            packet, self._next = self._next, next(self._packets, None)
            packet.stream = self._output
            yield packet

    def close(self) -> None:
        """Close the source."""
        self._input.close()

    def _shifted(self, stream: av.stream.Stream) -> "Iterator[av.Packet[av.stream.Stream]]":
        for packet in self._input.demux(stream):
            if packet.pts is None or packet.dts is None or packet.pts < self._shift:
                continue
            packet.pts -= self._shift
            packet.dts -= self._shift
            yield packet
