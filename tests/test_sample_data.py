"""The sample data of the repository, and what the README of the data sets says."""

import cv2
import numpy as np
import pytest
from dataset_files import names, run, write_frame, write_motion

from deqflow.data.datasets import DATASETS, open_dataset
from deqflow.io.flow_files import FLOW_FORMATS, read_flow
from deqflow.io.images import read_image


@pytest.fixture(scope="module")
def made_sample(repository, tmp_path_factory):
    """The sample data, made anew."""
    import runpy

    root = tmp_path_factory.mktemp("made") / "sample"
    runpy.run_path(str(repository / "datasets" / "make_sample.py"))["main"](root)
    return root


class TestSampleData:
    @pytest.mark.skipif(cv2.__version__ < "5", reason="the sample was drawn by OpenCV 5")
    def test_it_is_what_the_script_makes(self, repository, made_sample):
        shipped = repository / "datasets" / "sample"
        files = {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()}
        assert files == {path.relative_to(made_sample) for path in made_sample.rglob("*") if path.is_file()}
        for file in files:
            if file.suffix == ".flo" or file.parent.name in ("flow_occ", "flow_noc"):
                for ours, theirs in zip(
                    read_flow(made_sample / file), read_flow(shipped / file), strict=True
                ):
                    assert np.allclose(ours, theirs, atol=1e-3), file
            else:
                # Another processor may round the last bit of a warped pixel differently.
                difference = read_image(made_sample / file).astype(int) - read_image(shipped / file)
                assert np.abs(difference).mean() < 0.1, file

    def test_it_is_small(self, repository):
        files = (repository / "datasets" / "sample").rglob("*")
        assert sum(path.stat().st_size for path in files if path.is_file()) < 2_000_000

    def test_sequences_go_on(self, repository):
        clean, final = open_dataset("sintel", repository / "datasets/sample/sintel")
        assert [(pair.sequence, pair.index) for pair in clean.files] == [
            ("shapes_1", 1),
            ("shapes_1", 2),
            ("shapes_1", 3),
            ("shapes_2", 1),
            ("shapes_2", 2),
        ]
        for sharp, soft in zip(clean, final, strict=True):
            assert np.array_equal(sharp.flow, soft.flow)
            assert not np.array_equal(sharp.frame1, soft.frame1)
            assert 0 < sharp.occlusion.mean() < 0.3

    def test_flow_takes_a_visible_point_to_the_same_color(self, repository):
        for sample in open_dataset("sintel", repository / "datasets/sample/sintel")[0]:
            rows, columns = np.mgrid[: sample.flow.shape[0], : sample.flow.shape[1]].astype(np.float32)
            found = cv2.remap(
                sample.frame2,
                columns + sample.flow[..., 0],
                rows + sample.flow[..., 1],
                cv2.INTER_LINEAR,
            )
            error = np.abs(found.astype(int) - sample.frame1).mean(-1)
            still = np.abs(sample.frame2.astype(int) - sample.frame1).mean(-1)
            assert error[~sample.occlusion].mean() < 0.6 * still[~sample.occlusion].mean()

    def test_kitti_has_all_its_masks(self, repository):
        for sample in open_dataset("kitti-2015", repository / "datasets/sample/kitti-2015")[0]:
            assert 0.1 < sample.valid.mean() < 0.4
            assert (sample.noc <= sample.valid).all() and sample.noc.sum() < sample.valid.sum()
            assert 0 < (sample.objects > 0).mean() < 0.1

    @pytest.mark.parametrize(("folder", "splits"), [("sintel", 4), ("kitti-2015", 2)])
    def test_the_check_finds_it_sound(self, repository, capsys, folder, splits):
        code, out, _ = run(capsys, "datasets", "check", repository / "datasets/sample" / folder)
        assert code == 0
        assert len(out.splitlines()) == splits


class TestReadme:
    def test_its_table_is_the_catalog(self, repository):
        lines = (repository / "datasets" / "README.md").read_text().splitlines()
        rows = [
            [cell.strip(" `") for cell in line.strip("| ").split("|")] for line in lines if line[:3] == "| `"
        ]
        stated = {row[0]: (row[1], row[4]) for row in rows}
        assert stated == {
            name: (
                family.folder,
                ", ".join(f"{split} {family.pairs.get(split, '')}".strip() for split in family.splits),
            )
            for name, family in DATASETS.items()
        }

    def test_its_trees_are_those_that_are_read(self, repository):
        text = (repository / "datasets" / "README.md").read_text()
        for family in DATASETS.values():
            assert not family.folder or f"\n{family.folder}/\n" in text

    def test_its_lists_of_own_pairs_are_read(self, repository, tmp_path):
        text = (repository / "datasets" / "README.md").read_text()
        blocks = [block.strip("\n") + "\n" for block in text.split("```")[1::2]]
        for number in (1, 2):
            write_frame(tmp_path / "clip" / f"{number:04d}.png", number)
        write_motion(tmp_path / "truth" / "0001.flo")
        for name, start in (("a.csv", "frame1,"), ("a.jsonl", '{"frame1"')):
            (block,) = [block for block in blocks if block.startswith(start)]
            (tmp_path / name).write_text(block)
            assert names(open_dataset("custom", tmp_path / name)[0]) == ["clip/0001 to 0002"]

    def test_every_flow_format_is_in_the_documentation(self, repository):
        rows = (repository / "docs" / "files.md").read_text().splitlines()
        assert all(
            f"| `{form.suffix}` | {form.holds} | {form.unknown} |" in rows for form in FLOW_FORMATS.values()
        )

    def test_every_flow_format_is_mentioned(self, repository):
        text = (repository / "datasets" / "README.md").read_text()
        assert all(f"`{suffix}`" in text for suffix in FLOW_FORMATS)
