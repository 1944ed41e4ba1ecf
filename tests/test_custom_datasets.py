"""Own footage as a data set: folders of frames and flow, and lists of pairs."""

import re
from itertools import pairwise, product

import numpy as np
import pytest
from dataset_files import (
    HEIGHT,
    WIDTH,
    corner,
    make_custom,
    make_kitti,
    make_list,
    make_sintel,
    names,
    write_frame,
    write_gray,
    write_mask,
    write_motion,
)
from hypothesis import given
from hypothesis import strategies as st

from deqflow.cli import main
from deqflow.data.datasets import open_dataset
from deqflow.data.sample import known_only
from deqflow.errors import DataError, DataWarning
from deqflow.io.flow_files import FLOW_FORMATS


class TestCustom:
    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    def test_folders_with_any_flow_format(self, tmp_path, suffix):
        (dataset,) = open_dataset("custom", make_custom(tmp_path / "mine", suffix))
        assert (dataset.title, names(dataset)) == ("mine", ["shot9", "shot10"])
        first, second = dataset
        assert second.flow[0, 0].tolist() == [10, -2]
        assert first.valid.all() and np.array_equal(second.valid, corner(7, 7))
        assert [(s.sequence, s.index) for s in (first, second)] == [("mine", 0), ("mine", 1)]

    def test_a_folder_per_sequence(self, tmp_path):
        for sequence, number in product(("b", "a2", "a10"), (1, 2)):
            write_frame(tmp_path / "frames" / sequence / f"{number}.png", number)
        for sequence in ("b", "a10"):
            write_motion(tmp_path / "flow" / sequence / "1.pfm")
        assert names(open_dataset("custom", tmp_path)[0]) == ["a10/1", "b/1"]
        testing = open_dataset("custom", tmp_path, split="testing")[0]
        assert names(testing) == ["a2/1", "a10/1", "b/1"]
        assert testing.files[0].flow is None

    @pytest.mark.parametrize(
        ("numbers", "pairs"),
        [
            ("0001 0002 0004 0005", "0001-0002 0004-0005"),
            ("98 99 101 102", "98-99 101-102"),
            ("9 10 11", "9-10 10-11"),
            ("2 4 5 7 9", "2-4 4-5 5-7 7-9"),  # not counted evenly
            ("000 005 010 020", "000-005 005-010"),  # every fifth frame
            ("100.2 100.7 101.6 101.9", "100.2-100.7 100.7-101.6 101.6-101.9"),  # seconds
            ("a b d", "a-b b-d"),
            ("left_1 left_2 right_1", "left_1-left_2 left_2-right_1"),
        ],
    )
    def test_numbers_decide_what_follows(self, tmp_path, numbers, pairs):
        for number in numbers.split():
            write_frame(tmp_path / "frames" / f"{number}.png")
            write_motion(tmp_path / "flow" / f"{number}.flo")
        (dataset,) = open_dataset("custom", tmp_path)
        found = [f"{pair.frame1.stem}-{pair.frame2.stem}" for pair in dataset.files]
        assert found == pairs.split()
        gaps = [pair.missing() for pair in dataset.incomplete]
        assert len(gaps) == len(numbers.split()) - 1 - len(found)
        for first, second in pairwise(dataset.files):
            assert (second.index == first.index + 1) == (first.frame2 == second.frame1)

    def test_a_missing_frame_is_named_by_the_check(self, tmp_path, capsys):
        make_custom(tmp_path)
        (tmp_path / "frames" / "shot10.jpg").unlink()
        write_frame(tmp_path / "frames" / "shot12.jpg")
        assert main(["datasets", "check", str(tmp_path)]) == 0
        assert f"lack a file, the first {tmp_path}/frames/shot10.jpg" in capsys.readouterr().out

    @pytest.mark.parametrize("target", ["nowhere.jpg", "shot10.jpg"])
    def test_links_that_lead_nowhere_are_named(self, tmp_path, target):
        """As Git keeps large files that have not been fetched; a link to itself likewise."""
        make_custom(tmp_path)
        link = tmp_path / "frames" / "shot10.jpg"
        link.unlink()
        link.symlink_to(target)
        with pytest.raises(DataError, match=f"holds no complete pair: {re.escape(str(link))} is missing"):
            open_dataset("custom", tmp_path)

    def test_pairs_that_lack_a_file_are_told(self, tmp_path):
        for number in (1, 2, 3, 5):
            write_frame(tmp_path / "frames" / f"{number}.png")
            write_motion(tmp_path / "flow" / f"{number}.flo")
        with pytest.warns(DataWarning, match=r": 1 of 3 pairs lack a file and .*4\.png$"):
            assert len(open_dataset("custom", tmp_path)[0]) == 2

    def test_the_working_folder_has_its_name(self, tmp_path, monkeypatch):
        make_custom(tmp_path / "mine")
        monkeypatch.chdir(tmp_path / "mine")
        (dataset,) = open_dataset("custom", ".")
        assert (dataset.title, dataset.files[0].sequence) == ("mine", "mine")

    @pytest.mark.parametrize("suffix", [suffix for suffix in FLOW_FORMATS if suffix != ".png"])
    def test_a_picture_of_the_flow_beside_it_is_not_the_flow(self, tmp_path, suffix):
        make_custom(tmp_path, suffix)
        for number in (9, 10):
            write_frame(tmp_path / "flow" / f"shot{number}.png")
        first, second = open_dataset("custom", tmp_path)[0]
        assert (first.flow[0, 0, 0], second.flow[0, 0, 0]) == (9, 10)

    @pytest.mark.parametrize("name", ["flow/shot9.pfm", "masks/shot10.bmp", "frames/shot9.png"])
    def test_two_files_of_one_name_are_refused(self, tmp_path, name):
        make_custom(tmp_path)
        write_motion(tmp_path / name) if name.endswith("pfm") else write_frame(tmp_path / name)
        with pytest.raises(DataError, match="expected a single file of that name"):
            open_dataset("custom", tmp_path)

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_a_list(self, tmp_path, kind):
        (dataset,) = open_dataset("custom", make_list(tmp_path, kind))
        assert [sample.flow[0, 0, 0] for sample in dataset] == [1, 1, 1, 2]
        assert [sample.valid.sum() for sample in dataset][:2] == [HEIGHT * WIDTH, 25]
        assert names(dataset) == ["clip/0 to 1", "clip/1 to 2", "clip/2 to 3", "clip/0 to 2"]
        assert {pair.sequence for pair in dataset.files} == {"clip"}
        assert [pair.index for pair in dataset.files] == [0, 1, 2, 4]  # the last does not follow
        assert open_dataset("custom", tmp_path / f"pairs.{kind}", split="testing")[0].files[0].flow is None

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("a.csv", "frame1,flow\n", "a.csv has no column 'frame2'"),
            ("a.csv", "", "a.csv has no column 'frame1'"),
            (
                "a.csv",
                "frame1,frame2,flow\nx.png,y.png,z.flo\n",
                r"a.csv, line 2: the frame1 .*x.png does not",
            ),
            (
                "a.csv",
                "frame1,frame2\nin.png,in.png\n",
                "a.csv, line 2: no flow, expected frame1, frame2, flow",
            ),
            ("a.jsonl", '{"frame1": "in.png"}\n', "a.jsonl, line 1: no frame2"),
            ("a.jsonl", "[1]\n", "a.jsonl, line 1: expected a JSON object"),
            ("a.jsonl", "{\n", "a.jsonl cannot be read as a list of pairs"),
            ("a.jsonl", "\x00" * 9, "a.jsonl cannot be read as a list of pairs"),
            ("a.jsonl", "\n", "holds no complete pair"),
            ("a.txt", "in.png in.png", "a.txt is not a folder"),
        ],
    )
    def test_a_list_that_is_wrong_says_where(self, tmp_path, file, content, message):
        write_frame(tmp_path / "in.png")
        (tmp_path / file).write_text(content)
        with pytest.raises(DataError, match=message):
            open_dataset("custom", tmp_path / file)

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_no_list_fails_otherwise(self, tmp_path, kind):
        write_frame(tmp_path / "in.png")
        write_motion(tmp_path / "in.flo")
        file = tmp_path / f"any.{kind}"
        words = [
            "frame1,frame2,flow\n",
            "in.png",
            ",",
            "in.flo",
            '{"frame1": ',
            '"in.png"',
            "}",
            "[",
            "\n",
            '"',
            "9" * 5000,
        ]

        @given(st.one_of(st.binary(), st.lists(st.sampled_from(words)).map("".join).map(str.encode)))
        def opened_or_refused(content: bytes) -> None:
            file.write_bytes(content)
            try:
                assert len(open_dataset("custom", file)[0]) > 0
            except DataError as error:
                assert file.name in str(error)

        opened_or_refused()

    def test_a_folder_without_frames(self, tmp_path):
        with pytest.raises(DataError, match=r"frames is not a folder: expected frames/ and flow/"):
            open_dataset("custom", tmp_path)


