"""Mutates valid flow files and reads them: `python tests/fuzz_flow_files.py .flo5 --first 0 --count 100000`.

Whatever the bytes, `read_flow` returns a flow or raises FlowFileError. Each input follows from its number
alone; the script says which number it was when another exception, a crash of a C library or a hang ends it.
"""

import argparse
import contextlib
import faulthandler
import io
import random
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import OpenEXR

from deqflow.errors import FlowFileError
from deqflow.io import FLOW_FORMATS, read_flow, write_flow

SECONDS = 20
"""After this long an input counts as a hang."""

MEMORY = 4 << 30
"""Of the script's process: no input may come near what its header claims."""

INTERESTING = tuple(
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, values in (("i", (-1, 0, 1, 2**31 - 1, -(2**31))), ("q", (-1, 0, 1, 2**40, 2**63 - 1)))
    for value in values
)


@dataclass
class Outcome:
    """How many inputs were read as a flow all the same, and how many refused."""

    read: int = 0
    refused: int = 0


def fuzz(suffix: str, numbers: Iterable[int], log: Callable[[int], None] = lambda number: None) -> Outcome:
    """Reads the mutations of these numbers; any exception but FlowFileError passes through."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, about the literal in a broken NumPy header
        path = Path(folder, f"mutated{suffix}")
        for number in numbers:
            log(number)
            path.unlink(missing_ok=True)  # a file that is cut and written anew waits for the disk on ext4
            path.write_bytes(mutation(suffix, number))
            try:
                flow, valid = read_flow(path)
            except FlowFileError as error:
                assert str(path) in str(error)
                outcome.refused += 1
                continue
            assert flow.dtype == np.float32 and flow.shape == (*valid.shape, 2) and valid.dtype == bool
            assert np.isfinite(flow).all() and not flow[~valid].any()
            outcome.read += 1
    return outcome


def mutation(suffix: str, number: int) -> bytes:
    """The mutated file of a number: a valid one with some bytes changed, cut, repeated or put in."""
    random_ = random.Random(f"{suffix} {number}")
    if suffix == ".npz" and random_.random() < 0.5:
        buffer = io.BytesIO()  # an archive that is whole, around a broken array
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("flow.npy", mutation(".npy", number))
        return buffer.getvalue()
    data = bytearray(random_.choice(valid_files(suffix)))
    # Half of all hits go to the head of the file, where the format says what follows.
    head = random_.choice((32, 128, 1024))
    for _ in range(random_.choice((1, 1, 1, 2, 3, 8, 32))):
        if not data:
            break
        place = random_.randrange(min(len(data), head) if random_.random() < 0.5 else len(data))
        length = random_.choice((1, 2, 4, 8, 64))
        match random_.randrange(8):
            case 0:
                data[place] ^= 1 << random_.randrange(8)
            case 1:
                data[place] = random_.randrange(256)
            case 2:
                value = random_.choice(INTERESTING)
                data[place : place + len(value)] = value
            case 3:
                value = struct.pack(random_.choice("<>") + "i", random_.randrange(-(2**31), 2**31))
                data[place : place + 4] = value
            case 4:
                del data[place : place + length]
            case 5:
                data[place:place] = random_.randbytes(length)
            case 6:
                data[place:place] = data[place : place + length]
            case _ if random_.random() < 0.3:
                del data[place:]
    return _with_checksums(data) if suffix == ".png" and random_.random() < 0.8 else bytes(data)


@cache
def valid_files(suffix: str) -> list[bytes]:
    """Valid files of a format, of as many layouts as other programs write."""
    generator = np.random.default_rng(0)
    flow = generator.normal(0, 9, (7, 6, 2)).astype(np.float32)
    valid = generator.random((7, 6)) < 0.8
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        files = []
        for mask in (np.ones_like(valid), valid):
            write_flow(path, flow, mask)
            files.append(path.read_bytes())
    if suffix == ".flo5":
        layouts: list[dict[str, object]] = [{}, {"chunks": (3, 4, 2), "shuffle": True}, {"fletcher32": True}]
        for version, layout in [(v, layout) for v in ("earliest", "latest") for layout in layouts]:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w", libver=version) as file:
                file.create_dataset("flow", data=flow, compression="gzip" if layout else None, **layout)
            files.append(buffer.getvalue())
    if suffix == ".exr":
        planes = {"forward.u": flow[..., 0].copy(), "forward.v": flow[..., 1].copy()}
        kinds = [OpenEXR.scanlineimage, OpenEXR.tiledimage]
        for name in ("NO", "RLE", "ZIPS", "PIZ", "PXR24", "B44", "DWAA"):
            for kind in kinds:
                header = {"compression": getattr(OpenEXR, f"{name}_COMPRESSION"), "type": kind}
                if kind is OpenEXR.tiledimage:
                    header["tiles"] = OpenEXR.TileDescription()
                with contextlib.suppress(RuntimeError, ValueError):
                    buffer = io.BytesIO()
                    OpenEXR.File(header, planes).write(buffer)
                    files.append(buffer.getvalue())
        parts = [OpenEXR.Part({"name": name}, planes) for name in ("one", "two")]
        buffer = io.BytesIO()
        OpenEXR.File(parts).write(buffer)
        files.append(buffer.getvalue())
    if suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, flow=flow, valid=valid)
        files.append(buffer.getvalue())
    if suffix == ".npy":
        for array in (flow.astype(">f8"), np.asfortranarray(flow)):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=(2, 0))
            files.append(buffer.getvalue())
    return files


def _with_checksums(data: bytearray) -> bytes:
    """A PNG whose chunks carry the right checksums again: else no mutation would reach past them."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)


def main() -> None:
    """Fuzzes one format and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suffix", choices=FLOW_FORMATS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    faulthandler.enable()

    def log(number: int) -> None:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        print(number, end="\r", flush=True)

    outcome = fuzz(options.suffix, range(options.first, options.first + options.count), log)
    print(f"{options.suffix}: {outcome.read} read, {outcome.refused} refused")


if __name__ == "__main__":
    main()
