"""Presets, checkpoints of every kind, and the commands that list and convert them."""

import copy
import json
import os
import pickle
import zipfile
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from published import PlainForward, frames, shapes_of, state_dict, written
from safetensors.torch import save_file

import deqflow
from deqflow import zoo
from deqflow.errors import CheckpointError, ConfigError, DeqflowWarning
from deqflow.estimator import DEQFlow
from deqflow.network import GatedStripConfig
from deqflow.zoo import PRESETS, create, load, load_weights, save_weights, shipped_weights

# Without weight norm, what weight norm adds, and with the flow heads of 2022 (without weight norm).
PARAMETERS = {
    "deqflow-s-v0": (1_208_920, None, None),
    "deqflow-s": (2_505_437, None, None),
    "deqflow-tiny": (2_490_528, 448, None),
    "deqflow-b": (5_241_024, 1_792, 5_241_024),
    "deqflow-l": (8_670_976, 2_688, 8_447_360),
    "deqflow-h": (13_391_168, 3_584, 12_796_480),
    "deqflow-g": (23_244_096, 4_864, 21_909_696),
    "deqflow-tiny-gma": (2_524_321, 480, None),
    "deqflow-b-gma": (5_781_697, 1_920, None),
    "deqflow-l-gma": (9_887_489, 2_880, None),
    "deqflow-h-gma": (15_553_857, 3_840, None),
    "deqflow-g-gma": (27_327_809, 5_184, None),
    "raft": (5_257_536, None, None),
    "raft-small": (990_162, None, None),
}


def count(config):
    return sum(parameter.numel() for parameter in zoo.skeleton(config).parameters())


class TestPresets:
    def test_all_of_them_are_listed_here(self):
        assert PRESETS.keys() == PARAMETERS.keys()

    @pytest.mark.parametrize("name", PARAMETERS)
    def test_parameters_are_exactly_those_published(self, name):
        plain, weight_norm, old_head = PARAMETERS[name]
        config = PRESETS[name].config
        assert count(config) == plain
        if weight_norm is not None:
            normed = replace(config, update=replace(config.update, weight_norm=True))
            assert count(normed) == plain + weight_norm
        if old_head is not None:
            assert count(replace(config, update=replace(config.update, head=256))) == old_head

    @pytest.mark.parametrize(("name", "steps"), [("deqflow-b", 60), ("deqflow-h-gma", 60), ("raft", 24)])
    def test_published_presets_run_as_published(self, name, steps):
        defaults = PRESETS[name].defaults
        assert (defaults.steps, defaults.tolerance, PRESETS[name].precision) == (steps, 0.0, "float32")
        assert defaults.solver == deqflow.FixedPointIteration()

    def test_configurations_survive_json(self):
        for preset in PRESETS.values():
            described = json.loads(json.dumps(preset.config.to_dict()))
            assert type(preset.config).from_dict(described) == preset.config


