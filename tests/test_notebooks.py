"""The notebooks: they run as they are, and hold what they print, small."""

import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_in_any_folder(path, monkeypatch, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat of the dev extra is missing")
    nbclient = pytest.importorskip("nbclient", reason="nbclient of the dev extra is missing")
    pytest.importorskip("ipykernel", reason="ipykernel of the dev extra is missing")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the notebook's own shows pictures
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    assert list(tmp_path.iterdir()) == []
    stored = json.loads(path.read_text())
    for cell, kept in zip(notebook.cells, stored["cells"], strict=True):
        # What is printed may come in several parts.
        kinds = {output.output_type for output in cell.get("outputs", [])}
        assert kinds == {output["output_type"] for output in kept.get("outputs", [])}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_holds_is_small_and_of_no_machine(path):
    text = path.read_text()
    assert len(text) < 200_000
    assert str(REPOSITORY) not in text and "Traceback" not in text
    outputs = [cell["outputs"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert sum(map(len, outputs)) >= len(outputs) - 1  # all but the imports print or show something


def test_there_is_a_quickstart():
    assert [path.name for path in NOTEBOOKS] == ["quickstart.ipynb"]
