"""What surrounds the package: citation, forms, workflows, requirements, entry points."""

import re
import tomllib
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import deqflow
import hubconf

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("datasets/*.md")]
RUNTIME_EXTRAS = ("train", "report", "flo5", "exr", "hub", "app", "corpus", "onnx")


def read_yaml(path):
    return yaml.safe_load((REPOSITORY / path).read_text())


def pins(name):
    lines = (REPOSITORY / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name.lower().replace("_", "-"): next(iter(pin.specifier)) for pin in found}


def test_the_citation_is_of_this_version_and_names_the_papers():
    citation = read_yaml("CITATION.cff")
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    identifiers = {entry["identifiers"][0]["value"] for entry in citation["references"]}
    assert {"arXiv:2204.08442", "arXiv:2003.12039"} <= identifiers
    assert all(reference["authors"] and reference["year"] for reference in citation["references"])


def test_the_changelog_knows_this_version():
    headings = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == PROJECT["version"]


def test_what_workflows_run_exists():
    made = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for path in sorted((REPOSITORY / ".github" / "workflows").glob("*.yml")):
        workflow = read_yaml(path)
        steps = list(chain.from_iterable(job["steps"] for job in workflow["jobs"].values()))
        assert workflow["permissions"] == {"contents": "read"}, path
        commands = [step["run"] for step in steps if "run" in step]
        assert commands, path
        for command in commands:
            if command.startswith("make "):
                assert command.split()[1] in made, path
            for extra in re.findall(r'\.\[(\w+)\]"', command):
                assert extra in PROJECT["optional-dependencies"], path


def test_every_classified_python_is_tested():
    classified = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    matrix = read_yaml(".github/workflows/tests.yml")["jobs"]["newest"]["strategy"]["matrix"]
    assert classified == {*matrix["python"], *(entry["python"] for entry in matrix["include"])}
    assert PROJECT["requires-python"] == f">={min(classified, key=Version)}"


def test_lower_bounds_are_those_of_the_requirements():
    wanted = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in RUNTIME_EXTRAS)]
    requirements = [Requirement(line) for line in chain.from_iterable(wanted)]
    lowest = {
        requirement.name.lower().replace("_", "-"): specifier.version
        for requirement in requirements
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    pinned = pins("lower-bounds.txt")
    assert all(specifier.operator == "==" for specifier in pinned.values())
    assert {name: specifier.version for name, specifier in pinned.items()} == lowest


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_forms_ask(form):
    content = read_yaml(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert content["name"] and content["description"]
    identifiers = [field["id"] for field in content["body"]]
    assert len(set(identifiers)) == len(identifiers) > 1
    assert any(field.get("validations", {}).get("required") for field in content["body"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


class TestTorchHub:
    def test_a_checkout_is_a_hub(self):
        assert {"deqflow_s", "estimator"} <= {
            name for name in dir(hubconf) if callable(getattr(hubconf, name))
        }
        assert all(find_spec(module) is not None for module in hubconf.dependencies)

    def test_its_models_are_those_of_the_package(self):
        options = {"device": "cpu", "precision": "float32"}
        model = torch.hub.load(
            str(REPOSITORY), "deqflow_s", source="local", device="cpu", precision="float32"
        )
        frames = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
        expected = deqflow.load("deqflow-s", **options).estimate(*frames, steps=2)
        assert np.array_equal(model.estimate(*frames, steps=2).flow, expected.flow)

    def test_random_weights_can_be_trained(self):
        model = torch.hub.load(str(REPOSITORY), "estimator", "raft-small", pretrained=False, source="local")
        assert model.name == "raft-small"
        assert all(parameter.requires_grad for parameter in model.parameters())