class TestPublishedCheckpoints:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("deqflow-tiny", {}),
            ("deqflow-tiny", {"prefix": ""}),
            ("deqflow-tiny", {"weight_norm": True}),
            ("deqflow-tiny", {"mask": "update_block.mask", "head": 256, "weight_norm": True}),
            ("deqflow-tiny-gma", {"gma": True}),
            ("deqflow-tiny-gma", {"gma": True, "weight_norm": True}),
            ("deqflow-b", {"mask": "update_block.mask"}),
            ("deqflow-b-gma", {"gma": True, "weight_norm": True}),
            ("deqflow-l", {"mask": "update_block.mask", "head": 256}),
            ("raft", {"mask": "update_block.mask", "raft": True}),
        ],
        ids=str,
    )
    def test_every_tensor_is_used_and_every_parameter_filled(self, name, options, tmp_path):
        size = name.split("-")[1] if name != "raft" else "b"
        tensors = state_dict(size, **options)
        model = load(name, checkpoint=written(tmp_path / "published.pth", tensors), device="cpu")
        assert model.name == name and not model.training
        copies = sum(value.numel() for key, value in tensors.items() if ".norm3." in key)
        held = sum(value.numel() for value in model.state_dict().values())
        assert held == sum(value.numel() for value in tensors.values()) - copies
        assert model.config.update.head == options.get("head", model.config.update.head)
        assert model.config.update.weight_norm == options.get("weight_norm", False)

    @pytest.mark.parametrize(
        ("name", "size", "options"),
        [
            ("deqflow-tiny-gma", "tiny", {"gma": True}),
            ("deqflow-tiny", "tiny", {"head": 256}),
            ("raft", "b", {"raft": True}),
        ],
    )
    def test_flow_is_that_of_a_plain_forward_pass(self, name, size, options, tmp_path):
        tensors = state_dict(size, prefix="", **options)
        if "gma" in options:
            tensors["update_block.gma.gamma"] = torch.tensor([1.5])
            tensors["attn.to_qk.weight"] *= 200  # or all positions would weigh alike
        images = frames(72, 64, batch=2)
        options.pop("head", None)
        expected = PlainForward(tensors, **options)(*images, steps=3)
        path = written(tmp_path / "published.pth", tensors)
        flow = load(name, checkpoint=path, device="cpu")(*images, steps=3).flow
        assert (flow - expected).abs().max() < 1e-5 * expected.abs().max()

    def test_weight_norm_is_only_another_parametrisation(self, tmp_path):
        images = frames(32, 40)
        flows = []
        for weight_norm in (False, True):
            tensors = state_dict("tiny", gma=True, weight_norm=weight_norm)
            for name in tensors:
                if name.endswith("gamma"):
                    tensors[name] = torch.tensor([0.7])
            path = written(tmp_path / f"{weight_norm}.pth", tensors)
            flows.append(load("deqflow-tiny-gma", checkpoint=path, device="cpu")(*images, steps=4).flow)
        torch.testing.assert_close(*flows, rtol=1e-4, atol=1e-4)

    def test_names_of_the_gma_authors_and_of_new_weight_norm(self, tmp_path):
        tensors = state_dict("tiny", gma=True, weight_norm=True, prefix="")
        renamed = {
            key.replace("update_block.gma.", "update_block.aggregator.")
            .replace("attn.", "att.")
            .replace(".weight_g", ".parametrizations.weight.original0")
            .replace(".weight_v", ".parametrizations.weight.original1"): value
            for key, value in tensors.items()
        }
        renamed["att.pos_emb.rel_height.weight"] = torch.zeros(319, 32)
        first = zoo.restore("deqflow-tiny-gma", written(tmp_path / "a.pth", tensors)).state_dict()
        second = zoo.restore("deqflow-tiny-gma", written(tmp_path / "b.pth", renamed)).state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)

    @pytest.mark.parametrize("wrapper", ["state_dict", "model", "anything"])
    def test_wrapped_state_dicts(self, wrapper, tmp_path):
        tensors = state_dict("tiny")
        path = written(tmp_path / "wrapped.ckpt", {"epoch": 3, wrapper: tensors, "optimizer": {"state": {}}})
        assert zoo.restore("deqflow-tiny", path).training

    def test_files_of_old_pytorch_are_no_archives_and_do_not_count_batches(self, tmp_path):
        tensors = {
            key: value for key, value in state_dict("tiny").items() if not key.endswith("num_batches_tracked")
        }
        torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        model = zoo.restore("deqflow-tiny", tmp_path / "old.pth")
        counts = [v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")]
        assert counts and not any(counts)

    def test_loading_leaves_the_global_random_state_alone(self, tmp_path):
        path = written(tmp_path / "published.pth", state_dict("tiny"))
        before = torch.get_rng_state()
        load("deqflow-tiny", checkpoint=path, device="cpu")
        assert torch.equal(before, torch.get_rng_state())


class TestRefusals:
    @pytest.mark.parametrize(
        ("wanted", "size", "options", "fits"),
        [
            ("deqflow-h", "tiny", {}, "deqflow-tiny"),
            ("deqflow-tiny", "tiny", {"gma": True}, "deqflow-tiny-gma"),
            ("deqflow-b", "b", {"raft": True}, "raft"),
            ("raft-small", "b", {"weight_norm": True}, "deqflow-b"),
            ("deqflow-s", "l", {"head": 256}, "deqflow-l"),
        ],
    )
    def test_the_preset_that_fits_is_named(self, wanted, size, options, fits, tmp_path):
        path = written(tmp_path / "published.pth", state_dict(size, **options))
        with pytest.raises(CheckpointError, match=rf"published.pth is not for {wanted}: it fits {fits}$"):
            load(wanted, checkpoint=path, device="cpu")

    def test_no_tensor_may_miss_or_be_left_over(self, tmp_path):
        complete = state_dict("tiny", prefix="")
        missing = {key: value for key, value in complete.items() if key != "fnet.layer2.0.conv1.bias"}
        with pytest.raises(CheckpointError, match=r"1 tensors are missing.*feature_net.stages.2.conv1.bias"):
            load("deqflow-tiny", checkpoint=written(tmp_path / "missing.pth", missing))
        extra = {**complete, "fnet.layer4.0.conv1.weight": torch.zeros(3)}
        with pytest.raises(CheckpointError, match=r"no published model has .*layer4"):
            load("deqflow-tiny", checkpoint=written(tmp_path / "extra.pth", extra))
        narrow = {**complete, "update_block.flow_head.conv2.weight": torch.zeros(2, 63, 3, 3)}
        with pytest.raises(CheckpointError, match="another shape"):
            load("deqflow-tiny", checkpoint=written(tmp_path / "narrow.pth", narrow))

    def test_values_that_cannot_be(self, tmp_path):
        complete = state_dict("tiny", prefix="")
        differing = {**complete, "cnet.layer2.0.norm3.bias": torch.ones(96)}
        with pytest.raises(CheckpointError, match="differs"):
            load("deqflow-tiny", checkpoint=written(tmp_path / "copies.pth", differing))
        nan = {**complete, "fnet.conv1.bias": torch.full((64,), torch.nan)}
        with pytest.raises(CheckpointError, match="not finite"):
            load("deqflow-tiny", checkpoint=written(tmp_path / "nan.pth", nan))
        repeated = {**complete, "fnet.conv1.bias": torch.zeros(1).expand(10**12)}
        with pytest.raises(CheckpointError, match="larger than what the file holds"):
            load("deqflow-tiny", checkpoint=written(tmp_path / "repeated.pth", repeated))
        letters = {**complete, "fnet.conv1.bias": torch.zeros(64, dtype=torch.complex64)}
        with pytest.raises(CheckpointError, match="plain tensor"):
            load("deqflow-tiny", checkpoint=written(tmp_path / "complex.pth", letters))

    def test_a_pickle_that_wants_more_than_tensors(self, tmp_path):
        class Command:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "made"),)

        path = written(tmp_path / "evil.pth", {"state_dict": state_dict("tiny"), "extra": Command()})
        with pytest.raises(CheckpointError, match=r"evil.pth wants .*mkdir.*refused"):
            load("deqflow-tiny", checkpoint=path)
        assert not (tmp_path / "made").exists()
        path = written(
            tmp_path / "args.pth", {"state_dict": state_dict("tiny"), "args": Namespace(small=True)}
        )
        with pytest.raises(CheckpointError, match=r"argparse.Namespace"):
            load("deqflow-tiny", checkpoint=path)
        path.write_bytes(pickle.dumps(Command(), protocol=2))
        with pytest.raises(CheckpointError, match=r"args.pth"):
            load("deqflow-tiny", checkpoint=path)

    def test_a_pickle_is_not_shown_to_an_unpickler_with_holes(self, tmp_path, monkeypatch):
        path = written(tmp_path / "tiny.pth", state_dict("tiny"))
        load("deqflow-tiny", checkpoint=path)
        monkeypatch.setattr("deqflow.zoo.checkpoints.SAFE_UNPICKLER", "1000.0")
        with pytest.raises(CheckpointError, match=r"tiny.pth could make PyTorch .* run code.*safetensors"):
            load("deqflow-tiny", checkpoint=path)

    def test_files_that_are_no_checkpoints(self, tmp_path):
        whole = written(tmp_path / "whole.pth", state_dict("tiny")).read_bytes()
        broken = tmp_path / "broken.pth"
        for content in (b"", b"\x80", b"PK\x03\x04", b"not weights" * 99, whole[:-1000], whole[:1000]):
            broken.write_bytes(content)
            with pytest.raises(CheckpointError, match=r"broken.pth"):
                load("deqflow-tiny", checkpoint=broken)
        with zipfile.ZipFile(broken, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**7))
        with pytest.raises(CheckpointError, match="compressed"):
            load("deqflow-tiny", checkpoint=broken)
        for nothing in ([1, 2], {}, {"state_dict": {}}, {"a": state_dict("tiny"), "b": state_dict("tiny")}):
            with pytest.raises(CheckpointError, match="no dictionary of tensors"):
                load("deqflow-tiny", checkpoint=written(broken, nothing))
        with pytest.raises(CheckpointError, match="does not exist"):
            load("deqflow-tiny", checkpoint=tmp_path / "absent.pth")
        with pytest.raises(CheckpointError, match="not a file"):
            load("deqflow-tiny", checkpoint=tmp_path)
        with pytest.raises(CheckpointError, match="no weights for 'deqflow-h'"):
            load("deqflow-h")

    def test_unknown_names(self):
        for wrong in ({"name": "deqflow-z"}, {"precision": "float8"}, {"device": "abacus"}):
            with pytest.raises(ConfigError, match=r"unknown|not available"):
                load(**wrong)


