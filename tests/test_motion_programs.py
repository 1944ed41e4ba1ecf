"""Motion programs: frame 2 seen back through the flow is frame 1, by every kind of motion."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqflow.data.synthetic import PROGRAMS, MotionProgram
from deqflow.geometry import warp
from deqflow.io import open_video

PICTURE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8), (0, 0), 1.5
)
INTEGER = [program for program in PROGRAMS if not program.name.startswith(("zoom", "rotation"))]


@pytest.fixture(scope="module")
def picture(repository):
    """A frame with things to see in it, without detail that interpolation would lose."""
    frame = next(iter(open_video(repository / "demo" / "bigbuckbunny.mp4")))
    return cv2.GaussianBlur(np.asarray(frame), (0, 0), 2.0)


def gap(sample):
    """Mean difference of frame 1 and frame 2 seen back, where the flow stays inside, and where that is."""
    back, inside = warp(sample.frame2, sample.flow)
    return np.abs(back - sample.frame1).mean(axis=2), inside


def test_every_program_is_one_sequence_of_whole_frames():
    names = [program.name for program in PROGRAMS]
    assert len(set(names)) == len(names) == 15
    for program in PROGRAMS:
        samples = program.render(PICTURE, (96, 128))
        assert [sample.index for sample in samples] == list(range(len(program.camera) - 1))
        assert {sample.sequence for sample in samples} == {program.name}
        assert all(np.array_equal(one.frame2, next_.frame1) for one, next_ in pairwise(samples))
        for sample in samples:
            assert sample.frame1.shape == (96, 128, 3) and sample.frame1.dtype == np.uint8
            assert sample.flow.shape == (96, 128, 2) and sample.flow.dtype == np.float32
            assert sample.valid.all()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_frame_2_seen_back_through_the_flow_is_frame_1(program, picture):
    exact = program in INTEGER
    for sample in program.render(picture):
        difference, inside = gap(sample)
        shown = difference[inside]
        if program.thing:  # what it uncovers and covers is seen once
            assert np.mean(shown < 0.01) > 0.92 and np.median(shown) < 0.01
        elif exact:
            assert shown.max() < 0.01
        else:  # interpolated twice, and rounded twice
            assert shown.mean() < 0.6
        assert inside.mean() > 0.85


def test_a_flow_that_is_off_by_half_a_pixel_would_be_seen(picture):
    for program in PROGRAMS[-2:]:
        sample = program.render(picture)[0]
        sample.flow[..., 0] += 0.5
        difference, inside = gap(sample)
        assert difference[inside].mean() > 1


def test_zoom_and_rotation_by_hand():
    zoom, rotation = (program.render(PICTURE, (65, 97)) for program in PROGRAMS[-2:])
    grown, turned = np.exp(0.05) - 1, np.deg2rad(4)
    for samples, at_right in (
        (zoom, (10 * grown, 0)),
        (rotation, (10 * (np.cos(turned) - 1), 10 * np.sin(turned))),
    ):
        for sample in samples[:3]:
            np.testing.assert_allclose(sample.flow[32, 48], 0, atol=1e-5)
            np.testing.assert_allclose(sample.flow[32, 58], at_right, atol=1e-5)
        assert np.abs(samples[-1].flow).max() < 1e-9
        assert np.array_equal(samples[-1].frame1, samples[-1].frame2)


def test_a_thing_starts_before_a_picture_that_drifts():
    (program,) = (program for program in PROGRAMS if program.thing)
    samples = program.render(PICTURE, (96, 128))
    for index, sample in enumerate(samples):
        speeds = {tuple(vector) for vector in sample.flow.reshape(-1, 2)}
        assert speeds == {(1.0, 0.0), (14.0 if index >= 3 else 0.0, 0.0)}
        moves = (sample.flow != (1, 0)).any(axis=2)
        assert 0.05 < moves.mean() < 0.15


@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), min_size=2, max_size=4))
def test_any_shifts_are_exact_even_beyond_the_picture(shifts):
    samples = MotionProgram.of_shifts("any", shifts).render(PICTURE[:40, :50], (32, 48))
    for sample, (before, after) in zip(samples, pairwise(shifts), strict=True):
        assert (sample.flow == np.subtract(after, before)).all()
        difference, inside = gap(sample)
        assert not inside.any() or difference[inside].max() < 0.01
