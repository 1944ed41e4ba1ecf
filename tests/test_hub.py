"""Models as folders of the Hugging Face Hub: written, read back, and found in its cache, all offline."""

import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import deqflow
from deqflow.errors import CheckpointError, MissingExtraError
from deqflow.zoo import Weights, create
from deqflow.zoo.hub import CARD, CONFIG, WEIGHTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
METRICS = {
    "datasets": {
        "MPI-Sintel clean": {
            "deqflow-s": {"pairs": 5, "epe": 2.125, "fl_all": 20.5},
            "dis": {"pairs": 5, "epe": 1.5, "fl_all": 18.0},
        },
        "FlyingChairs": {"deqflow-s": {"pairs": 3, "epe": 1.25, "fl_all": None}},
    }
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create("deqflow-s").eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return deqflow.save_pretrained(
        model,
        tmp_path_factory.mktemp("hub") / "mine",
        metrics=METRICS,
        metadata={"data": "scenes of my own", "license": "Apache-2.0"},
        description="Adapted to a conveyor belt.",
    )


def json_of(config):
    return json.loads(json.dumps(config.to_dict()))


def assert_same(loaded, model):
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    assert np.array_equal(loaded.estimate(*frames, steps=2).flow, model.estimate(*frames, steps=2).flow)


def test_a_folder_is_read_back(folder, model):
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, CONFIG, CARD}
    assert_same(deqflow.from_pretrained(folder, device="cpu", precision="float32"), model)
    config = json.loads((folder / CONFIG).read_text())
    assert config == {"library_name": "deqflow", "model": "deqflow-s", "config": json_of(model.config)}


def test_the_card_has_metrics_in_the_format_of_the_hub(folder):
    card = ModelCard.load(folder / CARD)
    assert card.data.library_name == "deqflow"
    assert card.data.license == "apache-2.0"
    assert "optical-flow" in card.data.tags
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == {
        ("MPI-Sintel clean", "epe"): 2.125,
        ("MPI-Sintel clean", "fl_all"): 20.5,
        ("FlyingChairs", "epe"): 1.25,
    }
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in card.text.splitlines()
        if "pairs)" in line
    ]
    assert rows == [["MPI-Sintel clean (5 pairs)", "2.12", "20.50"], ["FlyingChairs (3 pairs)", "1.25", ""]]
    assert "- data: scenes of my own" in card.text
    assert "Adapted to a conveyor belt." in card.text


def test_a_card_without_metrics(model, tmp_path):
    card = ModelCard.load(deqflow.save_pretrained(model, tmp_path) / CARD)
    assert card.data.eval_results is None
    assert "| data set |" not in card.text


def test_a_model_in_the_cache_of_the_hub_needs_no_connection(folder, model, tmp_path):
    place = tmp_path / "models--someone--belt"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    options = {"cache_dir": tmp_path, "local_files_only": True, "device": "cpu", "precision": "float32"}
    assert_same(deqflow.from_pretrained("someone/belt", **options), model)
    assert_same(deqflow.from_pretrained("someone/belt", revision=COMMIT, **options), model)
    with pytest.raises(CheckpointError, match="'someone/other' is no folder and not to be had"):
        deqflow.from_pretrained("someone/other", **options)
    with pytest.raises(CheckpointError, match="is no folder and not to be had"):
        deqflow.from_pretrained("no/such/folder", **options)


def test_folders_that_hold_no_model(tmp_path, folder):
    with pytest.raises(CheckpointError, match=r"model\.safetensors is neither a file nor a model"):
        deqflow.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        deqflow.from_pretrained(tmp_path)


def test_a_model_of_no_preset_is_refused(model, tmp_path):
    deqflow.save_pretrained(model, tmp_path, metadata={"model": "another"})
    with pytest.raises(CheckpointError, match="'another', expected one of deqflow-s"):
        deqflow.from_pretrained(tmp_path)


def test_without_the_library_the_extra_is_named(folder, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: deqflow.save_pretrained(model, tmp_path / "new"),
        lambda: deqflow.from_pretrained("someone/belt"),
    ):
        with pytest.raises(MissingExtraError, match=r"huggingface_hub, which `pip install 'deqflow\[hub\]'`"):
            call()
    assert not (tmp_path / "new").exists()
    deqflow.from_pretrained(folder)  # a folder needs no hub


class TestWeights:
    def test_those_that_ship_carry_their_recipe(self):
        weights = Weights.of("deqflow-s")
        assert weights.model == "deqflow-s" and weights.license == "Apache-2.0"
        assert weights.recipe["stage"] == "synthetic"
        assert weights.sha256 == hashlib.sha256(weights.path.read_bytes()).hexdigest()

    def test_a_file_carries_what_it_was_given(self, folder, model):
        weights = Weights.of(folder / WEIGHTS)
        assert weights.metrics == {"measured": METRICS}
        assert weights.recipe == {}
        assert weights.license == "Apache-2.0"
        assert_same(weights.load(device="cpu", precision="float32"), model)

    def test_a_model_is_passed_on_with_what_its_file_says(self, folder, model, tmp_path):
        again = deqflow.save_pretrained(model, tmp_path, metadata=Weights.of(folder / WEIGHTS).metadata)
        assert Weights.of(again / WEIGHTS).metadata == Weights.of(folder / WEIGHTS).metadata
        first, second = (ModelCard.load(place / CARD) for place in (folder, again))
        assert second.data.eval_results == first.data.eval_results
        assert "- data: scenes of my own" in second.text and "- config" not in second.text

    @pytest.mark.parametrize("source", ["no/such/file", "deqflow-nano"])
    def test_what_is_neither_a_file_nor_a_model(self, source):
        with pytest.raises(CheckpointError, match="neither a file nor a model"):
            Weights.of(source)

    def test_presets_without_weights_of_their_own(self):
        with pytest.raises(CheckpointError, match="no weights for 'raft'"):
            Weights.of("raft")

    @pytest.mark.parametrize("value", ["{", "[1]", "[" * 100_000])
    def test_a_recipe_that_is_none(self, model, tmp_path, value):
        path = deqflow.save_pretrained(model, tmp_path, metadata={"recipe": value}) / WEIGHTS
        with pytest.raises(CheckpointError, match="its recipe is no"):
            Weights.of(path).recipe  # noqa: B018 - reading it is the test
