"""Parts of a source: from here to there, every so many frames, cropped and scaled; sought in, not decoded."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import encode, textured
from hypothesis import given
from hypothesis import strategies as st

from deqflow.cli import main
from deqflow.errors import VideoError
from deqflow.geometry import resize_flow
from deqflow.io import open_video, read_flow, write_image
from deqflow.io.video import containers
from deqflow.io.video.selection import Moment, Place, Span


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two hundred frames, a key frame every twenty, with frames predicted from later ones."""
    folder = tmp_path_factory.mktemp("clips")
    frames = textured(200, (32, 48))
    irregular = [index * 40 + (index % 3) * 7 for index in range(200)]
    made = {suffix: encode(folder / f"a.{suffix}", frames, g="20", bf="3") for suffix in ("mp4", "mkv", "ts")}
    made["avi"] = encode(folder / "a.avi", frames, codec="mpeg4", g="20")
    made["h264"] = encode(folder / "a.h264", frames, g="20", bf="3")
    unit = Fraction(1, 1000)
    made["variable"] = encode(folder / "v.mp4", frames, times=irregular, time_base=unit, g="20", bf="3")
    return made


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("12.5", Moment(Fraction(25, 2))),
            (".5s", Moment(Fraction(1, 2))),
            (3, Moment(Fraction(3))),
            ("1:02", Moment(Fraction(62))),
            ("1:02:03.5", Moment(Fraction(7447, 2))),
            ("300f", Moment(number=300)),
        ],
    )
    def test_are_read(self, text: str | float, moment: Moment) -> None:
        assert Moment.parse(text) == moment

    @pytest.mark.parametrize("text", ["", "-1", "x", "1:2:3:4", "3.5f", "1e3", "nan"])
    def test_what_is_none_is_said(self, text: str) -> None:
        with pytest.raises(VideoError, match="is no place in a video"):
            Moment.parse(text)


@given(
    count=st.integers(0, 40),
    start=st.none() | st.integers(0, 45),
    end=st.none() | st.integers(0, 45),
    stride=st.integers(1, 7),
    most=st.none() | st.integers(1, 9),
    gap=st.integers(0, 40),
)
def test_a_span_is_a_slice(
    count: int, start: int | None, end: int | None, stride: int, most: int | None, gap: int
) -> None:
    places = [Place(Fraction(index, 10), index + 1, index, index != gap) for index in range(count)]
    bounds = (None if bound is None else Moment(number=bound + 1) for bound in (start, end))
    span = Span(*bounds, stride, most)
    expected = list(range(count))[start:end:stride][:most]
    if not expected:
        with pytest.raises(VideoError, match="has no frames"):
            list(span.pick(places, "a"))
        return
    picked = list(span.pick(places, "a"))
    assert [place.content for place in picked] == expected
    assert [number - 1 for number in span.numbers(count, Fraction(10))] == expected
    for before, after in pairwise(picked):
        assert after.follows == (not before.content < gap <= after.content)


