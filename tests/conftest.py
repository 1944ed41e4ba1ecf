"""Fixtures shared by all tests: one thread, fixed seeds, devices, material outside the checkout."""

import dataclasses
import os
import random
import signal
from pathlib import Path

# Before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import cv2
import hypothesis
import numpy as np
import pytest
import torch

from deqflow import zoo
from deqflow.zoo import checkpoints

torch.set_num_threads(1)
cv2.setNumThreads(1)
# Background jobs of a shell ignore Ctrl-C, and what runs under nohup its terminal's end. So would what the
# tests start, to be sent these: processes inherit what is ignored, but not what is handled.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)
# Float32 is compared as float32: CUDA would round convolutions to TensorFloat-32.
torch.backends.cudnn.allow_tf32 = False

# Derandomised, so that a failure is the same on every machine; no deadline, because shared machines stall.
hypothesis.settings.register_profile(
    "deqflow", derandomize=True, deadline=None, print_blob=True, max_examples=50
)
hypothesis.settings.load_profile("deqflow")

# The pickles that tests write are harmless: how they are read is tested on older releases of PyTorch too.
checkpoints.SAFE_UNPICKLER = "2.6"

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name solvers, gradients and their like by what is not default, the same in every process."""
    return described(val) if dataclasses.is_dataclass(val) and not isinstance(val, type) else None


def described(value: object) -> str:
    """A value in a line without the address of anything."""
    if isinstance(value, type) or not dataclasses.is_dataclass(value):
        return getattr(value, "__name__", str(value))
    changed = []
    for field in dataclasses.fields(value):
        default = field.default_factory() if callable(field.default_factory) else field.default
        if (given := getattr(value, field.name)) != default:
            changed.append(f"{field.name}={described(given)}")
    return f"{type(value).__name__}({', '.join(changed)})"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: what the command line does around the model is tested, not the flow."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    zoo.save_weights(zoo.create("deqflow-s"), path)
    return path


def shorten(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Let deqflow-s stop after so many steps a scale, and half as many at 1/4, where it ends."""
    preset = zoo.PRESETS["deqflow-s"]
    few = {"steps": steps, "fine_steps": steps // 2, "still_pixels": 0, "second_start": False}
    short = dataclasses.replace(preset.defaults, **few)
    patch.setitem(zoo.PRESETS, "deqflow-s", dataclasses.replace(preset, defaults=short))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """deqflow-s stops after two steps a scale: for tests of what is around a solve."""
    shorten(monkeypatch, 2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same global random state at the start of each test."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine in turn: always the CPU, CUDA where there is one."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that holds these tests."""
    return REPOSITORY


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """A folder of data sets, see `evaluation_data.write_benchmarks`."""
    from evaluation_data import write_benchmarks

    write_benchmarks(tmp_path / "data")
    return tmp_path / "data"


def _shared_folder(name: str, holds: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: {holds}")
    return folder


@pytest.fixture(scope="session")
def shared_benchmark() -> Path:
    """Real frames with ground truth, in the official layouts."""
    return _shared_folder("benchmark", "real frames with ground truth")


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """Real video clips."""
    return _shared_folder("clips", "video clips")


@pytest.fixture(scope="session")
def shared_textures() -> Path:
    """Photos and cut-out objects with a manifest of licenses."""
    return _shared_folder("textures", "photos and cut-outs for synthetic scenes")


@pytest.fixture(scope="session")
def shared_parity() -> Path:
    """Weights, frames and outputs of the published code."""
    return _shared_folder("parity", "outputs of the published code")