class TestOurFiles:
    def test_weights_survive_a_round_trip(self, tmp_path):
        model = create("deqflow-s").eval().requires_grad_(False)
        path = tmp_path / "weights.safetensors"
        save_weights(model, path, metadata={"note": "a test"})
        loaded = load("deqflow-s", checkpoint=path, device="cpu", precision="float32")
        images = frames(32, 32)
        assert torch.equal(loaded(*images, steps=2).flow, model(*images, steps=2).flow)
        assert load_weights(create("deqflow-s"), path)["note"] == "a test"

    def test_the_first_files_describe_a_model_in_one_list_of_sizes(self, tmp_path):
        path = tmp_path / "first.safetensors"
        flat = {
            **{"widths": [48, 96], "depths": [2, 3], "features": 128, "context": 64, "hidden": 96},
            **{"motion": 64, "mixed": 192, "kernel": 7, "mask": 128, "levels": 4, "radius": 3},
            "attach_flow": False,
        }
        # There was no such head yet, and no limit on the gates.
        config = replace(PRESETS["deqflow-s-v0"].config, uncertainty=None, update=GatedStripConfig())
        first = DEQFlow(config, name="deqflow-s")
        save_weights(first, path, metadata={"config": json.dumps(flat)})
        assert load("deqflow-s", checkpoint=path, device="cpu").config == config
        save_weights(first, path, metadata={"config": json.dumps({**flat, "mask": 64, "extra": 1})})
        with pytest.raises(CheckpointError, match="'extra'"):
            load("deqflow-s", checkpoint=path)

    def test_weights_of_the_first_deqflow_s_are_loaded_and_solved_as_they_were(self):
        path = shipped_weights("deqflow-s-v0")
        with pytest.warns(DeqflowWarning, match="describes another configuration than deqflow-s has"):
            model = load("deqflow-s", checkpoint=path, device="cpu")
        first = load("deqflow-s-v0", device="cpu")
        assert model.config == first.config and model.defaults == first.defaults
        images = frames(160, 192)
        assert torch.equal(model(*images, steps=2).flow, first(*images, steps=2).flow)

    @pytest.mark.parametrize(
        ("config", "sentence"),
        [
            ("{", "describes no model"),
            ("[1]", "describes no model"),
            ('{"hidden": 1000000000}', "hidden of the model"),
            ('{"encoder": {"kind": "huge"}}', "'huge'"),
            ('{"encoder": {"kind": "gru"}}', "'gru'"),
            ('{"encoder": 3}', "encoder"),
            ('{"update": {"kind": "gru", "kernels": [[2, 2]]}}', "kernels"),
            ('{"update": {"kind": "gru", "flow": [1, 2, 3]}}', "flow"),
            ('{"hidden": 32}', "tensors are missing, unknown or of another shape"),
        ],
    )
    def test_descriptions_that_are_not_ours(self, config, sentence, tmp_path):
        path = tmp_path / "described.safetensors"
        save_file({"weight": torch.zeros(3)}, path, metadata={"config": config})
        with pytest.raises(CheckpointError, match=sentence):
            load("deqflow-s", checkpoint=path)

    def test_files_that_are_not_safetensors(self, tmp_path):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(b"\x80\x04 not weights")
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            load("deqflow-s", checkpoint=path)
        other = create("raft-small")
        save_weights(other, path)
        with pytest.raises(CheckpointError, match="is not for deqflow-s: it fits raft-small"):
            load("deqflow-s", checkpoint=path)
        with pytest.raises(CheckpointError, match="not for deqflow-s"):
            load_weights(create("deqflow-s"), path)


