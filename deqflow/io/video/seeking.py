"""Where the frames of a stream are, without decoding them."""

from collections.abc import Sequence
from itertools import pairwise

import av
from av.stream import Discard


def frame_stamps(place: str, stream: av.VideoStream) -> Sequence[int] | None:
    """Return the timestamps of all frames in order of time, in units of the stream's time base.

    From the index, if it has all frames and they are equally far apart; else packet by packet.

    Args:
        place: the file.
        stream: of it, opened.

    Returns:
        None if the file does not tell, or frames have no timestamps.
    """
    stamps = [entry.timestamp for entry in stream.index_entries]
    steps = {after - before for before, after in pairwise(stamps)}
    if len(stamps) == stream.frames and len(steps) == 1 and stream.start_time is not None:
        step = steps.pop()
        # Those of the index are times of decoding; frames are shown at the same distances.
        return range(stream.start_time, stream.start_time + step * len(stamps), step)
    try:
        with av.open(place, "r", metadata_errors="replace") as container:
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all
            packets = (packet for packet in container.demux(container.streams[stream.index]) if packet.size)
            found = [packet.pts for packet in packets if not packet.is_discard]
    except (av.FFmpegError, OSError):
        return None
    known = sorted(stamp for stamp in found if stamp is not None)
    return known if len(known) == len(found) else None
