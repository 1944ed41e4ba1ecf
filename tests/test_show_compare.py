"""``deqflow show`` and ``deqflow compare``: flow files of any format, seen and compared."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deqflow.cli import main
from deqflow.io import FLOW_FORMATS, read_flow, read_image, write_flow, write_image
from deqflow.visualize import error_map, flow_to_image

SUFFIXES = [suffix for suffix in FLOW_FORMATS if suffix != ".exr"]


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    return np.random.default_rng(0).uniform(-8, 8, (24, 32, 2)).astype(np.float32)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_show_draws_every_format_in_the_wheel(
    flow: np.ndarray, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    valid = np.ones(flow.shape[:2], bool)
    if suffix != ".pfm":  # which knows no unknown flow
        valid[:4] = False
    write_flow(f"a{suffix}", flow, valid)
    assert run("show", f"a{suffix}", "--output", "b.png", "--max-flow", "10") == 0
    stored, known = read_flow(f"a{suffix}")
    expected = flow_to_image(np.where(known[..., None], stored, np.nan), 10.0, clip=True)
    assert (read_image("b.png") == expected).all()
    assert (read_image("b.png")[~valid] == 0).all()
    assert f"32x24, known in {100 * valid.mean():.1f} %" in capsys.readouterr().out


def test_show_with_the_frame(flow: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    write_flow("a.flo", flow)
    frame = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    write_image("frame.png", frame)
    for layout, width in (("arrows", 32), ("overlay", 32), ("side-by-side", 64)):
        arguments = ("--layout", layout, "--frame", "frame.png", "--output", f"{layout}.png")
        assert run("show", "a.flo", *arguments) == 0
        assert read_image(f"{layout}.png").shape == (24, width, 3)
    assert (read_image("side-by-side.png")[:, :32] == frame).all()
    assert run("show", "a.flo") == 0 and Path("output/a_flow.png").exists()
    capfd.readouterr()
    assert run("show", "a.flo") == 2
    assert "output/a_flow.png exists already" in capfd.readouterr().err
    assert run("show", "a.flo", "--output", "a.flo") == 2
    assert run("show", "missing.flo") == 2
    assert "missing.flo" in capfd.readouterr().err
    write_image("small.png", frame[:20])
    assert run("show", "a.flo", "--frame", "small.png", "--output", "c.png") == 2
    assert "small.png is 32x20 pixels, the flow 32x24" in capfd.readouterr().err
    assert run("show", "a.flo", "--layout", "overlay") == 2


def test_compare_counts_what_is_known_in_both(flow: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    other, valid = flow.copy(), np.ones(flow.shape[:2], bool)
    other[3, 5] += (3, 4)
    other[10:, :, 0] += 2
    other[0, 0] = 500
    valid[0] = False
    write_flow("a.flo", flow)
    write_flow("b.npz", other, valid)
    assert run("compare", "a.flo", "b.npz", "--output", "d.png", "--max-error", "4") == 0
    found = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    figures = {name: value.strip() for name, value in found.items()}
    expected = (14 * 32 * 2 + 5) / (23 * 32)
    assert figures["pixels known in both"] == f"{23 * 32} of {24 * 32}"
    assert figures["mean end-point difference"] == f"{expected:.4f} px"
    assert figures["largest"] == "5.0000 px at x 5, y 3"
    assert figures["50 90 99 percent within"] == "2.0000 2.0000 2.0000 px"
    over = [100 * (14 * 32 + 1) / (23 * 32), 100 / (23 * 32), 0]
    assert figures["over 1 3 5 px"] == " ".join(f"{share:.2f}" for share in over) + " %"
    assert (read_image("d.png") == error_map(flow, other, valid, 4.0)).all()


def test_compare_says_what_does_not_fit(flow: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    write_flow("a.flo", flow)
    write_flow("b.flo", flow[:20])
    write_flow("c.npz", flow, np.zeros(flow.shape[:2], bool))
    said = {
        ("a.flo", "b.flo"): "a.flo is 32x24, b.flo is 32x20; expected flows of one size",
        ("a.flo", "c.npz"): "no pixel is known in both a.flo and c.npz",
        ("a.flo", "missing.flo"): "missing.flo",
        ("a.flo", "a.flo", "--output", "d.jpg"): "d.jpg: .jpg cannot be written here",
    }
    for arguments, sentence in said.items():
        assert run("compare", *arguments) == 2
        assert sentence in capfd.readouterr().err


@pytest.mark.filterwarnings("error::RuntimeWarning")
@settings(max_examples=40, deadline=None)
@given(
    flow=st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
        lambda size: arrays(np.float32, (*size, 2), elements=st.floats(width=32))
    ),
    suffix=st.sampled_from([suffix for suffix in FLOW_FORMATS if suffix not in (".png", ".exr")]),
)
def test_any_flow_is_shown_and_is_no_different_from_itself(
    tmp_path_factory: pytest.TempPathFactory, flow: np.ndarray, suffix: str
) -> None:
    """Of any size, and with any values where it is known; the infinite and NaN are unknown."""
    folder = tmp_path_factory.mktemp("any")
    file, picture = folder / f"a{suffix}", folder / "a.png"
    known = (np.abs(flow) < 1e9).all(axis=-1)
    write_flow(file, np.where(known[..., None], flow, 0), known)
    read, valid = read_flow(file)
    assert (valid == known).all() and (read[known] == flow[known]).all()
    assert main(["show", str(file), "--output", str(picture)]) == 0
    assert main(["compare", str(file), str(file)]) == (0 if known.any() else 2)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_length_of_huge_flow_does_not_overflow(tmp_path: Path) -> None:
    write_flow(tmp_path / "a.npy", np.full((2, 3, 2), -3e38, np.float32))
    assert main(["show", str(tmp_path / "a.npy"), "--output", str(tmp_path / "a.png")]) == 0