SMALL_ONES = ["deqflow-s", "deqflow-s-v0", "deqflow-tiny", "deqflow-tiny-gma", "raft-small"]


@pytest.fixture(params=[*SMALL_ONES, "weight norm"])
def model(request, device):
    """A small preset with random weights; of the kind that a user may meet."""
    torch.manual_seed(3)
    if request.param == "weight norm":
        config = PRESETS["deqflow-tiny-gma"].config
        model = DEQFlow(replace(config, update=replace(config.update, weight_norm=True)))
    else:
        model = create(request.param)
    return model.to(device).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(16, 16), (17, 63), (64, 24)])
def test_any_size_gives_finite_flow(model, size):
    estimate = model(*frames(*size).to(model.device), steps=6, tolerance=0.0)
    assert estimate.flow.shape == (1, 2, *size) and torch.isfinite(estimate.flow).all()


def test_a_batch_is_its_samples(model):
    images = frames(40, 48, batch=3).to(model.device)
    together = model(*images, steps=8, tolerance=0.0)
    for index in range(3):
        alone = model(*images[:, index : index + 1], steps=8, tolerance=0.0)
        scale = together.flow[index].abs().max().clamp_min(1)
        assert (alone.flow[0] - together.flow[index]).abs().max() <= 1e-5 * scale


