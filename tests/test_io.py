"""Images and video: round trips, conversions, and every bad file as one clear error."""

import errno
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from deqflow.data.datasets.headers import pixel_size
from deqflow.errors import ConfigError, ImageError, VideoError, one_sentence
from deqflow.io import (
    VideoWriter,
    dequantize_flow,
    open_video,
    quantize_flow,
    read_image,
    shrink,
    to_rgb,
    write_image,
)
from deqflow.io.files import append_text, atomic_path, natural_key
from deqflow.io.frames import to_rgb_frames
from deqflow.io.images import ORIENTATION, read_mask

writes_avif = pytest.mark.skipif(not cv2.haveImageWriter("a.avif"), reason="this OpenCV writes no AVIF")
AVIF = pytest.param(".avif", marks=writes_avif)

RGB = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def moving_square(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    frames = []
    for index in range(count):
        frame = np.full((*size, 3), 40, np.uint8)
        frame[8:24, 4 + 2 * index : 20 + 2 * index] = (200, 60, 90)
        frames.append(frame)
    return frames


def write_video(path: Path, frames: list[np.ndarray], fps: float = 25) -> Path:
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


class TestArraysToRgb:
    def test_gray_is_repeated(self) -> None:
        for gray in (RGB[..., 0], RGB[..., :1]):
            assert np.array_equal(to_rgb(gray), np.repeat(RGB[..., :1], 3, 2))

    def test_rgba_is_blended_over_black(self) -> None:
        alpha = np.full((20, 24, 1), 255, np.uint8)
        assert np.array_equal(to_rgb(np.concatenate((RGB, alpha), 2)), RGB)
        assert not to_rgb(np.concatenate((RGB, 0 * alpha), 2)).any()

    def test_sixteen_bits_and_floats_are_scaled(self) -> None:
        assert np.array_equal(to_rgb(RGB.astype(np.uint16) * 257), RGB)
        for dtype in (np.float32, np.float64):
            assert np.array_equal(to_rgb(RGB.astype(dtype)), RGB)
            assert np.array_equal(to_rgb(RGB.astype(dtype) / 255), RGB)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.full((20, 20, 3), np.nan), "NaN"),
            (np.full((20, 20, 3), np.inf), "infinite"),
            (np.full((20, 20, 3), 1000.0), "0 to 255"),
            (np.full((20, 20, 3), -5.0), "0 to 255"),
            (np.zeros((15, 20, 3), np.uint8), "20x15 pixels, expected at least 16x16"),
            (np.zeros((3, 20, 20), np.uint8), "shape"),
            (np.zeros((20, 20, 2), np.uint8), "shape"),
            (np.zeros(20, np.uint8), "shape"),
            (np.zeros((20, 20, 3), np.int64), "int64"),
        ],
    )
    def test_bad_arrays_are_named(self, array: np.ndarray, message: str) -> None:
        with pytest.raises(ImageError, match=message) as caught:
            to_rgb(array, "the left frame")
        assert str(caught.value).startswith("the left frame")


class TestImageFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png", RGB)
        assert np.array_equal(read_image(tmp_path / "a.png"), RGB)
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    def test_sixteen_bit_gray_and_rgba_files(self, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "gray16.png"), RGB[..., 0].astype(np.uint16) * 257)
        assert np.array_equal(read_image(tmp_path / "gray16.png"), np.repeat(RGB[..., :1], 3, 2))
        rgba = np.dstack((RGB[..., ::-1], np.full(RGB.shape[:2], 255, np.uint8)))
        cv2.imwrite(str(tmp_path / "rgba.png"), rgba)
        assert np.array_equal(read_image(tmp_path / "rgba.png"), RGB)

    @pytest.mark.parametrize("magic", ["P5", "P6"])
    @pytest.mark.parametrize("maximum", [1, 100, 255, 1023, 4095, 65535])
    def test_pnm_is_scaled_by_its_own_maximum(self, tmp_path: Path, magic: str, maximum: int) -> None:
        image = RGB if magic == "P6" else RGB[..., :1]
        stored = np.rint(image / 255 * maximum).astype(">u2" if maximum > 255 else "u1")
        path = tmp_path / "frame.pnm"
        path.write_bytes(f"{magic}\n# a comment\n24 20\n{maximum}\n".encode() + stored.tobytes())
        expected = np.rint(np.rint(image / 255 * maximum) / maximum * 255)
        assert np.abs(read_image(path).astype(float) - expected).max() <= 1
        assert read_image(path).max() == (255 if maximum == 1 else pytest.approx(255, abs=3))

    @writes_avif
    @pytest.mark.parametrize("depth", [8, 10, 12])
    def test_avif_is_scaled_by_its_own_depth(self, tmp_path: Path, depth: int) -> None:
        smooth = cv2.resize(RGB[:3, :4], (64, 48), interpolation=cv2.INTER_LINEAR)
        stored = np.rint(smooth / 255 * (2**depth - 1)).astype(np.uint8 if depth == 8 else np.uint16)
        options = [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100]
        cv2.imwrite(str(tmp_path / "a.avif"), stored[..., ::-1], options)
        assert np.abs(read_image(tmp_path / "a.avif").astype(int) - smooth).mean() < 4

    @pytest.mark.parametrize("bytes_", [1, 2])
    def test_alpha_is_multiplied_once(self, tmp_path: Path, bytes_: int) -> None:
        alpha = np.random.default_rng(1).integers(0, 256, (20, 24, 1), dtype=np.uint8)
        expected = np.rint(RGB * (alpha / 255.0))
        rgba = np.concatenate((RGB, alpha), 2)
        for suffix in ("tiff", "png", "webp"):
            path = tmp_path / f"a.{suffix}"
            if bytes_ == 1:
                Image.fromarray(rgba).save(path, lossless=True, exact=True)
            elif suffix == "png":
                cv2.imwrite(str(path), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA).astype(np.uint16) * 257)
            else:
                continue
            assert np.abs(read_image(path) - expected).max() <= 1, suffix
        if bytes_ == 1:
            Image.fromarray(rgba[..., 2:]).save(tmp_path / "gray.tiff")
            assert np.abs(read_image(tmp_path / "gray.tiff") - expected[..., 2:]).max() <= 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", [".png", ".webp", ".avif", ".jpg", ".tiff"])
    def test_exif_orientation(self, tmp_path: Path, suffix: str, orientation: int) -> None:
        smooth = cv2.resize(RGB[:3, :4], (64, 48), interpolation=cv2.INTER_LINEAR)
        exif, path = Image.Exif(), tmp_path / f"a{suffix}"
        exif[ORIENTATION] = orientation
        Image.fromarray(smooth).save(path, exif=exif, quality=100)
        upright = {
            1: smooth,
            2: smooth[:, ::-1],
            3: smooth[::-1, ::-1],
            4: smooth[::-1],
            5: smooth.transpose(1, 0, 2),
            6: smooth.transpose(1, 0, 2)[:, ::-1],
            7: smooth.transpose(1, 0, 2)[::-1, ::-1],
            8: smooth.transpose(1, 0, 2)[::-1],
        }[orientation]
        image = read_image(path)
        assert image.shape == upright.shape
        assert np.abs(image.astype(int) - upright).mean() < 4
        assert pixel_size(path) == (upright.shape[1], upright.shape[0])

    @pytest.mark.parametrize("suffix", [".tiff", ".png"])
    def test_masks_keep_their_depth(self, tmp_path: Path, suffix: str) -> None:
        for name, values in {"u1": RGB[..., 0] % 2, "u2": (RGB[..., 0] % 2).astype(np.uint16)}.items():
            cv2.imwrite(str(tmp_path / f"{name}{suffix}"), values)
            assert np.array_equal(read_mask(tmp_path / f"{name}{suffix}"), values)

    def test_a_mask_in_the_colors_of_a_palette(self, tmp_path: Path) -> None:
        image = Image.fromarray(RGB[..., 0] % 2).convert("P")
        image.putpalette([0, 0, 0, 0, 0, 128])
        image.save(tmp_path / "a.png")
        assert np.array_equal(read_mask(tmp_path / "a.png"), RGB[..., 0] % 2 * 128)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp", ".ppm", AVIF, ".jp2"])
    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.6, 0.99])
    def test_truncated(
        self, tmp_path: Path, suffix: str, kept: float, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / f"cut{suffix}"
        write_image(path, np.tile(RGB, (4, 4, 1)))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(ImageError, match="cut short") as caught:
            read_image(path)
        assert str(path) in str(caught.value)
        assert capfd.readouterr() == ("", "")

    def test_missing_or_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"missing\.png"):
            read_image(tmp_path / "missing.png")
        with pytest.raises(ImageError, match="directory"):
            read_image(tmp_path)
        (tmp_path / "text.png").write_text("not an image")
        with pytest.raises(ImageError, match="not an image"):
            read_image(tmp_path / "text.png")

    def test_a_header_that_promises_billions_of_pixels(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.ppm", RGB)
        data = (tmp_path / "a.ppm").read_bytes().replace(b"24 20", b"99999 99999", 1)
        (tmp_path / "a.ppm").write_bytes(data)
        with pytest.raises(ImageError):
            read_image(tmp_path / "a.ppm")

    def test_unknown_suffix(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"\.xyz"):
            write_image(tmp_path / "a.xyz", RGB)

    def test_shrink_never_enlarges(self) -> None:
        assert shrink(RGB, 12).shape == (10, 12, 3)
        assert shrink(RGB, 100) is RGB
        assert shrink(RGB, None) is RGB

    def test_natural_order(self) -> None:
        names = ["f10.png", "f2.png", "F1.png", "7.png", "a.png"]
        ordered = sorted(map(Path, names), key=natural_key)
        assert [path.name for path in ordered] == ["7.png", "a.png", "F1.png", "f2.png", "f10.png"]


class TestVideo:
    def test_round_trip(self, tmp_path: Path) -> None:
        frames = moving_square(6)
        video = open_video(write_video(tmp_path / "a.mp4", frames, fps=12.5))
        assert (video.fps, video.size, video.frame_count) == (12.5, (48, 64), 6)
        for _ in range(2):  # a source can be read again
            read = list(video)
            assert len(read) == 6
            assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(read, frames, strict=True)) < 3

    def test_odd_sizes_become_even(self, tmp_path: Path) -> None:
        video = open_video(write_video(tmp_path / "a.mp4", moving_square(2, (47, 63))))
        assert video.size == (48, 64)

    def test_is_ordinary_h264_in_an_ordinary_mp4(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", moving_square(3))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 3)

    @pytest.mark.parametrize(
        ("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
    )
    def test_stored_rotation_is_applied(
        self, tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
    ) -> None:
        path = write_video(tmp_path / "a.mp4", moving_square(2))
        upright = next(iter(open_video(path)))
        data = bytearray(path.read_bytes())
        a, b, c, d = (value * 65536 for value in matrix)
        begin = data.rfind(b"tkhd") + 44  # the display matrix of the track header
        data[begin : begin + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
        path.write_bytes(data)
        video = open_video(path)
        frame = next(iter(video))
        assert np.array_equal(frame, np.rot90(upright, turns))
        assert video.size == frame.shape[:2]

    def test_image_sequences(self, tmp_path: Path) -> None:
        for index, frame in zip((9, 10, 11), moving_square(3), strict=True):
            write_image(tmp_path / f"f{index}.png", frame)
        (tmp_path / "notes.txt").write_text("not a frame")
        for source in (tmp_path, tmp_path / "f*.png", tmp_path / "f%d.png"):
            video = open_video(source, fps=10)
            assert (video.fps, video.frame_count) == (10, 3)
            assert all(np.array_equal(a, b) for a, b in zip(video, moving_square(3), strict=True))

    def test_frames_of_two_sizes(self, tmp_path: Path) -> None:
        write_image(tmp_path / "1.png", RGB)
        write_image(tmp_path / "2.png", RGB[:-1])
        with pytest.raises(VideoError, match=r"frame 2 .* 24x19 pixels, .* 24x20"):
            list(open_video(tmp_path))
        with VideoWriter(tmp_path / "a.mp4", 25) as writer:
            writer.write(RGB)
            with pytest.raises(VideoError, match="size"):
                writer.write(RGB[:10])

    def test_not_videos(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "text.mp4").write_text("not a video")
        (tmp_path / "empty.mp4").touch()
        whole = write_video(tmp_path / "whole.mp4", moving_square(3)).read_bytes()
        (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
        (tmp_path / "folder").mkdir()
        for name in ("text.mp4", "empty.mp4", "cut.mp4", "missing.mp4", "folder", "x*.png", "987"):
            source = name if name == "987" else tmp_path / name
            with pytest.raises(VideoError) as caught:
                open_video(source)
            assert name in str(caught.value)
        assert "Traceback" not in capfd.readouterr().err

    def test_frames_that_are_too_small(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", moving_square(2, (12, 64)))
        with pytest.raises(VideoError, match="64x12 pixels, expected at least 16x16"):
            open_video(path)
        with pytest.raises(VideoError, match="positive"):
            open_video(path, fps=0)

    def test_writer_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(VideoError, match=r"\.mp4"):
            VideoWriter(tmp_path / "a.avi", 25)
        with pytest.raises(VideoError, match="no_folder"):
            VideoWriter(tmp_path / "no_folder" / "a.mp4", 25)
        with VideoWriter(tmp_path / "a.mp4", 25) as writer, pytest.raises(VideoError, match="uint8"):
            writer.write(RGB.astype(np.float32))
        assert not (tmp_path / "a.mp4").exists()  # a video without frames is no video

    def test_an_exception_leaves_a_whole_file(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 25) as writer:
            for frame in moving_square(7):
                writer.write(frame)
            raise KeyboardInterrupt
        assert len(list(open_video(tmp_path / "a.mp4"))) == 7

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
    def test_a_killed_writer_leaves_a_file_that_plays(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        code = (
            "import os, signal, sys, numpy as np\n"
            "from deqflow.io import VideoWriter\n"
            "writer = VideoWriter(sys.argv[1], 10)\n"
            "for level in range(23):\n"
            "    writer.write(np.full((32, 32, 3), 10 * level, np.uint8))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False)
        assert len(list(open_video(path))) >= 20  # all but the last, unfinished half second


class TestFrames:
    """Inputs that people have, through the estimator's one adapter."""

    def test_every_kind_of_frame_is_the_same_frame(self, tmp_path: Path) -> None:
        write_image(tmp_path / "frame.png", RGB)
        tensor = torch.from_numpy(RGB).permute(2, 0, 1)
        kinds = [
            tmp_path / "frame.png",
            str(tmp_path / "frame.png"),
            RGB,
            RGB.astype(np.float32) / 255,
            tensor,
            tensor.float() / 255,
            tensor.double(),
            Image.fromarray(RGB),
            Image.fromarray(np.dstack((RGB, np.full(RGB.shape[:2], 255, np.uint8)))),
        ]
        for frame in to_rgb_frames(kinds[:3] + kinds[4:5] + kinds[7:], ["frame"] * 6):
            assert np.array_equal(frame, RGB)
        for kind in kinds:
            assert np.array_equal(to_rgb_frames([kind, kind], ["one", "two"])[1], RGB)
        gray = Image.fromarray(RGB[..., 0])
        assert np.array_equal(to_rgb_frames([gray], ["gray"])[0], np.repeat(RGB[..., :1], 3, 2))

    def test_a_pil_image_is_turned_upright(self) -> None:
        image = Image.fromarray(RGB)
        image.getexif()[ORIENTATION] = 6
        assert np.array_equal(to_rgb_frames([image], ["turned"])[0], np.rot90(RGB, -1))

    def test_the_range_of_a_pair_is_decided_together(self) -> None:
        dark = np.full((20, 24, 3), 0.9, np.float32)  # nearly black of 0..255, or bright of 0..1
        bright = np.full((20, 24, 3), 200.0, np.float32)
        assert to_rgb_frames([dark, bright], ["dark", "bright"])[0].max() == 1
        assert to_rgb_frames([dark, 0.5 * dark], ["dark", "darker"])[0].max() == 230

    def test_what_resizing_leaves_beyond_the_range_is_clipped(self) -> None:
        frame = np.linspace(-0.02, 1.02, 20 * 24 * 3, dtype=np.float32).reshape(20, 24, 3)
        (found,) = to_rgb_frames([frame], ["frame"])
        assert found.min() == 0 and found.max() == 255
        assert np.array_equal(found, np.rint(255 * frame.clip(0, 1)).astype(np.uint8))

    def test_signed_values_are_refused_unless_their_range_is_given(self) -> None:
        signed = RGB.astype(np.float32) / 127.5 - 1
        with pytest.raises(ImageError, match=r"one and two has values from -1 to .* value_range=\(-1, 1\)"):
            to_rgb_frames([signed, signed], ["one", "two"])
        assert np.array_equal(to_rgb_frames([signed], ["one"], (-1, 1))[0], RGB)
        with pytest.raises(ImageError, match="one has values from 0 to 255, expected 0 to 1"):
            to_rgb_frames([RGB.astype(np.float32)], ["one"], (0, 1))

    def test_tensors_of_other_shapes_are_named(self) -> None:
        for shape in ((20, 24, 3), (20, 24), (2, 20, 24)):
            with pytest.raises(ImageError, match=r"left is a tensor of shape .*, expected \(3, H, W\)"):
                to_rgb_frames([torch.zeros(shape)], ["left"])


def test_a_disk_that_is_full_is_told_with_the_file(tmp_path: Path) -> None:
    target = tmp_path / "f.txt"
    with pytest.raises(OSError, match="No space left") as raised, atomic_path(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_full_is_told_with_the_file_that_is_appended_to(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    append_text(target, "a\n")
    append_text(target, "b\n")
    assert target.read_bytes() == b"a\nb\n"
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        append_text(tmp_path / "full", "a")
    assert one_sentence(raised.value) == f"{tmp_path / 'full'}: No space left on device"


def test_errors_of_the_system_are_sentences() -> None:
    assert one_sentence(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    moved = OSError(errno.ENOSPC, "No space left on device", "here.h5", None, "there.h5")
    assert one_sentence(moved) == "here.h5 -> there.h5: No space left on device"
    assert one_sentence(ValueError("two\n lines")) == "two lines"


class TestQuantizedFlow:
    def test_the_range_is_that_of_8_bits(self) -> None:
        flow = np.array([-30, -20, 0, 0.1, 20, 30], np.float32)
        assert quantize_flow(flow).tolist() == [0, 0, 128, 128, 255, 255]
        assert dequantize_flow(np.array([0, 255], np.uint8), 4).tolist() == [-4, 4]
        with pytest.raises(ConfigError, match="bound must be positive, got 0"):
            quantize_flow(flow, 0)

    @given(
        arrays.arrays(np.float32, (3, 4, 2), elements=st.floats(-1e6, 1e6, width=32)), st.floats(0.01, 1000)
    )
    def test_what_is_within_the_bound_comes_back(self, flow: np.ndarray, bound: float) -> None:
        found = dequantize_flow(quantize_flow(flow, bound), bound)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, flow.clip(-bound, bound), rtol=0, atol=1.0001 * bound / 255)