class TestSeeking:
    @pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "avi", "h264", "variable"])
    @pytest.mark.parametrize("start", ["0", "3.3", "151f", "7.9"])
    def test_gives_the_frames_that_decoding_from_the_start_gives(
        self, clips: dict[str, Path], kind: str, start: str
    ) -> None:
        every = list(open_video(clips[kind]).frames())
        moment = Moment.parse(start)
        expected = [frame for frame in every if moment.reached(Place(frame.time, frame.number, frame))]
        found = list(open_video(clips[kind], start=start).frames())
        assert [frame.number for frame in found] == [frame.number for frame in expected]
        assert [frame.time for frame in found] == [frame.time for frame in expected]
        assert all(np.array_equal(a.image, b.image) for a, b in zip(found, expected, strict=True))

    @pytest.mark.parametrize("kind", ["mp4", "mkv", "variable"])
    def test_decodes_little(self, clips: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded = []
        decode = containers.Reading.decode

        def counting(self: containers.Reading):
            for frame in decode(self):
                decoded.append(frame)
                yield frame

        source = open_video(clips[kind], start="180f", end="185f")
        monkeypatch.setattr(containers.Reading, "decode", counting)
        assert [frame.number for frame in source.frames()] == [180, 181, 182, 183, 184]
        assert len(decoded) < 60

    def test_forced_rates_count_from_the_beginning(self, clips: dict[str, Path]) -> None:
        found = list(open_video(clips["mp4"], fps=10, start="15", max_frames=2).frames())
        assert [(frame.number, frame.time) for frame in found] == [(151, 15), (152, Fraction(151, 10))]

    def test_the_source_says_what_is_to_come(self, clips: dict[str, Path]) -> None:
        video = open_video(clips["mp4"], start="100f", end="150f", stride=5, max_frames=8)
        assert video.numbers == range(100, 140, 5)
        assert [frame.number for frame in video.frames()] == list(video.numbers)
        assert video.fps == 5

    def test_behind_the_end(self, clips: dict[str, Path]) -> None:
        with pytest.raises(VideoError, match=r"a\.mp4 has no frames from 100 s"):
            list(open_video(clips["mp4"], start=100))


class TestImages:
    def test_numbers_are_those_of_the_files(self, tmp_path: Path) -> None:
        for number in range(100, 110):
            write_image(tmp_path / f"f{number}.png", np.full((20, 24, 3), number, np.uint8))
        (tmp_path / "f100.png").write_text("not read")
        video = open_video(tmp_path, start="102f", end="108f", stride=2)
        found = list(video.frames())
        assert [(frame.number, int(frame.image[0, 0, 0])) for frame in found] == [
            (102, 102), (104, 104), (106, 106)
        ]  # fmt: skip
        assert [frame.time for frame in found] == [Fraction(index, 25) for index in (2, 4, 6)]
        assert len(video.files) == 10


class TestViews:
    def test_a_part_scaled(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mkv", textured(2), codec="ffv1")
        whole = next(iter(open_video(path)))
        part = next(iter(open_video(path, roi=(8, 4, 40, 32))))
        assert np.array_equal(part, whole[4:36, 8:48])
        video = open_video(path, roi=(8, 4, 40, 32), resize=(20, 24))
        assert (video.size, video.unscaled_size) == ((24, 20), (32, 40))
        assert next(iter(video)).shape == (24, 20, 3)
        assert Fraction(20) * video.pixel_aspect / 24 == Fraction(40, 32)
        assert open_video(path, max_side=32).size == (24, 32)
        assert open_video(path, max_side=32).pixel_aspect == 1

    @pytest.mark.parametrize("roi", [(-1, 0, 20, 20), (0, 0, 65, 20), (0, 40, 20, 20), (0, 0, 8, 20)])
    def test_a_part_outside_is_refused(self, tmp_path: Path, roi: tuple[int, int, int, int]) -> None:
        path = encode(tmp_path / "a.mkv", textured(2))
        with pytest.raises(VideoError, match="must lie inside the frames of 64x48 pixels"):
            open_video(path, roi=roi)

    def test_flow_is_resized_with_its_vectors(self) -> None:
        y, x = np.mgrid[:24, :32].astype(np.float32)
        flow = np.stack((0.1 * x + 1, 0.2 * y - 2), 2)
        large = resize_flow(flow, (48, 96))
        y, x = np.mgrid[:48, :96].astype(np.float32)
        expected = np.stack((3 * (0.1 * ((x + 0.5) / 3 - 0.5) + 1), 2 * (0.2 * ((y + 0.5) / 2 - 0.5) - 2)), 2)
        assert np.abs(large - expected)[2:-2, 3:-3].max() < 1e-4
        assert np.abs(resize_flow(large, (24, 32)) - flow)[2:-2, 2:-2].max() < 0.02
        assert resize_flow(flow, (24, 32)) is flow


class TestCommand:
    def test_everything_together(
        self, clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        arguments = [
            "video",
            str(clips["mp4"]),
            "--start",
            "4",
            "--end",
            "5",
            "--stride",
            "5",
            "--steps",
            "2",
        ]
        arguments += ["--roi", "8", "0", "40", "32", "--resize", "32", "16", "--flow-dir", "flows"]
        assert main([*arguments, "--output", "b.mp4"]) == 0
        assert "32x16 of 40x32; --flow-size source brings them back" in capsys.readouterr().out
        names = [path.name for path in sorted((tmp_path / "flows").iterdir())]
        assert names == [f"frame_{number:06d}.flo" for number in (101, 106, 111, 116)]
        assert read_flow(tmp_path / "flows" / names[0])[0].shape == (16, 32, 2)
        found = open_video(tmp_path / "b.mp4")
        assert [frame.time for frame in found.frames()] == [Fraction(index, 5) for index in range(4)]
        assert found.pixel_aspect == Fraction(40 * 16, 32 * 32)
        assert main([*arguments, "--output", "c.mp4", "--overwrite", "--flow-size", "source"]) == 0
        assert read_flow(tmp_path / "flows" / names[0])[0].shape == (32, 40, 2)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--start", "soon"), "'soon' is no place in a video"),
            (("--stride", "0"), "--stride must be at least 1, got 0"),
            (("--resize", "8", "20"), "--resize must be at least 16 each way, got 8x20"),
            (("--resize", "20", "20", "--max-side", "20"), "give one"),
            (("--resize", "100000", "100000"), "frames of 100000x100000 pixels are too large"),
            (("--start", "99"), "has no frames from 99 s"),
        ],
    )
    def test_what_cannot_be_is_said(
        self, clips: dict[str, Path], tmp_path: Path, arguments: tuple[str, ...], said: str, capsys: Any
    ) -> None:
        assert main(["video", str(clips["mp4"]), "--output", str(tmp_path / "b.mp4"), *arguments]) == 2
        assert said in capsys.readouterr().err

    def test_sound_follows_the_span(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        encode(tmp_path / "a.mp4", textured(100, (32, 32)), audio=True)
        assert (
            main(["video", "a.mp4", "--output", "b.mp4", "--start", "2", "--end", "3.04", "--steps", "1"])
            == 0
        )
        with av.open("b.mp4") as file:
            samples = sum(frame.samples for frame in file.decode(audio=0))
        assert samples / 48000 == pytest.approx(1, abs=0.06)
