"""What the weights that ship with the package promise."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open

import deqflow
from deqflow.config import ModelConfig
from deqflow.data.synthetic import SyntheticScenes, Textures
from deqflow.io import open_video, shrink
from deqflow.zoo import PRESETS, shipped_weights


@pytest.fixture(scope="module")
def model():
    return deqflow.load("deqflow-s", device="cpu")


@pytest.fixture(scope="module")
def clip(repository):
    frames = [
        shrink(frame, 320)
        for frame, _ in zip(open_video(repository / "demo" / "bigbuckbunny.mp4"), range(6), strict=False)
    ]
    assert len(frames) == 6
    return frames


def ends(part):
    """What is told of each stretch of training that weights are the mean of, through means of means."""
    inner = part.get("averaged") or []
    yield from (end for one in inner for end in ends(one))
    if not inner:
        yield part


def test_the_file_is_small_and_says_what_it_is():
    path = shipped_weights("deqflow-s")
    assert path.stat().st_size < 10e6
    with safe_open(str(path), framework="np") as file:
        metadata = file.metadata()
    assert metadata["model"] == "deqflow-s"
    config, usual = ModelConfig.from_dict(json.loads(metadata["config"])), PRESETS["deqflow-s"].config
    assert replace(config, uncertainty=usual.uncertainty) == usual
    assert len(config.uncertainty.calibration) >= 2
    assert {"weights", "data", "textures", "recipe", "calibrated_on"} <= metadata.keys()
    stretches = list(ends(metadata | {"averaged": json.loads(metadata.get("averaged", "[]"))}))
    assert stretches
    for stretch in stretches:
        assert {"steps", "hours", "recipe", "started_from"} <= stretch.keys()


def test_identical_frames_stand_still(model, clip):
    for frame in clip[:2]:
        assert np.abs(model.estimate(frame, frame.copy()).flow).mean() < 0.05


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_frames_are_finite(model, value):
    frame = np.full((40, 50, 3), value, np.uint8)
    assert np.isfinite(model.estimate(frame, frame).flow).all()


def test_a_shift_is_found(model, clip):
    frame = clip[0]
    flow = model.estimate(frame[8:-8, 16:-8], frame[4:-12, 8:-16]).flow[20:-20, 20:-20]
    np.testing.assert_allclose(np.median(flow, axis=(0, 1)), [8, 4], atol=0.25)


def test_synthetic_motion_is_explained(model):
    """Scenes of textures that no training saw; most of their motion is found."""
    scenes = SyntheticScenes(Textures(), 192, 256, seed=77)
    errors, motions = [], []
    for index in range(8):
        sample = scenes[index]
        visible = sample.valid if sample.occlusion is None else sample.valid & ~sample.occlusion
        if not visible.any():
            continue
        gap = model.estimate(sample.frame1, sample.frame2).flow - sample.flow
        errors.append(np.linalg.norm(gap, axis=2)[visible].mean())
        motions.append(np.linalg.norm(sample.flow, axis=2)[visible].mean())
    assert np.median(errors) < 0.6 * np.median(motions)


def test_reuse_saves_evaluations_on_a_real_clip(model, clip):
    cost = {
        reuse: sum(estimate.cost for estimate in deqflow.estimate_video(clip, model, reuse=reuse))
        for reuse in (True, False)
    }
    assert cost[True] < cost[False]
