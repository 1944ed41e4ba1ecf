"""What a newcomer touches first: requirements, make targets, README, the wheel in an empty environment."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import deqflow
from deqflow import export
from deqflow.cli import main
from deqflow.errors import DeqflowError
from deqflow.evaluation import bench
from deqflow.export import FixedSteps
from deqflow.io import read_flow, write_flow
from deqflow.io.images import write_image
from deqflow.io.video import VideoWriter

REPOSITORY = Path(__file__).resolve().parent.parent


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    """Run a command outside this process's own environment of packages."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS")}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, **options
    )


def succeed(*command: object, **options) -> str:
    result = run(*command, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def project(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins(repository):
    lines = (repository / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name.lower().replace("_", "-"): pin for pin in requirements}


class TestRequirements:
    def test_every_pin_is_exact_and_serves_any_build(self, pins):
        for pin in pins.values():
            (specifier,) = pin.specifier
            assert specifier.operator == "==", pin
            assert Version(specifier.version).local is None, pin

    def test_every_requirement_is_pinned_inside_its_range(self, project, pins):
        extras = chain.from_iterable(project["optional-dependencies"].values())
        for requirement in map(Requirement, [*project["dependencies"], *extras]):
            if requirement.name == project["name"]:
                assert requirement.extras <= project["optional-dependencies"].keys()
                continue
            (pin,) = pins[requirement.name].specifier
            assert requirement.specifier.contains(pin.version), requirement
            operators = {specifier.operator for specifier in requirement.specifier}
            assert operators == {">=", "<"}, f"{requirement} does not state a range"


class TestMake:
    def test_targets_are_the_documented_ones(self, repository):
        for target in ("demo", "test", "test-slow", "test-all", "lint"):
            plan = succeed("make", "--dry-run", "--always-make", target, cwd=repository)
            assert ".venv/bin/" in plan

    def test_without_a_python_there_is_a_sentence(self, repository, tmp_path):
        shutil.copy(repository / "Makefile", tmp_path)
        result = run("make", "test", "CANDIDATES=no-such-python", cwd=tmp_path)
        assert result.returncode == 2
        assert "Python 3.11 or newer with its venv module was not found" in result.stderr
        assert not (tmp_path / ".venv").exists()

    def test_ci_runs_all_of_them(self, repository):
        script = repository / ".ci" / "run"
        assert os.access(script, os.X_OK)
        calls = " ".join(re.findall(r"^make (.+)$", script.read_text(), re.MULTILINE)).split()
        targets = [word for word in calls if not word.startswith("-")]
        assert targets == ["install", "lint", "docs", "test-all"]


DETAILS = [
    REPOSITORY / "docs" / f"{name}.md"
    for name in ("install", "usage", "files", "models", "evaluation", "training")
]
"""The pages that the README leads to for what it does not say; their examples name the same files."""


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands_of(*pages: Path) -> list[list[str]]:
    """What pages run of this project, as arguments of the `deqflow` command, each once."""
    commands: list[list[str]] = []
    for line in "\n".join(block for page in pages for block in code_blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["torchrun"]:
            script = next(index for index, word in enumerate(words) if word.endswith(".py"))
            words = ["python", *words[script:]]
        if words[:1] == ["python"]:
            words = ["deqflow", words[1].removesuffix(".py"), *words[2:]]
        if words[:1] == ["deqflow"] and words[1:] not in commands:
            commands.append(words[1:])
    return commands


def quick_bench(measure, model, cases, **options):
    """Measure less: older processors have no bfloat16, and compute in it a hundred times slower."""
    small = [case._replace(size=(48, 64), steps=1) for case in cases]
    return measure(model, small, **{**options, "repeats": 1, "progress": False})


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> None:
    """The files that the README's examples name, small, in the current directory."""
    texture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    frames = [texture[8 : 8 + 48, 4 + shift : 4 + shift + 64] for shift in range(3)]
    monkeypatch.chdir(tmp_path)
    Path("frames").mkdir()
    Path("datasets").symlink_to(REPOSITORY / "datasets")
    for index, frame in enumerate(frames, start=1):
        write_image(f"frame{index}.png", frame)
        write_image(f"frames/{index:04d}.png", frame)
    for name in ("estimate.npy", "truth.flo"):
        write_flow(name, np.ones((48, 64, 2), np.float32))
    with VideoWriter("clip.mp4", fps=10) as writer:
        for frame in frames:
            writer.write(frame)


class TestReadme:
    def test_make_targets_exist(self, repository):
        lines = "\n".join(code_blocks(repository / "README.md", "bash"))
        targets = re.findall(r"^make ([\w-]+)", lines, re.MULTILINE)
        assert targets[:2] == ["demo", "test"]
        for target in targets:
            succeed("make", "--dry-run", target, cwd=repository)

    def test_links_lead_somewhere(self, repository):
        text = (repository / "README.md").read_text()
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        assert [link for link in links if not (repository / link).exists()] == []

    def test_it_is_short(self, repository):
        assert len((repository / "README.md").read_text().splitlines()) <= 200

    def test_estimating(self, repository, inputs):
        names: dict[str, Any] = {}
        exec(code_blocks(repository / "README.md", "python")[0], names)
        assert names["estimate"].flow.shape == (48, 64, 2)
        assert code_blocks(repository / "docs" / "usage.md", "python") == [
            code_blocks(repository / "README.md", "python")[0]
        ]

    def test_fine_tuning(self, repository, inputs):
        names: dict[str, Any] = {}
        _, example = code_blocks(repository / "README.md", "python")
        exec(example, names)
        untrained = deqflow.load("deqflow-s", precision="float32").estimate("frame1.png", "frame2.png")
        truth, _ = deqflow.read_flow("truth.flo")
        before = np.linalg.norm(untrained.flow - truth, axis=-1).mean()
        assert names["error"].item() < 0.8 * before

    @pytest.mark.parametrize("line", commands_of(REPOSITORY / "README.md", *DETAILS), ids=" ".join)
    def test_commands_are_understood(self, line, inputs, few_steps, monkeypatch, capsys):
        """Run the command on tiny inputs; placeholders fail on the file they name and on nothing else."""
        monkeypatch.setattr(bench, "measure_speed", partial(quick_bench, bench.measure_speed))
        # Writing a model takes half a minute, whatever its size: a slow test looks at what is written.
        monkeypatch.setattr(export, "export_onnx", lambda model, path, settings: FixedSteps(model, settings))
        try:
            code = main(line)
        except SystemExit as stop:
            code = stop.code
        errors = capsys.readouterr().err
        if code != 0:
            assert code == 2, errors
            assert re.search(
                r"^deqflow: error: .*(path/to|runs/first|webcam 0|webcam has)", errors, re.MULTILINE
            ), errors


class TestExtras:
    """What an installation without extras says."""

    @pytest.mark.parametrize(
        ("package", "extra", "modules", "arguments"),
        [
            ("uvicorn", "app", ["deqflow.app.server"], ["app"]),
            ("tensorboard", "train", ["torch.utils.tensorboard", "deqflow.training.trainer"], ["train"]),
            (
                "jinja2",
                "report",
                ["deqflow.evaluation.report"],
                ["evaluate", "--dataset", "sintel", "--data", "datasets/sample/sintel", "--report", "report"],
            ),
        ],
    )
    def test_a_sentence_names_the_extra(
        self, package, extra, modules, arguments, inputs, project, monkeypatch, capsys
    ):
        for module in modules:  # as in a process that has not imported them
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setitem(sys.modules, package, None)
        assert main(arguments) == 2
        brings = f"needs the package {package}, which `pip install 'deqflow[{extra}]'` brings\n"
        assert capsys.readouterr().err.endswith(brings)
        assert any(line.startswith(package) for line in project["optional-dependencies"][extra])
        assert not Path("report").exists() and not Path("runs").exists()

    def test_a_flow_file_names_its_extra_before_any_work(self, inputs, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "h5py", None)
        monkeypatch.setattr("deqflow.zoo.load", None)
        for arguments in (
            ["flow", "frame1.png", "frame2.png", "--output", "new/flow.flo5"],
            ["video", "clip.mp4", "--output", "new", "--flow-dir", "new/flow", "--flow-format", "flo5"],
        ):
            assert main(arguments) == 2
            assert "h5py, which `pip install 'deqflow[flo5]'` brings" in capsys.readouterr().err
        assert not Path("new/flow").exists()

    @pytest.mark.parametrize(
        ("package", "extra", "signature"),
        [("h5py", "flo5", b"\x89HDF\r\n\x1a\n"), ("OpenEXR", "exr", b"\x76\x2f\x31\x01")],
    )
    def test_a_flow_file_names_its_extra(self, package, extra, signature, project, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, package, None)
        path = tmp_path / f"flow.{extra}"
        path.write_bytes(signature)
        flow = np.zeros((4, 5, 2), np.float32)
        for call in (lambda: write_flow(path, flow), lambda: read_flow(path)):
            with pytest.raises(DeqflowError, match=rf"{package}, which `pip install 'deqflow\[{extra}\]'`"):
                call()
        assert any(line.startswith(package.lower()) for line in project["optional-dependencies"][extra])
        assert path.read_bytes() == signature


@pytest.fixture(scope="module")
def environment(repository, tmp_path_factory) -> Path:
    """An empty virtual environment with the wheel in it, outside the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    succeed(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, repository)
    (wheel,) = folder.glob("deqflow-*.whl")
    succeed(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    succeed(python, "-m", "pip", "install", "-c", repository / "constraints.txt", wheel)
    return folder / "venv" / "bin"


@pytest.mark.slow
class TestWheel:
    def test_the_command_is_installed(self, environment, tmp_path):
        help_text = succeed(environment / "deqflow", "--help", cwd=tmp_path)
        for command in ("flow", "video", "scenes", "evaluate", "train", "bench", "models"):
            assert command in help_text

    def test_it_works_without_extras(self, environment, tmp_path):
        installed = succeed(environment / "python", "-m", "pip", "list", "--format", "freeze", cwd=tmp_path)
        assert "tensorboard" not in installed
        output = tmp_path / "flow"
        succeed(environment / "deqflow", "demo", "--max-frames", "3", "--max-side", "64", "--output", output)
        assert list(output.glob("*.mp4"))
        result = run(environment / "deqflow", "train", cwd=tmp_path)
        assert result.returncode == 2
        assert "pip install 'deqflow[train]'" in result.stderr

    def test_the_weights_come_from_the_wheel(self, environment, repository, tmp_path):
        output = succeed(
            environment / "python",
            "-c",
            "import deqflow, importlib.resources as resources, numpy as np\n"
            "model = deqflow.load('deqflow-s')\n"
            "frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)\n"
            "print(np.isfinite(model.estimate(frame, frame).flow).all())\n"
            "print(resources.files('deqflow').joinpath('weights', 'deqflow-s.safetensors'))\n"
            "deqflow.load('deqflow-s-v0')\n",
            cwd=tmp_path,
        )
        finite, weights = output.split()
        assert finite == "True"
        assert Path(weights).is_relative_to(environment.parent)
        shipped = repository / "weights" / "deqflow-s.safetensors"
        assert Path(weights).read_bytes() == shipped.read_bytes()

    def test_it_is_typed_and_brings_the_demo_clip_with_its_attribution(self, environment):
        (package,) = environment.parent.glob("lib/python*/site-packages/deqflow")
        assert (package / "py.typed").is_file()
        assert list(package.glob("demo/*.mp4"))
        assert list(package.glob("demo/*.md"))
        assert not list(package.parent.glob("tests"))
