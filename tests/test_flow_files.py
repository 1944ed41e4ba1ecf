"""Flow files of every format: exact round trips, published layouts, every bad file as one clear error."""

import io
import itertools
import os
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import cv2
import fuzz_flow_files
import h5py
import numpy as np
import OpenEXR
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deqflow.errors import FlowClippedWarning, FlowFileError
from deqflow.io import FLOW_FORMATS, read_flow, write_flow, write_image

EXACT = [suffix for suffix in FLOW_FORMATS if suffix != ".png"]
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
SMALL = np.arange(24, dtype=np.float32).reshape(3, 4, 2) - 7.25


@st.composite
def flows(draw: st.DrawFn, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Flow and validity of one small size; -0 and denormals included."""
    shape = draw(SHAPES)
    flow = draw(hnp.arrays(np.float32, (*shape, 2), elements=st.floats(-limit, limit, width=32)))
    return flow, draw(hnp.arrays(bool, shape))


def read_bytes(folder: Path, suffix: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    path = folder / f"given{suffix}"
    path.write_bytes(data)
    return read_flow(path)


def refused(folder: Path, suffix: str, data: bytes, message: str) -> None:
    with pytest.raises(FlowFileError, match=message) as caught:
        read_bytes(folder, suffix, data)
    assert f"given{suffix}" in str(caught.value)
    assert "\n" not in str(caught.value)


class TestRoundTrips:
    @pytest.mark.parametrize("suffix", EXACT)
    @given(drawn=flows(1e9))
    def test_is_exact_to_the_bit(
        self, suffix: str, drawn: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        flow, valid = drawn
        path = tmp_path_factory.mktemp("flow") / f"a{suffix}"
        write_flow(path, flow, valid)
        read, known = read_flow(path)
        assert np.array_equal(known, valid)
        assert read.dtype == np.float32
        expected = np.where(valid[..., None], flow, np.float32(0))
        assert np.array_equal(read.view(np.uint32), expected.view(np.uint32))
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    @given(drawn=flows(511.9375))
    def test_kitti_is_within_half_a_step(
        self, drawn: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        flow, valid = drawn
        path = tmp_path_factory.mktemp("kitti") / "a.png"
        write_flow(path, flow, valid)
        read, known = read_flow(path)
        assert np.array_equal(known, valid)
        assert np.abs(read - np.where(valid[..., None], flow, 0)).max() <= 1 / 128

    def test_every_value_of_kitti_is_exact(self, tmp_path: Path) -> None:
        steps = np.arange(-(2**15), 2**15, dtype=np.float32).reshape(256, 256) / 64
        flow = np.stack([steps, steps[::-1]], -1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_flow(tmp_path / "a.png", flow)
        read, valid = read_flow(tmp_path / "a.png")
        assert np.array_equal(read, flow)
        assert valid.all()

    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    def test_what_is_not_known_may_be_anything(self, tmp_path: Path, suffix: str) -> None:
        flow, valid = SMALL.copy(), np.ones((3, 4), bool)
        flow[0, 0], flow[1, 1], flow[2, 3] = np.nan, np.inf, 1e30
        valid[0, 0] = valid[1, 1] = valid[2, 3] = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_flow(tmp_path / f"a{suffix}", flow, valid)
        read, known = read_flow(tmp_path / f"a{suffix}")
        assert np.array_equal(known, valid)
        assert np.array_equal(read, np.where(valid[..., None], SMALL, 0))

    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    def test_strided_and_double_precision_arrays(self, tmp_path: Path, suffix: str) -> None:
        for flow in (SMALL.astype(np.float64), np.asfortranarray(SMALL), SMALL[::-1][::-1], SMALL.tolist()):
            write_flow(tmp_path / f"A{suffix.upper()}", flow)  # type: ignore[arg-type]
            assert np.array_equal(read_flow(tmp_path / f"A{suffix.upper()}")[0], SMALL)


class TestLayouts:
    """What other programs write and read, byte by byte or through their own library."""

    def test_flo(self, tmp_path: Path) -> None:
        data = struct.pack("<fii", 202021.25, 5, 1)
        data += struct.pack("<10f", 1, 2, -3, 1e10, float("nan"), 0, 1e9, -1e9, float("-inf"), 1)
        flow, valid = read_bytes(tmp_path, ".flo", data)
        assert valid.tolist() == [[True, False, False, True, False]]
        assert flow.tolist() == [[[1, 2], [0, 0], [0, 0], [1e9, -1e9], [0, 0]]]

    def test_flo5_is_what_spring_writes_and_reads(self, tmp_path: Path) -> None:
        values = SMALL.copy()
        values[0, 1, 0], values[2, 2, 1] = np.nan, np.inf
        with h5py.File(tmp_path / "a.flo5", "w") as file:
            file.create_dataset("flow", data=values, compression="gzip", compression_opts=5)
        flow, valid = read_flow(tmp_path / "a.flo5")
        assert np.argwhere(~valid).tolist() == [[0, 1], [2, 2]]
        assert np.array_equal(flow[valid], SMALL[valid])
        write_flow(tmp_path / "b.flo5", flow, valid)
        with h5py.File(tmp_path / "b.flo5") as file:
            assert (file["flow"].dtype, file["flow"].compression) == (np.float32, "gzip")
            assert np.array_equal(np.isnan(file["flow"][()]).all(-1), ~valid)

    @pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
    def test_flo5_of_other_precision_or_layout(self, tmp_path: Path, dtype: str) -> None:
        for number, layout in enumerate(({}, {"chunks": (2, 3, 1)}, {"shuffle": True, "fletcher32": True})):
            with h5py.File(tmp_path / f"{number}.flo5", "w", libver="latest") as file:
                file.create_dataset("flow", data=SMALL.astype(dtype), **layout)
            assert np.array_equal(read_flow(tmp_path / f"{number}.flo5")[0], SMALL)

    @pytest.mark.parametrize(("scale", "dtype"), [("-1.0", "<f4"), ("1", ">f4"), ("-0.5e1", "<f4")])
    @pytest.mark.parametrize("separator", ["\n", " ", "\r\n"])
    def test_pfm(self, tmp_path: Path, scale: str, dtype: str, separator: str) -> None:
        three = np.dstack([SMALL, np.full((3, 4), 99, np.float32)])
        data = separator.join(["PF", "4 3", scale]).encode() + b"\n" + three[::-1].astype(dtype).tobytes()
        assert np.array_equal(read_bytes(tmp_path, ".pfm", data)[0], SMALL)

    def test_pfm_is_what_others_read(self, tmp_path: Path) -> None:
        write_flow(tmp_path / "a.pfm", SMALL)
        read = cv2.imread(str(tmp_path / "a.pfm"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(read[..., ::-1], np.dstack([SMALL, np.zeros((3, 4), np.float32)]))

    def test_kitti_png(self, tmp_path: Path) -> None:
        image = np.zeros((1, 3, 3), np.uint16)
        image[0, 0] = (1, 2**15 + 64, 2**15 - 1)  # blue, green, red
        image[0, 1] = (0, 5, 5)
        image[0, 2] = (1, 0, 2**16 - 1)
        flow, valid = read_bytes(tmp_path, ".png", cv2.imencode(".png", image)[1].tobytes())
        assert valid.tolist() == [[True, False, True]]
        assert flow.tolist() == [[[-1 / 64, 1], [0, 0], [32767 / 64, -512]]]
        write_flow(tmp_path / "b.png", flow, valid)
        written = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written[valid], image[valid])
        assert not written[~valid].any()

    @pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_npy_and_npz_of_others(self, tmp_path: Path, dtype: str, order: str) -> None:
        values = SMALL.astype(dtype, order=order)  # type: ignore[call-overload]
        values[1, 1, 0] = np.nan
        known = np.ones((3, 4), bool)
        known[1, 1] = False
        np.save(tmp_path / "a.npy", values)
        np.savez(tmp_path / "a.npz", flow=values)
        np.savez_compressed(tmp_path / "b.npz", flow=values, valid=known, camera=np.eye(3))
        for name in ("a.npy", "a.npz", "b.npz"):
            flow, valid = read_flow(tmp_path / name)
            assert np.array_equal(valid, known)
            assert np.array_equal(flow[valid], SMALL[valid])

    @pytest.mark.parametrize("dtype", ["u1", "i4", ">u2", "f4", "f8"])
    @pytest.mark.parametrize("on", [1, 255])
    def test_npz_whose_valid_is_of_another_type(self, tmp_path: Path, dtype: str, on: int) -> None:
        known = np.eye(3, 4) == 0
        np.savez(tmp_path / "a.npz", flow=SMALL, valid=(on * known).astype(dtype))
        flow, valid = read_flow(tmp_path / "a.npz")
        assert np.array_equal(valid, known) and valid.dtype == np.bool_
        assert np.array_equal(flow[valid], SMALL[valid])

    def test_npy_and_npz_are_what_numpy_reads(self, tmp_path: Path) -> None:
        valid = np.eye(3, 4) == 0
        for suffix in (".npy", ".npz"):
            write_flow(tmp_path / f"a{suffix}", SMALL, valid)
        assert np.array_equal(np.isnan(np.load(tmp_path / "a.npy")).all(-1), ~valid)
        with np.load(tmp_path / "a.npz") as archive:
            assert np.array_equal(archive["flow"][valid], SMALL[valid])
            assert np.array_equal(archive["valid"], valid)

    def test_exr_points_up_as_in_nuke(self, tmp_path: Path) -> None:
        write_flow(tmp_path / "a.exr", SMALL)
        with OpenEXR.File(str(tmp_path / "a.exr"), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
        assert sorted(channels) == ["forward.u", "forward.v"]
        assert np.array_equal(channels["forward.u"], SMALL[..., 0])
        assert np.array_equal(channels["forward.v"], -SMALL[..., 1])

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    @pytest.mark.parametrize("layer", ["", "ViewLayer."])
    def test_exr_from_blender(self, tmp_path: Path, dtype: type, layer: str) -> None:
        # A point that moves right and down: x and this frame's place minus the next one's fall, y (up) rises.
        pass_ = {
            "X": 0 * SMALL[..., 0] + 9,
            "Y": 0 * SMALL[..., 0] + 9,
            "Z": -SMALL[..., 0],
            "W": SMALL[..., 1],
        }
        channels = {f"{layer}Vector.{name}": plane.astype(dtype) for name, plane in pass_.items()}
        channels |= {f"{layer}Combined.{name}": pass_["X"].astype(dtype) for name in "RGBA"}
        OpenEXR.File({"compression": OpenEXR.PIZ_COMPRESSION}, channels).write(str(tmp_path / "a.exr"))
        flow, valid = read_flow(tmp_path / "a.exr")
        assert np.array_equal(flow, SMALL)
        assert valid.all()

    def test_exr_of_several_parts(self, tmp_path: Path) -> None:
        plane = SMALL[..., 0].copy()
        parts = [
            OpenEXR.Part({"name": "rgb"}, {"R": plane, "G": plane}),
            OpenEXR.Part({"name": "forward"}, {"forward.u": plane, "forward.v": plane}),
        ]
        OpenEXR.File(parts).write(str(tmp_path / "a.exr"))
        assert np.array_equal(read_flow(tmp_path / "a.exr")[0], np.stack([plane, -plane], -1))

    def test_equal_values_at_full_size(self, tmp_path: Path) -> None:
        # They compress better than anything else: no check of sizes may take them for a bomb.
        for suffix in FLOW_FORMATS:
            write_flow(tmp_path / f"a{suffix}", np.zeros((1080, 1920, 2), np.float32))
            assert read_flow(tmp_path / f"a{suffix}")[1].all()
        for name, dtype in itertools.product(("ZIP", "DWAB", "PXR24"), (np.float16, np.float32)):
            plane = np.zeros((1080, 1920), dtype)
            header = {"compression": getattr(OpenEXR, f"{name}_COMPRESSION")}
            OpenEXR.File(header, {"forward.u": plane, "forward.v": plane}).write(str(tmp_path / "a.exr"))
            assert read_flow(tmp_path / "a.exr")[0].shape == (1080, 1920, 2)

    def test_real_ground_truth(self, shared_benchmark: Path) -> None:
        for pattern in ("**/flow_occ/*.png", "**/*.flo"):
            flow, valid = read_flow(next(iter(sorted(shared_benchmark.glob(pattern)))))
            assert np.isfinite(flow).all()
            assert 0 < np.hypot(*np.moveaxis(flow[valid], -1, 0)).mean() < 200


class TestWriting:
    def test_kitti_clips_and_counts(self, tmp_path: Path) -> None:
        flow = np.zeros((4, 5, 2), np.float32)
        flow[0, 0, 0], flow[1, 1], flow[2, 2, 1], flow[3, 3] = 512, (-513, 1e6), -512, 1e9
        valid = np.ones((4, 5), bool)
        valid[3, 3] = False
        with pytest.warns(FlowClippedWarning, match=r"a\.png: 2 of 20 pixels were clipped.*512.*\.flo"):
            write_flow(tmp_path / "a.png", flow, valid)
        read, known = read_flow(tmp_path / "a.png")
        largest = 32767 / 64
        assert np.array_equal(known, valid)
        assert [read[0, 0].tolist(), read[1, 1].tolist()] == [[largest, 0], [-512, largest]]
        assert read[2, 2].tolist() == [0, -512]

    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    @pytest.mark.parametrize(
        ("flow", "valid", "message"),
        [
            (np.full((4, 5, 2), np.nan), None, "NaN"),
            (np.full((4, 5, 2), 1e300), None, "infinite"),
            (np.zeros((4, 5)), None, "shape"),
            (np.zeros((0, 5, 2)), None, "shape"),
            (np.zeros((4, 5, 2)), np.ones((5, 4), bool), "valid has shape"),
        ],
    )
    def test_what_is_no_flow(
        self, tmp_path: Path, suffix: str, flow: np.ndarray, valid: np.ndarray | None, message: str
    ) -> None:
        with pytest.raises(FlowFileError, match=message):
            write_flow(tmp_path / f"a{suffix}", flow, valid)
        assert not list(tmp_path.iterdir())

    def test_flo_cannot_hold_what_means_unknown(self, tmp_path: Path) -> None:
        with pytest.raises(FlowFileError, match="unknown"):
            write_flow(tmp_path / "a.flo", np.full((4, 5, 2), 2e9))

    @pytest.mark.parametrize(("suffix", "module"), [(".flo5", "h5py"), (".exr", "OpenEXR")])
    def test_a_missing_library_is_named(
        self, tmp_path: Path, suffix: str, module: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_flow(tmp_path / f"a{suffix}", SMALL)
        monkeypatch.setitem(sys.modules, module, None)
        for act in (lambda: read_flow(tmp_path / f"a{suffix}"), lambda: write_flow(f"a{suffix}", SMALL)):
            with pytest.raises(FlowFileError, match=rf"{module}.*deqflow\[{suffix[1:]}\]"):
                act()


class TestBadFiles:
    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    def test_truncated_at_any_byte(self, tmp_path: Path, suffix: str) -> None:
        write_flow(tmp_path / f"a{suffix}", SMALL)
        whole = (tmp_path / f"a{suffix}").read_bytes()
        last = len(whole)
        # HDF5 and zip files are long: every byte of both ends, some between.
        lengths = sorted({*range(min(last, 150)), *range(0, last, 37), *range(max(0, last - 60), last)})
        for length in lengths:
            refused(tmp_path, suffix, whole[:length], rf"given\{suffix} is not a usable")

    @pytest.mark.parametrize("suffix", [".flo", ".pfm", ".npy", ".png"])
    def test_trailing_bytes(self, tmp_path: Path, suffix: str) -> None:
        write_flow(tmp_path / f"a{suffix}", SMALL)
        refused(
            tmp_path, suffix, (tmp_path / f"a{suffix}").read_bytes() + b"\n", r"bytes, but has|1 bytes after"
        )

    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    def test_something_else(self, tmp_path: Path, suffix: str) -> None:
        for data in (b"", b"\n", b"P", b"hello world, this is no flow\n" * 9, bytes(4096)):
            refused(tmp_path, suffix, data, "is not a usable")
        with pytest.raises(FlowFileError, match="missing"):
            read_flow(tmp_path / f"missing{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(FlowFileError, match="directory"):
            read_flow(tmp_path / f"folder{suffix}")

    def test_unknown_suffix(self) -> None:
        with pytest.raises(FlowFileError, match=r"\.flo, \.png, \.flo5, \.pfm, \.npy, \.npz, \.exr"):
            read_flow("flow.xyz")

    @pytest.mark.parametrize("size", [(-1, 4), (4, -1), (0, 3), (2**31 - 1, 2**31 - 1), (65536, 65536)])
    def test_flo_of_an_impossible_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        refused(tmp_path, ".flo", b"PIEH" + struct.pack("<ii", *size) + bytes(96), "says .* pixels")

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"Pf\n4 3\n-1\n", "one channel"),
            (b"PF\n-4 3\n-1\n", "does not begin"),
            (b"PF\n0 3\n-1\n", "says 0x3"),
            (b"PF\n9999999999 9999999999\n-1\n", "says 9999999999x9999999999"),
            (b"PF\n4 3\n0\n", "scale"),
            (b"PF\n4 3\n-1e999\n", "scale"),
            (b"PF\n4 3\nnan\n", "does not begin"),
            (b"PF\n4 3\n-+1\n", "."),
        ],
    )
    def test_pfm_headers(self, tmp_path: Path, header: bytes, message: str) -> None:
        refused(tmp_path, ".pfm", header + bytes(12 * 12), message)

    def test_infinite_values(self, tmp_path: Path) -> None:
        values = SMALL.copy()
        values[1, 1, 1] = np.inf
        rows = np.dstack([values, values[..., :1]])[::-1].tobytes()
        refused(tmp_path, ".pfm", b"PF\n4 3\n-1\n" + rows, "infinite")
        for array in (values, SMALL.astype(np.float64) * 1e300):
            buffer = io.BytesIO()
            np.save(buffer, array)
            refused(tmp_path, ".npy", buffer.getvalue(), "infinite")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 4)), "shape"),
            (np.zeros((3, 4, 3)), "shape"),
            (np.zeros((0, 4, 2)), "shape"),
            (np.zeros((3, 4, 2), int), "floating"),
            (np.zeros((3, 4, 2), complex), "floating"),
            (np.array([{}]), "object"),
            (np.zeros((3, 4), [("u", "f4"), ("v", "f4")]), "floating"),
        ],
    )
    def test_arrays_that_are_no_flow(self, tmp_path: Path, array: np.ndarray, message: str) -> None:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        refused(tmp_path, ".npy", (tmp_path / "a.npy").read_bytes(), message)
        np.savez(tmp_path / "a.npz", flow=array)
        refused(tmp_path, ".npz", (tmp_path / "a.npz").read_bytes(), message)

    def test_npz_that_contradicts_itself(self, tmp_path: Path) -> None:
        hole = SMALL.copy()
        hole[0, 0] = np.nan
        known = np.ones((3, 4), bool)
        for members, message in (
            ({"u": SMALL}, "one member 'flow'"),
            ({"flow": SMALL, "valid": known.T}, r"'valid' has shape \(4, 3\), expected \(3, 4\)"),
            ({"flow": SMALL, "valid": known.astype(str)}, "expected integers or"),
            ({"flow": hole, "valid": known}, "NaN at pixels"),
        ):
            np.savez(tmp_path / "a.npz", **members)  # type: ignore[arg-type]
            refused(tmp_path, ".npz", (tmp_path / "a.npz").read_bytes(), message)

    def test_pngs_that_are_no_flow(self, tmp_path: Path) -> None:
        rgb = np.zeros((20, 24, 3), np.uint8)
        for image in (rgb, rgb.astype(np.uint16)[..., 0], np.zeros((20, 24, 4), np.uint16)):
            refused(tmp_path, ".png", cv2.imencode(".png", image)[1].tobytes(), "16 bits in three channels")
        write_image(tmp_path / "photo.jpg", rgb)
        refused(tmp_path, ".png", (tmp_path / "photo.jpg").read_bytes(), "not a PNG")

    @pytest.mark.parametrize(
        ("channels", "message"),
        [
            ({"R": np.float32, "G": np.float32}, "found G, R"),
            ({"forward.u": np.float32}, "found forward.u"),
            ({"forward.u": np.uint32, "forward.v": np.uint32}, "floating-point"),
            ({f"{a}.Vector.{z}": np.float32 for a, z in itertools.product("AB", "ZW")}, "one Vector.Z"),
        ],
    )
    def test_exrs_that_are_no_flow(self, tmp_path: Path, channels: dict[str, type], message: str) -> None:
        planes = {name: np.ones((3, 4), dtype) for name, dtype in channels.items()}
        OpenEXR.File({}, planes).write(str(tmp_path / "a.exr"))
        refused(tmp_path, ".exr", (tmp_path / "a.exr").read_bytes(), message)

    @pytest.mark.parametrize("name", ["NO", "ZIP", "PIZ", "PXR24", "DWAA"])
    def test_exr_that_is_damaged(self, tmp_path: Path, name: str) -> None:
        plane = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
        header = {"compression": getattr(OpenEXR, f"{name}_COMPRESSION")}
        OpenEXR.File(header, {"forward.u": plane, "forward.v": plane}).write(str(tmp_path / "a.exr"))
        data = (tmp_path / "a.exr").read_bytes()
        refused(tmp_path, ".exr", data[:-20], "damaged or cut short")

    def test_exr_with_overscan(self, tmp_path: Path) -> None:
        window = (np.array([0, 0], np.int32), np.array([1, 1], np.int32))
        plane = np.ones((3, 4), np.float32)
        OpenEXR.File({"displayWindow": window}, {"forward.u": plane, "forward.v": plane}).write(
            str(tmp_path / "a.exr")
        )
        refused(tmp_path, ".exr", (tmp_path / "a.exr").read_bytes(), "display window")


class TestClaims:
    """No file makes us allocate, run or open anything by what it says of itself."""

    @pytest.mark.parametrize("side", [2**14, 2**20, 2**30])
    def test_png(self, tmp_path: Path, side: int) -> None:
        write_flow(tmp_path / "a.png", SMALL)
        data = bytearray((tmp_path / "a.png").read_bytes())
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        refused(tmp_path, ".png", bytes(data), "bytes|pixels")

    @pytest.mark.parametrize(
        "shape", [(2**40, 2**40, 2), (30000, 30000, 2), (-3, 4, 2), ("x",), (True, 4, 2)]
    )
    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_arrays(self, tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(96)
        if suffix == ".npz":
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.writestr("flow.npy", data)
            data = buffer.getvalue()
        refused(tmp_path, suffix, data, "it (says|is no|holds)")

    def test_zip_bombs(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
            archive.writestr("flow.npy", bytes(2**24))
        refused(tmp_path, ".npz", buffer.getvalue(), "packed in a way")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("flow.npy", bytes(2**20))
        data = bytearray(buffer.getvalue())
        entry = data.rindex(b"PK\x01\x02")
        data[entry + 24 : entry + 28] = struct.pack("<I", 2**31)  # the size unpacked
        refused(tmp_path, ".npz", bytes(data), "claims")

    def test_hdf5_that_is_mostly_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / "a.flo5"
        for layout in (
            {"shape": (2**13, 2**13, 2), "chunks": (64, 64, 2)},  # no chunk was ever written
            {"shape": (2**13, 2**13, 2)},
            {"shape": (2**30, 2**30, 2), "chunks": (64, 64, 2)},
            {"shape": (3, 4, 2), "maxshape": (None, None, 2), "chunks": (2**13, 2**13, 2)},
        ):
            with h5py.File(path, "w") as file:
                file.create_dataset("flow", dtype="f4", **layout)
            refused(tmp_path, ".flo5", path.read_bytes(), "claims|says")

    def test_hdf5_packed_twice_or_otherwise(self, tmp_path: Path) -> None:
        path = tmp_path / "a.flo5"
        for options in ({"scaleoffset": 3}, {"compression": "lzf"}):
            with h5py.File(path, "w") as file:
                file.create_dataset("flow", data=SMALL, **options)
            refused(tmp_path, ".flo5", path.read_bytes(), "packed otherwise")
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk(SMALL.shape)
        plan.set_deflate(5)
        plan.set_deflate(5)
        with h5py.File(path, "w") as file:
            space = h5py.h5s.create_simple(SMALL.shape)
            h5py.h5d.create(file.id, b"flow", h5py.h5t.IEEE_F32LE, space, plan)
        refused(tmp_path, ".flo5", path.read_bytes(), "packed otherwise")

    def test_hdf5_never_reads_another_file(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret.h5"
        with h5py.File(secret, "w") as file:
            file.create_dataset("flow", data=SMALL)
        (tmp_path / "secret.raw").write_bytes(SMALL.tobytes())
        virtual = h5py.VirtualLayout(SMALL.shape, np.float32)
        virtual[:] = h5py.VirtualSource(str(secret), "flow", SMALL.shape)
        raw = [(str(tmp_path / "secret.raw"), 0, SMALL.nbytes)]
        path = tmp_path / "a.flo5"
        for kind in ("external link", "soft link", "virtual", "raw", "group", "type"):
            with h5py.File(path, "w") as file:
                if kind == "external link":
                    file["flow"] = h5py.ExternalLink(str(secret), "flow")
                elif kind == "soft link":
                    file["flow"] = h5py.SoftLink("/other")
                elif kind == "virtual":
                    file.create_virtual_dataset("flow", virtual)
                elif kind == "raw":
                    file.create_dataset("flow", SMALL.shape, "f4", external=raw)
                elif kind == "group":
                    file.create_group("flow")
                else:
                    file["flow"] = np.dtype("f4")
            refused(tmp_path, ".flo5", path.read_bytes(), "of its own|other files|not a dataset")

    @pytest.mark.parametrize("size", [(2**14, 2**14), (2**31 - 1, 2**31 - 1), (0, 0), (2**14, 2**12)])
    def test_exr(self, tmp_path: Path, size: tuple[int, int]) -> None:
        write_flow(tmp_path / "a.exr", SMALL)
        data = (tmp_path / "a.exr").read_bytes()
        window = struct.pack("<4i", 0, 0, 3, 2)
        assert data.count(window) == 2
        claimed = struct.pack("<4i", 0, 0, size[0] - 1, size[1] - 1)
        refused(tmp_path, ".exr", data.replace(window, claimed), "claims|says|cannot read")


class TestFuzz:
    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    def test_a_few_hundred_mutations(self, suffix: str) -> None:
        outcome = fuzz_flow_files.fuzz(suffix, range(300))
        assert outcome.refused > 100
        assert outcome.read + outcome.refused == 300

    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    def test_100000_mutations(self, suffix: str) -> None:
        # In a process of its own: a crash in a C library is then a failure that names its input. The seven
        # formats share the number evenly; `count` is a little more than 100,000 / 7.
        command = [sys.executable, fuzz_flow_files.__file__, suffix, "--first", "300", "--count", "14300"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        last = done.stdout.splitlines()[-1]  # the number of the last input, or the outcome
        assert done.returncode == 0, f"at {last}: {done.stderr}"
        assert last.startswith(f"{suffix}: ")
