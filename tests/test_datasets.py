"""Data sets in their official layouts: which pairs there are, and what is read of them."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import h5py
import numpy as np
import pytest
from dataset_files import (
    HEIGHT,
    MAKERS,
    WIDTH,
    corner,
    make_chairs,
    make_hd1k,
    make_kitti,
    make_middlebury,
    make_sintel,
    make_spring,
    make_tartanair,
    make_things,
    names,
    run,
    write_frame,
    write_gray,
    write_mask,
    write_motion,
)

from deqflow.data.datasets import DATASETS, find_benchmarks, open_dataset
from deqflow.data.datasets.catalog import official_pairs
from deqflow.errors import DataError, FlowFileError


class TestSintel:
    def test_every_pass_that_is_there_is_a_data_set(self, tmp_path):
        clean, final = open_dataset("sintel", make_sintel(tmp_path))
        assert [clean.title, final.title] == ["MPI-Sintel clean", "MPI-Sintel final"]
        assert [clean.group, final.group] == ["Sintel clean", "Sintel final"]
        make_sintel(tmp_path, ["albedo"])
        assert [found.title for found in open_dataset("sintel", tmp_path)][2:] == ["MPI-Sintel albedo"]

    def test_a_pair_exists_where_flow_and_both_frames_do(self, tmp_path):
        clean, _ = open_dataset("sintel", make_sintel(tmp_path))
        assert names(clean) == ["cave_2 1", "cave_2 2"]
        assert [pair.name for pair in clean.incomplete] == ["cave_2 10"]
        assert clean.incomplete[0].missing() == tmp_path / "training/clean/cave_2/frame_0011.png"

    def test_masks_are_read_and_none_where_they_are_missing(self, tmp_path):
        first, second = open_dataset("sintel", make_sintel(tmp_path))[0]
        assert first.occlusion is None and first.invalid is None
        assert np.array_equal(second.occlusion, corner(4, 5))
        assert np.array_equal(second.invalid, corner(1, 3))
        assert second.valid.all()  # the published error counts every pixel
        assert (second.name, second.sequence, second.index) == ("cave_2 2", "cave_2", 2)
        assert (second.frame1[0, 0, 0], second.frame2[0, 0, 0], second.flow[0, 0, 0]) == (2, 3, 2)

    def test_the_test_split_has_frames_and_no_flow(self, tmp_path):
        (final,) = open_dataset("sintel", make_sintel(tmp_path), split="testing")
        assert names(final) == ["ambush_3 1", "ambush_3 2", "market_1 1", "market_1 2"]
        frame1, frame2 = final.files[1].read_frames()
        assert (frame1[0, 0, 0], frame2[0, 0, 0]) == (2, 3)
        with pytest.raises(DataError, match=r"ambush_3/frame_0001.png belongs to a test split"):
            final[0]

    def test_a_pass_without_a_pair_is_left_out(self, tmp_path):
        make_sintel(tmp_path)
        (tmp_path / "training/albedo").mkdir()
        assert len(open_dataset("sintel", tmp_path)) == 2


class TestKitti:
    def test_2015_with_all_its_masks(self, tmp_path):
        make_kitti(tmp_path, "image_2")
        write_gray(tmp_path / "training/obj_map/000007_10.png", 3 * corner(2, 2).astype(np.uint8))
        (dataset,) = open_dataset("kitti-2015", tmp_path)
        assert names(dataset) == ["000000", "000007"]
        without, sample = dataset
        assert without.objects is None
        assert (sample.frame1[0, 0, 0], sample.frame2[0, 0, 0]) == (10, 11)
        assert np.array_equal(sample.valid, corner(10, 10))
        assert np.array_equal(sample.noc, corner(10, 4))
        assert np.array_equal(sample.objects, np.where(corner(2, 2), 3, 0))
        assert (sample.sequence, sample.index) == ("000007", 10)
        assert sample.flow[sample.valid].tolist() == [[3, 4]] * 100

    def test_2012_by_occluded_truth_or_the_other_alone(self, tmp_path):
        (dataset,) = open_dataset("kitti-2012", make_kitti(tmp_path / "whole", "colored_0"))
        assert (names(dataset)[0], dataset[0].valid.sum(), dataset[0].noc.sum()) == ("000000", 100, 40)
        (dataset,) = open_dataset("kitti-2012", make_kitti(tmp_path / "noc", "colored_0", ["flow_noc"]))
        assert (names(dataset)[0], dataset[0].valid.sum()) == ("000000 (noc)", 40)

    def test_2012_in_gray_where_color_is_missing(self, tmp_path):
        (dataset,) = open_dataset("kitti-2012", make_kitti(tmp_path, "image_0"))
        assert dataset.files[0].frame1.parent.name == "image_0"

    @pytest.mark.parametrize(("name", "images"), [("kitti-2015", "image_2"), ("kitti-2012", "colored_0")])
    def test_testing(self, tmp_path, name, images):
        (dataset,) = open_dataset(name, make_kitti(tmp_path, images), split="testing")
        assert names(dataset) == ["000001"]
        assert dataset.files[0].flow is None


class TestChairs:
    def test_the_list_splits(self, tmp_path):
        make_chairs(tmp_path)
        (training,) = open_dataset("chairs", tmp_path)
        (validation,) = open_dataset("chairs", tmp_path, split="validation")
        assert (names(training), names(validation)) == (["00001", "00003", "00004"], ["00002"])
        assert validation[0].flow[0, 0].tolist() == [2, -2]

    def test_a_missing_list_is_said_in_one_sentence(self, tmp_path):
        (make_chairs(tmp_path) / "FlyingChairs_train_val.txt").unlink()
        with pytest.raises(
            DataError, match=r"FlyingChairs_train_val.txt is missing.*lmb.informatik"
        ) as error:
            open_dataset("chairs", tmp_path)
        assert "\n" not in str(error.value)
        assert len(open_dataset("chairs", tmp_path, split="all")[0]) == 4

    @pytest.mark.parametrize("content", ["", "1\n3\n", "0001_img1.ppm\n", "\xff"])
    def test_another_file_of_that_name_is_refused(self, tmp_path, content):
        (make_chairs(tmp_path) / "FlyingChairs_train_val.txt").write_text(content, encoding="latin-1")
        with pytest.raises(DataError, match="not the official list"):
            open_dataset("chairs", tmp_path)

    def test_a_list_that_ends_before_the_pairs_is_refused(self, tmp_path):
        (make_chairs(tmp_path) / "FlyingChairs_train_val.txt").write_text("1\n2\n")
        with pytest.raises(
            DataError, match=r"00003_flow.flo is none of the 2 pairs that FlyingChairs_train_val"
        ):
            open_dataset("chairs", tmp_path)

    def test_chairs2(self, tmp_path):
        for folder, number in product(("train", "val"), (0, 12)):
            stem = tmp_path / folder / f"{number:07d}"
            for frame in (0, 1):
                write_frame(Path(f"{stem}-img_{frame}.png"), frame)
            write_motion(Path(f"{stem}-flow_01.flo"), number)
            write_motion(Path(f"{stem}-flow_10.flo"), -number)
        write_mask(tmp_path / "val" / "0000012-occ_01.png", corner(3, 3))
        assert names(open_dataset("chairs2", tmp_path)[0]) == ["0000000", "0000012"]
        without, sample = open_dataset("chairs2", tmp_path, split="validation")[0]
        assert without.occlusion is None
        assert np.array_equal(sample.occlusion, corner(3, 3))
        assert (sample.frame1[0, 0, 0], sample.frame2[0, 0, 0], sample.flow[0, 0, 0]) == (0, 1, 12)


class TestThings:
    def test_passes_cameras_and_directions(self, tmp_path):
        found = {dataset.title: dataset for dataset in open_dataset("things", make_things(tmp_path))}
        assert list(found) == [
            f"FlyingThings3D {render} {camera} {direction}"
            for render, camera, direction in product(
                ("clean", "final"), ("left", "right"), ("into_future", "into_past")
            )
        ]
        assert {dataset.group for dataset in found.values()} == {
            "FlyingThings3D clean",
            "FlyingThings3D final",
        }
        forward = found["FlyingThings3D clean left into_future"]
        assert [(s.frame1[0, 0, 0], s.frame2[0, 0, 0], s.flow[0, 0, 0]) for s in forward] == [
            (6, 7, 6),
            (7, 8, 7),
        ]
        backward = found["FlyingThings3D final right into_past"]
        assert [(s.frame1[0, 0, 0], s.frame2[0, 0, 0], s.flow[0, 0, 0]) for s in backward] == [
            (8, 7, -8),
            (7, 6, -7),
        ]

    def test_a_part_of_it(self, tmp_path):
        make_things(tmp_path, ["clean"], "TEST")
        for path in (tmp_path / "optical_flow").rglob("into_past/*/*.pfm"):
            path.unlink()
        with pytest.raises(DataError, match="FlyingThings3D clean left into_future"):
            open_dataset("things", tmp_path)
        titles = [dataset.title for dataset in open_dataset("things", tmp_path, split="testing")]
        assert titles == [f"FlyingThings3D clean {camera} into_future" for camera in ("left", "right")]


class TestHD1K:
    @pytest.mark.parametrize("split", ["training", "testing"])
    def test_sequences_are_kept_apart(self, tmp_path, split):
        (dataset,) = open_dataset("hd1k", make_hd1k(tmp_path), split=split)
        assert [(pair.sequence, pair.index) for pair in dataset.files] == [
            ("000000", 0),
            ("000000", 1),
            ("000035", 0),
            ("000035", 1),
        ]
        assert (dataset.files[0].flow is None) == (split == "testing")
        assert not dataset.incomplete


class TestMiddlebury:
    def test_both_splits(self, tmp_path):
        (training,) = open_dataset("middlebury", make_middlebury(tmp_path))
        (testing,) = open_dataset("middlebury", tmp_path, split="testing")
        assert names(training) == names(testing) == ["Grove2", "Venus"]
        assert np.array_equal(training[0].valid, ~corner(3, 3))
        assert testing.files[0].flow is None


class TestSpring:
    def test_cameras_and_directions(self, tmp_path):
        found = {dataset.title: dataset for dataset in open_dataset("spring", make_spring(tmp_path))}
        assert list(found) == ["Spring left FW", "Spring left BW", "Spring right FW", "Spring right BW"]
        assert [(s.frame1[0, 0, 0], s.frame2[0, 0, 0], s.flow[0, 0, 0]) for s in found["Spring left FW"]] == [
            (1, 2, 1),
            (2, 3, 2),
        ]
        assert [
            (s.frame1[0, 0, 0], s.frame2[0, 0, 0], s.flow[0, 0, 0]) for s in found["Spring right BW"]
        ] == [
            (3, 2, -3),
            (2, 1, -2),
        ]

    def test_truth_of_twice_the_resolution(self, tmp_path):
        path = make_spring(tmp_path) / "train/0001/flow_FW_left/flow_FW_left_0001.flo5"
        values = np.random.default_rng(1).normal(0, 9, (2 * HEIGHT, 2 * WIDTH, 2)).astype(np.float32)
        values[2, 5] = np.nan  # in pixel (1, 2)
        with h5py.File(path, "w") as file:
            file["flow"] = values
        sample = open_dataset("spring", tmp_path)[0][0]
        known = ~(corner(2, 3) & ~corner(1, 3) & ~corner(2, 2))
        assert np.array_equal(sample.valid, known)
        assert sample.subpixels.shape == (4, HEIGHT, WIDTH, 2)
        for number, (y, x) in enumerate(product((0, 1), (0, 1))):
            assert np.array_equal(sample.subpixels[number][known], values[y::2, x::2][known])
        assert np.array_equal(sample.flow[known], values[::2, ::2][known])

    def test_truth_of_the_frames_own_resolution_is_refused(self, tmp_path):
        path = make_spring(tmp_path) / "train/0001/flow_FW_left/flow_FW_left_0001.flo5"
        write_motion(path)
        with pytest.raises(DataError, match=r"flow_FW_left_0001.flo5 is 12x10 pixels"):
            open_dataset("spring", tmp_path)[0][0]

    def test_the_test_split(self, tmp_path):
        found = open_dataset("spring", make_spring(tmp_path), split="testing")
        assert [len(dataset) for dataset in found] == [2] * 4
        assert all(pair.flow is None for dataset in found for pair in dataset.files)


class TestTartanAir:
    def test_masked_pixels_are_not_valid(self, tmp_path):
        (dataset,) = open_dataset("tartanair", make_tartanair(tmp_path))
        assert [pair.name for pair in dataset.files] == [f"abandonedfactory/Easy/P001 {n}" for n in (0, 1)]
        assert np.array_equal(dataset[1].valid, ~corner(2, 2))
        assert dataset[1].flow[0, 5].tolist() == [1, -2]

    @pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04"])
    def test_a_broken_mask_is_named(self, tmp_path, content):
        mask = make_tartanair(tmp_path) / "abandonedfactory/Easy/P001/flow/000000_000001_mask.npy"
        mask.write_bytes(content)
        with pytest.raises(DataError, match=r"000000_000001_mask.npy"):
            open_dataset("tartanair", tmp_path)[0][0]

    def test_a_mask_of_another_size_is_named(self, tmp_path):
        mask = make_tartanair(tmp_path) / "abandonedfactory/Easy/P001/flow/000000_000001_mask.npy"
        np.save(mask, np.zeros((3, 4), np.uint8))
        with pytest.raises(DataError, match=r"mask.npy has shape \(3, 4\), expected .*\(20, 24\)"):
            open_dataset("tartanair", tmp_path)[0][0]


class TestAll:
    @pytest.mark.parametrize("name", MAKERS)
    def test_a_higher_index_means_that_the_frames_go_on(self, tmp_path, name):
        MAKERS[name](tmp_path)
        for split in DATASETS[name].splits:
            if name == "things" and split == "testing":
                continue
            for dataset in open_dataset(name, tmp_path, split=split):
                for first, second in pairwise(dataset.files):
                    goes_on = first.sequence == second.sequence and second.index == first.index + 1
                    assert goes_on == (first.frame2 == second.frame1)

    @pytest.mark.parametrize("name", MAKERS)
    def test_names_tell_the_pairs_of_a_data_set_apart(self, tmp_path, name):
        MAKERS[name](tmp_path)
        for dataset in open_dataset(name, tmp_path):
            assert len(set(names(dataset))) == len(dataset)

    @pytest.mark.parametrize("name", MAKERS)
    def test_every_sample_is_of_one_kind(self, tmp_path, name):
        MAKERS[name](tmp_path)
        for sample in (sample for dataset in open_dataset(name, tmp_path) for sample in dataset):
            assert sample.frame1.shape == sample.frame2.shape == (HEIGHT, WIDTH, 3)
            assert sample.flow.shape == (HEIGHT, WIDTH, 2)
            assert (sample.frame1.dtype, sample.flow.dtype) == (np.uint8, np.float32)
            for mask in (sample.valid, sample.occlusion, sample.noc, sample.invalid):
                assert mask is None or (mask.shape == (HEIGHT, WIDTH) and mask.dtype == bool)

    def test_official_numbers_by_title(self):
        titles = ("MPI-Sintel clean", "MPI-Sintel final", "KITTI-2015", "Spring left FW", "mine")
        assert [official_pairs(title) for title in titles] == [1041, 1041, 200, 4963, 0]
        assert official_pairs("KITTI-2012", "testing") == 195

    @pytest.mark.parametrize("name", MAKERS)
    def test_companions_and_other_dot_files_are_no_part_of_it(self, tmp_path, capsys, name):
        root = tmp_path / "[1] disk" / ".data"
        MAKERS[name](root)
        before = {(d.title, *names(d)) for d in open_dataset(name, root)}
        for path in sorted(root.rglob("*")):
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (root / ".hidden").mkdir()
        assert {(d.title, *names(d)) for d in open_dataset(name, root)} == before
        assert run(capsys, "datasets", "check", root)[0] == 0

    @pytest.mark.parametrize("name", [name for name in MAKERS if DATASETS[name].folder])
    def test_a_root_may_hold_it_under_its_official_name(self, tmp_path, name):
        MAKERS[name](tmp_path / DATASETS[name].folder)
        assert len(open_dataset(name, tmp_path)[0]) > 0
        assert open_dataset(name, tmp_path)[0].title in {d.title for d in find_benchmarks(tmp_path)}

    @pytest.mark.parametrize("name", DATASETS)
    def test_a_missing_root_is_named(self, tmp_path, name):
        with pytest.raises(DataError, match=r"gone is not a folder: expected .* in it") as error:
            open_dataset(name, tmp_path / "gone")
        assert DATASETS[name].tree in str(error.value)

    @pytest.mark.parametrize("name", sorted(set(DATASETS) - {"custom"}))
    def test_an_empty_root_is_named(self, tmp_path, name):
        split = "all" if name == "chairs" else "training"
        with pytest.raises(DataError, match=f"{tmp_path.name}.* holds no complete pair of"):
            open_dataset(name, tmp_path, split=split)

    def test_names_and_splits_that_do_not_exist(self, tmp_path):
        with pytest.raises(DataError, match="no data set 'sintle', expected one of sintel, kitti-2015"):
            open_dataset("sintle", tmp_path)
        with pytest.raises(DataError, match="no split 'test', expected one of training, testing"):
            open_dataset("sintel", tmp_path, split="test")

    def test_a_name_outside_the_layout_is_named(self, tmp_path):
        make_sintel(tmp_path)
        write_motion(tmp_path / "training/flow/cave_2/frame_last.flo")
        with pytest.raises(DataError, match=r"frame_last.flo does not follow the layout"):
            open_dataset("sintel", tmp_path)

    def test_a_file_cut_short_is_named(self, tmp_path):
        path = make_sintel(tmp_path) / "training/flow/cave_2/frame_0001.flo"
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(FlowFileError, match=r"frame_0001.flo .* 24x20 pixels, 3852 bytes, but has 3844"):
            open_dataset("sintel", tmp_path)[0][0]

    def test_sizes_that_differ_are_named(self, tmp_path):
        path = write_frame(make_chairs(tmp_path) / "data/00003_img2.ppm", height=HEIGHT + 2)
        with pytest.raises(DataError, match=r"00003_img2.ppm is 24x22 pixels, but .*00003_img1.ppm is 24x20"):
            open_dataset("chairs", tmp_path)[0][1]
        write_frame(path)
        write_mask(tmp_path / "frames/occ.png", np.zeros((HEIGHT, WIDTH + 1), bool))
        pair = replace(open_dataset("chairs", tmp_path)[0].files[1], occlusion=tmp_path / "frames/occ.png")
        with pytest.raises(DataError, match=r"occ.png is 25x20 pixels, but .*00003_img1.ppm is 24x20"):
            pair.read()

    def test_benchmarks_under_one_root(self, tmp_path):
        for name in ("chairs", "kitti-2012", "sintel"):
            MAKERS[name](tmp_path / DATASETS[name].folder)
        titles = [dataset.title for dataset in find_benchmarks(tmp_path)]
        assert titles == ["MPI-Sintel clean", "MPI-Sintel final", "KITTI-2012", "FlyingChairs"]
        assert len(find_benchmarks(tmp_path)[-1]) == 4  # all of them, whatever the list of the split says

    def test_a_root_without_benchmarks_is_named(self, tmp_path):
        with pytest.raises(DataError, match="gone is not a folder: expected one that holds data sets"):
            find_benchmarks(tmp_path / "gone")
        with pytest.raises(DataError, match=r"no known data set: expected at least one of MPI-Sintel"):
            find_benchmarks(tmp_path)
        (tmp_path / "KITTI-2015").mkdir()
        with pytest.raises(DataError, match="no complete pair of KITTI-2015"):
            find_benchmarks(tmp_path)

    def test_slices(self, tmp_path):
        (dataset,) = open_dataset("chairs", make_chairs(tmp_path))
        assert [sample.name for sample in dataset[1:]] == ["00003", "00004"]