class TestMasks:
    @pytest.mark.parametrize(("value", "dtype"), [(1, "u1"), (255, "u1"), (1, "u2"), (65535, "u2")])
    def test_on_is_above_half_of_the_largest_value(self, tmp_path, value, dtype):
        on = corner(7, 5)
        make_custom(tmp_path / "mine")
        write_gray(tmp_path / "mine" / "masks" / "shot10.png", on * np.dtype(dtype).type(value))
        assert np.array_equal(open_dataset("custom", tmp_path / "mine")[0][1].valid, on)
        make_sintel(tmp_path / "sintel")
        for kind in ("occlusions", "invalid"):
            file = tmp_path / "sintel" / "training" / kind / "cave_2" / "frame_0002.png"
            write_gray(file, on * np.dtype(dtype).type(value))
        sample = open_dataset("sintel", tmp_path / "sintel")[0][1]
        assert np.array_equal(sample.occlusion, on) and np.array_equal(sample.invalid, on)

    def test_a_mask_of_zeros_is_off(self, tmp_path):
        make_custom(tmp_path / "mine")
        write_mask(tmp_path / "mine" / "masks" / "shot10.png", corner(0, 0))
        assert not open_dataset("custom", tmp_path / "mine")[0][1].valid.any()
        make_sintel(tmp_path / "sintel")
        for kind in ("occlusions", "invalid"):
            write_mask(tmp_path / "sintel" / "training" / kind / "cave_2" / "frame_0002.png", corner(0, 0))
        sample = open_dataset("sintel", tmp_path / "sintel")[0][1]
        assert not sample.occlusion.any() and not sample.invalid.any() and sample.valid.all()

    def test_objects_are_told_by_any_number(self, tmp_path):
        make_kitti(tmp_path, "image_2")
        write_gray(tmp_path / "training" / "obj_map" / "000000_10.png", corner(3, 4) * np.uint16(300))
        assert np.array_equal(open_dataset("kitti-2015", tmp_path)[0][0].objects, corner(3, 4) * 255)

    def test_pairs_of_which_nothing_is_known_are_left_out_and_named(self, tmp_path):
        make_custom(tmp_path / "mine")
        write_mask(tmp_path / "mine" / "masks" / "shot9.png", corner(0, 0))
        (dataset,) = open_dataset("custom", tmp_path / "mine")
        with pytest.warns(DataWarning, match="shot9: the flow of no pixel is known; the pair is left out"):
            assert [sample.name for sample in known_only(dataset)] == ["shot10"]
        with pytest.warns(DataWarning), pytest.raises(DataError, match="in any of 1 pairs"):
            list(known_only([dataset[0]]))
