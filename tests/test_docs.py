"""The documentation: every block of the tutorials and guides does what it says, in order, page by page."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

import deqflow.equilibrium
from deqflow.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PAGES = [DOCS / "cookbook.md", DOCS / "hub.md", DOCS / "method.md", *sorted(DOCS.glob("tutorials/*.md"))]


def blocks(page):
    """The language and the text of each block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def run_command(line, capfd):
    """A `deqflow` command; one that names a placeholder fails on that and on nothing else."""
    words = shlex.split(line, comments=True)
    assert words[0] == "deqflow", line
    with contextlib.suppress(SystemExit):
        code = main(words[1:])
        errors = capfd.readouterr().err
        if "path/to" in line:
            assert code == 2 and re.search(r"^deqflow: error: .*path/to", errors, re.MULTILINE), errors
        else:
            assert code == 0, errors
        return
    pytest.fail(f"{line} is not understood: {capfd.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, few_steps, tmp_path, monkeypatch, capfd):
    for name in ("demo", "datasets", "hubconf.py"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    names = {}
    found = blocks(page)
    assert found
    for language, text in found:
        assert language in ("bash", "python"), f"a block of {page.name} says {language}: nobody runs it"
        if language == "python" and page.stem == "cookbook":
            continue  # test_cookbook.py runs them, and looks at what they make
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
        else:
            for line in text.replace("\\\n", " ").splitlines():
                run_command(line, capfd)


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Knows what MkDocs adds to YAML by name only."""

    text = (REPOSITORY / "mkdocs.yml").read_text()
    nav = str(yaml.load(text, Loader)["nav"])
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert {page for page in pages if page not in nav} == set()


def test_every_public_name_is_in_the_reference():
    text = (DOCS / "api" / "deqflow.md").read_text()
    described = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", text, re.MULTILINE)}
    solvers = set(deqflow.equilibrium.__all__)
    errors = {name for name in deqflow.__all__ if name.endswith("Error")}
    assert described - {"errors"} == set(deqflow.__all__) - solvers - errors
