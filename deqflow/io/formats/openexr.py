"""OpenEXR motion vectors, as renderers and compositing programs keep them.

Written, and read first, are the channels of Nuke's layer for motion to the next frame: ``forward.u`` to the
right and ``forward.v`` **upwards**, in pixels; so v changes its sign on the way. Where not all pixels are
known, ``forward.valid`` is 1 on those that are. Read as well is Blender's vector pass, of any view layer:
``Vector.Z`` and ``Vector.W`` are this frame's place minus the next one's, upwards, so that (u, v) = (-Z, W);
its motion from the previous frame in X and Y is left alone. NaN marks unknown pixels in both.
"""

import io
from typing import Any

import numpy as np

from deqflow.io.formats.common import (
    DEFLATE_LIMIT,
    Flow,
    FlowFormat,
    Mask,
    check_compressed,
    check_size,
    finite_or_unknown,
)

_MAGIC = b"\x76\x2f\x31\x01"
_U, _V, _VALID = "forward.u", "forward.v", "forward.valid"
_BLENDER_U, _BLENDER_V = "Vector.Z", "Vector.W"
# The codecs end in zlib or do worse, some of them after dropping bytes; half floats are counted double here.
_LIMIT = 4 * DEFLATE_LIMIT
_SAMPLE_BYTES = 4  # of the largest kind of channel


def _decode(data: bytes) -> tuple[Flow, Mask]:
    import OpenEXR

    if not data.startswith(_MAGIC):
        raise ValueError("it is not an OpenEXR file")
    try:
        # Headers first: the library allocates every channel of every part by what they say.
        with _open(OpenEXR, data, header_only=True) as file:
            headers = [part.header for part in file.parts]
            _check_headers(headers, len(data))
        with _open(OpenEXR, data, header_only=False) as file:
            if len(file.parts) < len(headers):  # it prints a warning and goes on without the part
                raise ValueError("its pixels are damaged or cut short")
            channels = {name: plane.pixels for part in file.parts for name, plane in part.channels.items()}
    except ValueError:
        raise
    except Exception as error:  # the binding raises nearly every type there is, decoding errors of names too
        raise ValueError(f"OpenEXR cannot read it ({error})") from error
    return _flow_of(channels)


def _open(library: Any, data: bytes, *, header_only: bool) -> Any:
    # In this thread: a pool of its own outlives a fork, and so hangs in worker processes.
    return library.File(io.BytesIO(data), separate_channels=True, header_only=header_only, num_threads=0)


def _check_headers(headers: list[dict[str, Any]], stored: int) -> None:
    claimed = 0
    for header in headers:
        (left, top), (right, bottom) = ([int(side) for side in corner] for corner in header["dataWindow"])
        check_size(right - left + 1, bottom - top + 1)
        if any(channel.xSampling != 1 or channel.ySampling != 1 for channel in header["channels"]):
            raise ValueError("it has subsampled channels")
        window = [[int(side) for side in corner] for corner in header["displayWindow"]]
        if window != [[left, top], [right, bottom]]:
            raise ValueError(
                "its data window is not its display window, expected an image without crop or overscan"
            )
        claimed += len(header["channels"]) * _SAMPLE_BYTES * (right - left + 1) * (bottom - top + 1)
    check_compressed(claimed, stored, _LIMIT)


def _flow_of(channels: dict[str, Any]) -> tuple[Flow, Mask]:
    if _U in channels and _V in channels:
        planes, signs = [channels[_U], channels[_V]], (1, -1)
    else:
        layers = [name.removesuffix(_BLENDER_U) for name in channels if name.endswith(_BLENDER_U)]
        layers = [layer for layer in layers if layer + _BLENDER_V in channels]
        if len(layers) != 1:
            found = ", ".join(sorted(channels)) or "none"
            raise ValueError(
                f"expected the channels {_U} and {_V}, or one {_BLENDER_U} and {_BLENDER_V}; found {found}"
            )
        planes, signs = [channels[layers[0] + _BLENDER_U], channels[layers[0] + _BLENDER_V]], (-1, 1)
    if any(plane.ndim != 2 or plane.dtype.kind != "f" or plane.shape != planes[0].shape for plane in planes):
        raise ValueError("its motion channels are not two floating-point planes of one size")
    flow, finite = finite_or_unknown(
        np.stack([sign * plane for sign, plane in zip(signs, planes, strict=True)], -1)
    )
    valid = finite
    if _VALID in channels and signs == (1, -1):
        if channels[_VALID].shape != finite.shape:
            raise ValueError(f"{_VALID} has another size than the flow")
        valid = finite & (channels[_VALID] > 0.5)
    return np.where(valid[..., None], flow, np.float32(0)), valid


def _encode(flow: Flow, valid: Mask) -> bytes:
    import OpenEXR

    channels = {_U: np.ascontiguousarray(flow[..., 0]), _V: -flow[..., 1]}
    if not valid.all():
        channels[_VALID] = valid.astype(np.float32)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    buffer = io.BytesIO()
    OpenEXR.File(header, channels, num_threads=0).write(buffer)
    return buffer.getvalue()


EXR = FlowFormat(
    "exr",
    ".exr",
    "OpenEXR motion file",
    "OpenEXR motion vectors, exact: `forward.u` and `forward.v`, which points **up** (Nuke); Blender's "
    "vector pass is read too; needs `pip install 'deqflow[exr]'`",
    "`forward.valid` is 0",
    _decode,
    _encode,
    extra="exr",
)
