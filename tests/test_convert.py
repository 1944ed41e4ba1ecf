"""``deqflow convert``, ``deqflow average`` and ``deqflow models``."""

import hashlib
import json

import numpy as np
import pytest
import torch
from published import frames, state_dict, written
from safetensors import safe_open
from safetensors.torch import load_file

from deqflow import zoo
from deqflow.cli import main
from deqflow.zoo import PRESETS, Weights, load


def run(*arguments):
    return main([str(argument) for argument in arguments])


class TestConvert:
    def test_a_published_file_becomes_one_that_describes_itself(self, tmp_path, capsys):
        tensors = state_dict("tiny", gma=True, weight_norm=True, head=256)
        source = written(tmp_path / "published.pth", tensors)
        measured = tmp_path / "report.json"
        measured.write_text('{"epe": 1.5}')
        target = tmp_path / "new" / "ours.safetensors"
        assert run("convert", source, target, "--metrics", measured) == 0
        assert "deqflow-tiny-gma" in capsys.readouterr().out
        with safe_open(str(target), framework="pt") as file:
            metadata = file.metadata()
        assert metadata["model"] == "deqflow-tiny-gma" and metadata["source"] == "published.pth"
        assert metadata["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert metadata["license"] == "AGPL-3.0"
        assert json.loads(metadata["metrics"]) == {"published": [], "measured": {"epe": 1.5}}
        before = load("deqflow-tiny-gma", checkpoint=source, device="cpu")
        after = load("deqflow-tiny-gma", checkpoint=target, device="cpu")
        assert before.config == after.config and after.config.update.weight_norm
        assert after.config.update.head == 256
        images = frames(24, 32)
        assert torch.equal(before(*images, steps=3).flow, after(*images, steps=3).flow)

    def test_published_results_travel_along(self, tmp_path):
        source = written(tmp_path / "b.pth", state_dict("b", raft=True, mask="update_block.mask"))
        assert run("convert", source, tmp_path / "b.safetensors", "--dtype", "float16") == 0
        with safe_open(str(tmp_path / "b.safetensors"), framework="pt") as file:
            (result,) = json.loads(file.metadata()["metrics"])["published"]
        assert result["sintel_clean"] == 1.43
        assert (tmp_path / "b.safetensors").stat().st_size < 0.55 * source.stat().st_size
        tensors = load_file(tmp_path / "b.safetensors")
        assert tensors["encoder.context_net.stem_norm.num_batches_tracked"].dtype == torch.int64
        load("raft", checkpoint=tmp_path / "b.safetensors", device="cpu")

    def test_our_own_files_keep_what_they_say(self, tmp_path):
        shipped = zoo.shipped_weights("deqflow-s")
        assert run("convert", shipped, tmp_path / "s.safetensors") == 0
        with safe_open(str(tmp_path / "s.safetensors"), framework="pt") as file:
            metadata = file.metadata()
        with safe_open(str(shipped), framework="pt") as file:
            original = file.metadata()
        assert {**metadata, "config": ""} | original == {**metadata, **original}
        first, second = load_file(shipped), load_file(tmp_path / "s.safetensors")
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_what_it_refuses(self, tmp_path, capfd):
        source = written(tmp_path / "tiny.pth", state_dict("tiny"))

        def wrong(*arguments):
            assert run("convert", *arguments) == 2
            return capfd.readouterr().err

        assert ".safetensors" in wrong(source, tmp_path / "out.pth")
        out = tmp_path / "out.safetensors"
        assert "it fits deqflow-tiny" in wrong(source, out, "--model", "deqflow-g")
        assert "'huge'" in wrong(source, out, "--model", "huge")
        nonsense = written(tmp_path / "nonsense.pth", {"weight": torch.zeros(2)})
        assert "fits no preset" in wrong(nonsense, out)
        assert "absent.pth" in wrong(tmp_path / "absent.pth", out)
        (tmp_path / "list.json").write_text("[1]")
        assert "no JSON object" in wrong(source, out, "--metrics", tmp_path / "list.json")
        assert not out.exists()
        out.write_text("mine")
        assert "exists already" in wrong(source, out)
        assert out.read_text() == "mine"
        assert run("convert", source, out, "--overwrite") == 0


def test_models_lists_presets_parameters_licenses_and_published_numbers(capsys):
    assert run("models") == 0
    printed = capsys.readouterr().out
    for name, preset in PRESETS.items():
        parameters = sum(parameter.numel() for parameter in zoo.skeleton(preset.config).parameters())
        (row,) = [
            line
            for line in printed.splitlines()
            if line.startswith(f"| {name} ") and f"{parameters:,}" in line
        ]
        assert preset.license in row
    assert " 1.27 | " in printed and " 26.90 |" in printed


class TestAverage:
    @pytest.fixture
    def files(self, tmp_path):
        found = []
        for number in range(3):
            torch.manual_seed(number)
            path = tmp_path / f"{number}.safetensors"
            recipe = json.dumps({"batch": 8, "seed": number})
            said = {"textures": "drawn", "data": f"scenes {number // 2}", "recipe": recipe}
            zoo.save_weights(zoo.create("deqflow-tiny"), path, metadata=said)
            found.append(path)
        return found

    def test_it_is_the_mean_of_every_parameter(self, files, tmp_path, capsys):
        target = tmp_path / "mean.safetensors"
        shares = (0.5, 0.75, -0.25)
        assert run("average", *files, "--output", target, "--shares", *shares) == 0
        assert "deqflow-tiny, the mean of 3 files" in capsys.readouterr().out
        tensors, parts = load_file(target), [load_file(path) for path in files]
        assert tensors.keys() == parts[0].keys()
        for name, value in tensors.items():
            if not value.is_floating_point():
                assert torch.equal(value, parts[0][name])
                continue
            mean = sum(share * part[name].double() for share, part in zip(shares, parts, strict=True))
            torch.testing.assert_close(value, mean.float(), rtol=0, atol=0)
        load("deqflow-tiny", checkpoint=target)

    def test_it_says_what_it_was_made_of(self, files, tmp_path):
        target = tmp_path / "mean.safetensors"
        assert run("average", *files[:2], "--output", target, "--dtype", "float16") == 0
        with safe_open(str(target), framework="pt") as file:
            metadata = file.metadata()
        assert metadata["model"] == "deqflow-tiny" and metadata["data"] == "scenes 0"
        assert metadata["textures"] == "drawn" and json.loads(metadata["recipe"]) == {"batch": 8}
        assert json.loads(metadata["averaged"]) == [
            {
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "share": 0.5,
                "recipe": {"batch": 8, "seed": int(path.stem)},
            }
            for path in files[:2]
        ]
        assert run("average", *files, "--output", target, "--overwrite") == 0
        with safe_open(str(target), framework="pt") as file:
            assert file.metadata()["data"] == "scenes 0; scenes 1"

    def test_a_mean_of_means_tells_of_all_of_them(self, files, tmp_path):
        """Also of those that were written as JSON inside JSON."""
        whole = tmp_path / "0-of-6.safetensors"
        assert run("average", *files, "--output", whole) == 0
        for number in range(1, 6):
            mean, whole = whole, tmp_path / f"{number}-of-6.safetensors"
            assert run("average", mean, files[2], "--output", whole) == 0
        parts, sizes = Weights.of(whole).averaged, []
        while "averaged" in parts[0]:
            sizes.append(len(json.dumps(parts)))
            assert parts[1]["recipe"] == {"batch": 8, "seed": 2}
            parts = parts[0]["averaged"]
        assert [part["recipe"]["seed"] for part in parts] == [0, 1, 2]
        grown = -np.diff(sizes)
        assert len(sizes) == 5 and grown.max() < 1.1 * grown.min()
        assert Weights.of(whole).metadata["data"] == "scenes 0; scenes 1"

        old = tmp_path / "old.safetensors"
        told = [{"file": "a", "sha256": "0", "share": 1, "recipe": '{"batch": 3}'}]
        nested = [{"file": "b", "sha256": "1", "share": 1, "averaged": json.dumps(told)}]
        zoo.save_weights(zoo.create("deqflow-tiny"), old, metadata={"averaged": json.dumps(nested)})
        assert run("average", old, files[2], "--output", whole, "--overwrite") == 0
        (part,) = Weights.of(whole).averaged[0]["averaged"][0]["averaged"]
        assert part["recipe"] == {"batch": 3}

    def test_a_recipe_that_is_no_json_is_named(self, files, tmp_path, capsys):
        zoo.save_weights(zoo.create("deqflow-tiny"), files[1], metadata={"recipe": "{"})
        assert run("average", *files[:2], "--output", tmp_path / "mean.safetensors") == 2
        assert f"{files[1]}: its recipe is no JSON" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("names", "options", "said"),
        [
            ("0", (), "at least two files"),
            ("01", ("--shares", 0.5), "as many shares"),
            ("01", ("--shares", 0.5, 0.6), "the sum 1"),
            ("01", ("--shares", "nan", 1), "the sum 1"),
            ("0s", (), "not for deqflow-tiny"),
            ("07", (), "7.safetensors does not exist"),
        ],
    )
    def test_what_has_no_mean_is_refused(self, files, tmp_path, capsys, names, options, said):
        target, shipped = tmp_path / "mean.safetensors", zoo.shipped_weights("deqflow-s")
        sources = [shipped if name == "s" else tmp_path / f"{name}.safetensors" for name in names]
        assert run("average", *sources, "--output", target, *options) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        assert not target.exists()

    def test_nothing_is_overwritten_unasked(self, files):
        before = files[0].read_bytes()
        assert run("average", *files, "--output", files[0]) == 2
        assert run("average", *files, "--output", files[0], "--overwrite") == 2
        assert files[0].read_bytes() == before
