"""Footage without ground truth: what is found, cut into shots, held out and drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from deqflow.cli import main
from deqflow.errors import ConfigError, DataError
from deqflow.io.images import write_image
from deqflow.io.video import VideoWriter
from deqflow.training import trainer
from deqflow.training.footage import FootagePairs, find_footage, is_cut, open_footage, read_shots
from deqflow.training.options import FootageOptions

SCENES = [
    np.kron(np.random.default_rng(seed).integers(0, 256, (12, 16, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    for seed in range(2)
]


def frame(scene: int, shift: int) -> np.ndarray:
    """A window into a scene that pans to the right: content moves by -1 pixel a frame."""
    return SCENES[scene][10:90, 10 + shift : 106 + shift]


@pytest.fixture
def footage(tmp_path):
    """Two takes in one folder of images, and a video in a folder of its own."""
    for folder in ("walk", "drone"):
        (tmp_path / folder).mkdir()
    for index in range(12):
        write_image(tmp_path / "walk" / f"{index}.png", frame(index // 6, index % 6))
    with VideoWriter(tmp_path / "drone" / "flight.mp4", fps=10) as writer:
        for index in range(8):
            writer.write(frame(0, index))
    (tmp_path / "notes.txt").write_text("not footage")
    return tmp_path


@pytest.fixture
def options(footage):
    return FootageOptions(data=footage, height=64, width=64, held_out=0.34, validation_pairs=3)


def test_videos_and_folders_are_found_in_order(footage):
    for name in ("drone/._flight.mp4", "drone/._1.png", "drone/._2.png", ".trash/1.png", ".trash/2.png"):
        (footage / name).parent.mkdir(exist_ok=True)
        (footage / name).write_bytes(b"\0\5\x16\7")
    assert find_footage(footage) == [footage / "drone" / "flight.mp4", footage / "walk"]
    assert find_footage(footage / "drone" / "flight.mp4") == [footage / "drone" / "flight.mp4"]


def test_shots_end_at_cuts_and_keep_every_frame(footage):
    shots = list(read_shots(footage / "walk", (80, 96), 100))
    assert [(shot.name, len(shot.frames)) for shot in shots] == [("walk 0", 6), ("walk 6", 6)]
    assert np.array_equal(shots[1][2], frame(1, 2))
    assert sum(len(shot.frames) for shot in read_shots(footage / "walk", (80, 96), 8)) == 8


def test_large_frames_are_kept_smaller(tmp_path):
    for index in range(3):
        write_image(tmp_path / f"{index}.png", np.kron(frame(0, index), np.ones((4, 4, 1), np.uint8)))
    (shot,) = read_shots(tmp_path, (64, 64), 100)
    assert shot[0].shape == (83, 100, 3)  # of 320x384: the height is 1.3 times the crop's


def test_pairs_are_neighbors_and_drawn_from_seed_and_number(footage):
    shots = list(read_shots(footage / "walk", (80, 96), 100))
    pairs = FootagePairs(shots, (64, 72), seed=3)
    again = FootagePairs(shots, (64, 72), seed=3)
    for number in range(20):
        sample = pairs[number]
        name, _, one, two = sample.name.split()
        assert name == "walk" and abs(int(one) - int(two)) == 1
        assert sample.frame1.shape == (64, 72, 3) and not sample.valid.any()
        # Neighboring frames show the same but for a pan by one pixel.
        shifts = [np.roll(sample.frame1, shift, axis=1)[:, 2:-2] for shift in (-1, 1)]
        assert any(np.array_equal(shifted, sample.frame2[:, 2:-2]) for shifted in shifts)
        assert np.array_equal(sample.frame1, again[number].frame1)
    assert len({pairs[number].name for number in range(60)}) > 12


def test_the_end_of_every_shot_is_held_out(options):
    sources = open_footage(options)
    assert [kind.count for kind in sources.held_out] == [3] and sources.epoch is None
    held_out = {sources.held_out[0].read(index).name for index in range(3)}
    assert held_out <= {"flight.mp4 0 0", "flight.mp4 0 1", "walk 0 0", "walk 6 0"}
    drawn = {int(sources.training[number].name.split()[-1]) for number in range(80)}
    assert max(drawn) <= 4  # of eight frames three are held out, of six two
    assert "20 frames, 3 shots" in sources.summary


def test_what_cannot_be_used_is_named(options, tmp_path_factory):
    with pytest.raises(ConfigError, match="needs --data"):
        open_footage(replace(options, data=None))
    with pytest.raises(DataError, match=r"frames of 96x80 pixels, which crops of 128x64 do not fit into"):
        open_footage(replace(options, width=128))
    with pytest.raises(ConfigError, match="height and width must be multiples of 16 for deqflow-s"):
        trainer.run(replace(options, height=72, width=72, output=tmp_path_factory.mktemp("run")))
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="holds neither videos nor folders of images"):
        open_footage(replace(options, data=empty))
    with pytest.raises(DataError, match="holds neither videos"):
        open_footage(replace(options, data=empty / "missing"))
    with pytest.raises(DataError, match="no two neighboring frames"):
        FootagePairs([], (64, 64), seed=0)


def test_training_on_footage_from_the_command_line(footage, tmp_path_factory, capsys):
    output = tmp_path_factory.mktemp("run")
    arguments = (
        f"train --stage footage --data {footage} --init deqflow-s --output {output} --train-steps 3 "
        "--batch 2 --height 64 --width 64 --solver-steps 4 6 --held-out 0.34 --validate-steps 3 "
        "--validation-pairs 2 --validate-minutes 0 --device cpu"
    )
    assert main([*arguments.split(), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "footage without ground truth: 20 frames, 3 shots" in told and "photometric" in told
    assert main(arguments.split()) == 0
    told = capsys.readouterr()
    assert "held out photometric" in told.out + told.err
    assert "better: held-out photometric error" in told.out + told.err


def test_only_better_weights_are_written(footage, tmp_path_factory, monkeypatch, capsys):
    """Whatever the frames say: the evaluations are given."""
    output = tmp_path_factory.mktemp("run")
    arguments = (
        f"train --stage footage --data {footage} --init deqflow-s --output {output} --train-steps 2 "
        "--batch 2 --height 64 --width 64 --solver-steps 4 4 --held-out 0.34 --validate-steps 1 "
        "--validate-minutes 0 --device cpu"
    )
    scores = iter([2.0, 1.5, 1.8])
    monkeypatch.setattr(trainer, "evaluate", lambda *_: {"photometric": next(scores)})
    assert main(arguments.split()) == 0
    told = capsys.readouterr()
    assert "better: held-out photometric error 2.000 before, 1.500 at step 1" in told.out + told.err
    with safe_open(str(output / "deqflow-s.safetensors"), framework="np") as file:
        assert file.metadata()["held_out_photometric"] == "1.5" and file.metadata()["steps"] == "1"


def test_what_is_a_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.full((1, 1, 12, 16), 100.0)
    one, other = (255 * torch.rand(1, 1, 12, 16, generator=generator) for _ in range(2))
    still = torch.zeros(1, 2, 12, 16)
    assert is_cut(one, other, still)
    assert not is_cut(one, one + 40, still)  # a flash
    assert not is_cut(one, 0.6 * one, still)  # exposure
    assert not is_cut(flat, flat + 3, still)
    moved = one.roll(5, dims=3)  # unlike the last frame, but just what its motion leads to
    assert is_cut(one, moved, still)
    motion = still.clone()
    motion[:, 0] = 5
    assert not is_cut(one, moved, motion)
