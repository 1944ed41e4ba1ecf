"""The recipes of the cookbook in Python: that they run, and whether they are any good."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shorten

import deqflow
from deqflow.io import dequantize_flow, open_video, read_image

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The names that the Python blocks of the page leave, and the folder they were run in."""
    folder = tmp_path_factory.mktemp("cookbook")
    (folder / "demo").symlink_to(REPOSITORY / "demo")
    page = REPOSITORY / "docs" / "cookbook.md"
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shorten(patch, 4)
        for text in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            exec(compile(text, str(page), "exec"), names)
    return names, folder


def test_a_shaken_clip_is_calm_again(cooked):
    names, folder = cooked
    assert names["after"] < 0.5 * names["before"]
    frames = [frame.image for frame in open_video(folder / "stable.mp4").frames()]
    assert len(frames) == len(names["steady"])


def test_steady_motion_is_left_alone(cooked):
    names, _ = cooked
    path = np.arange(30.0)[:, None] * [1.0, -2.0, 0.01, 0.002]
    np.testing.assert_allclose(names["smooth"](path), path, atol=1e-9)


def test_camera_motion_is_exact(cooked):
    names, _ = cooked
    rows, columns = np.mgrid[0:64, 0:96].astype(np.float32)
    similarity = np.array([[1.01, -0.02, 3.0], [0.02, 1.01, -1.5]])
    moved = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ similarity.T
    flow = (moved - np.stack([columns, rows], axis=-1)).astype(np.float32)
    flow[10:30, 20:50] += 7  # something that moves by itself
    np.testing.assert_allclose(names["camera_motion"](flow), similarity, atol=1e-3)


def test_slow_motion_is_better_than_a_mean(cooked):
    names, folder = cooked
    assert names["errors"]["carried along the flow"] < names["errors"]["mean of the neighbors"]
    assert sum(1 for _ in open_video(folder / "slow.mp4").frames()) == 4 * (5 - 1) + 1


def test_a_frame_between_is_where_motion_leads(cooked):
    names, _ = cooked
    texture = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    frames = [texture[:, 8 - shift : 72 - shift] for shift in (0, 2, 4)]
    there = np.full((40, 64, 2), (4, 0), np.float32)
    made = names["between"](frames[0], frames[2], there, -there, 0.5)
    np.testing.assert_array_equal(made[:, 4:-4], frames[1][:, 4:-4])


def test_the_heat_map_shows_what_moves(cooked):
    names, folder = cooked
    assert names["heat"].max() > 4 * np.median(names["heat"])
    assert len(np.unique(read_image(folder / "heat.png").reshape(-1, 3), axis=0)) > 500


def test_features_are_flow_and_nothing_is_done_twice(cooked, tmp_path):
    names, folder = cooked
    assert sorted(path.name for path in (folder / "features").iterdir()) == [
        "bigbuckbunny.npz",
        "bigbuckbunny_turn.npz",
    ]
    with np.load(folder / "features" / "bigbuckbunny.npz") as stored:
        flow, bound = stored["flow"], float(stored["bound"])
    assert flow.dtype == np.uint8 and flow.shape == (4, 96, 171, 2)
    options = {"max_side": 171, "max_frames": 5}
    for code, estimate in zip(
        flow,
        deqflow.estimate_video(folder / "demo" / "bigbuckbunny.mp4", names["model"], **options),
        strict=True,
    ):
        expected = estimate.flow.clip(-bound, bound)
        np.testing.assert_allclose(dequantize_flow(code, bound), expected, atol=0.5 * bound / 127.5 + 1e-3)
    times = {path: path.stat().st_mtime_ns for path in (folder / "features").iterdir()}
    assert names["features"](folder / "demo", folder / "features", short_side=96) == []
    assert times == {path: path.stat().st_mtime_ns for path in (folder / "features").iterdir()}
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    (failed,) = names["features"](tmp_path, tmp_path / "out")
    assert "broken.mp4" in failed and list((tmp_path / "out").iterdir()) == []