def test_samples_may_be_picked_and_repeated(model):
    with torch.no_grad():
        step = model.operator(model.prepare(*frames(32, 40, batch=3).to(model.device)))
        state = step(step(step.start))
        picked = torch.tensor([2, 0, 2], device=model.device)
        part = step(type(state)(*(value[picked] for value in state)), picked)
        whole = step(state)
    for found, expected in zip(part, whole, strict=True):
        torch.testing.assert_close(found, expected[picked], rtol=1e-4, atol=1e-5)


def test_models_copy_pickle_and_restore(model):
    images = frames(24, 32).to(model.device)
    expected = model(*images, steps=3, tolerance=0.0).flow
    fresh = DEQFlow(model.config, model.defaults).to(model.device).eval().requires_grad_(False)
    fresh.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        assert torch.equal(twin(*images, steps=3, tolerance=0.0).flow, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precisions_agree_roughly(model, dtype):
    images = frames(32, 40).to(model.device)
    expected = model(*images, steps=3, tolerance=0.0).flow
    model.precision = dtype
    flow = model(*images, steps=3, tolerance=0.0).flow
    assert flow.dtype == torch.float32
    assert (flow - expected).abs().mean() < 0.05 * (0.1 + expected.abs().mean())


def test_every_parameter_can_be_trained(model):
    """One recurrent pass with a graph: RAFT's start, attention and weight norm get gradients too."""
    from deqflow.equilibrium import FixedPointIteration, OneStep, Unrolled

    model.requires_grad_(True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("aggregation.scale"):  # which starts at zero, where what it scales gets none
                parameter.fill_(0.5)
    pair = model.prepare(*frames(32, 48).to(model.device))
    for scale in model.config.strides:  # the finest last
        path = model.trajectory(
            pair,
            correction=Unrolled(count=2),
            gradient=OneStep(),
            solver=FixedPointIteration(),
            steps=2,
            scale=scale,
        )
        chosen = torch.tensor([0, 7])
        loss = sum(model.flow_at(state, chosen, scale=scale).abs().mean() for state in path.states)
        if model.uncertainty is not None and scale == model.config.stride:
            loss = loss + model.uncertainty(path.states[-1].hidden).expected_error.mean()
        loss.backward(retain_graph=scale != model.config.stride)
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


def test_published_layouts_written_here_are_the_real_ones(shared_parity):
    arrays = np.load(shared_parity / "deq_tiny_wnorm.npz")
    real = {
        key.removeprefix("weights/"): arrays[key].shape for key in arrays.files if key.startswith("weights/")
    }
    ours = {key: tuple(value.shape) for key, value in state_dict("tiny", weight_norm=True, prefix="").items()}
    assert ours == real
    assert len(shapes_of("tiny")) < len(real)
