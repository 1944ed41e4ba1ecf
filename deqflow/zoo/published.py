"""Names of published state dicts (RAFT, GMA, DEQ-Flow of 2022 and 2023) as ours."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from deqflow.errors import CheckpointError

UNREAD = frozenset(f"{room}.pos_emb.{name}" for room in ("att", "attn") for name in (
    "rel_height.weight", "rel_width.weight", "rel_ind",
))  # fmt: skip
"""GMA files carry a positional term that the published models do not add."""

_PARAMETERS = {"weight_g": "gain", "weight_v": "weight", "gamma": "scale"}
"""The last part of a name, where it differs. Weight norm: the filters' lengths and their directions."""


def _encoder(theirs: str, ours: str) -> dict[str, str]:
    names = {
        f"{theirs}.conv1": f"{ours}.stem",
        f"{theirs}.norm1": f"{ours}.stem_norm",
        f"{theirs}.conv2": f"{ours}.head",
    }
    for stage in range(3):
        for block in range(2):
            old, new = f"{theirs}.layer{stage + 1}.{block}", f"{ours}.stages.{2 * stage + block}"
            names |= {f"{old}.{part}{n}": f"{new}.{part}{n}" for part in ("conv", "norm") for n in (1, 2)}
            names |= {f"{old}.downsample.{n}": f"{new}.shortcut.{n}" for n in (0, 1)}
            # The same norm once more, under the name that the block itself gives it.
            names[f"{old}.norm3"] = f"{new}.shortcut.1"
            # Of the bottleneck block of RAFT-small, whose norms have no parameters.
            names[f"{old}.conv3"] = f"{new}.conv3"
    return names


def _update() -> dict[str, str]:
    names = {
        "update_block.encoder.convc1": "update.motion.correlation.0",
        "update_block.encoder.convc2": "update.motion.correlation.1",
        "update_block.encoder.convf1": "update.motion.flow.0",
        "update_block.encoder.convf2": "update.motion.flow.1",
        "update_block.encoder.conv": "update.motion.merge",
        "update_block.flow_head.conv1": "update.flow_head.0",
        "update_block.flow_head.conv2": "update.flow_head.1",
    }
    gates = {"convz": "update", "convr": "reset", "convq": "candidate"}
    for suffix, index in (("", 0), ("1", 0), ("2", 1)):
        names |= {
            f"update_block.gru.{old}{suffix}": f"update.gru.{index}.{new}" for old, new in gates.items()
        }
    for room in ("gma", "aggregator"):
        names[f"update_block.{room}"] = "update.aggregation"
        names[f"update_block.{room}.to_v"] = "update.aggregation.value"
    names |= {f"{room}.to_qk": "update.attention.query_key" for room in ("att", "attn")}
    for room in ("mask", "update_block.mask"):
        names |= {f"{room}.{index}": f"upsample.mask.{index}" for index in (0, 2)}
    return names


MODULES = {
    **_encoder("fnet", "encoder.feature_net"),
    **_encoder("cnet", "encoder.context_net"),
    **_update(),
}
"""Published module -> ours."""


def is_published(names: Iterable[str]) -> bool:
    """Whether these are names of a published state dict."""
    return any(name.startswith(("fnet.", "cnet.", "update_block.")) for name in names)


def to_our_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a published state dict by our names.

    Raises:
        CheckpointError: a name that no published model has, or two copies of a parameter that differ.
    """
    ours: dict[str, Tensor] = {}
    for published, value in tensors.items():
        if published in UNREAD:
            continue
        # Weight norm of PyTorch >= 2 names lengths and directions in another way.
        key = published.replace(".parametrizations.weight.original0", ".weight_g")
        key = key.replace(".parametrizations.weight.original1", ".weight_v")
        module, _, parameter = key.rpartition(".")
        if module not in MODULES:
            raise CheckpointError(f"checkpoint {path}: no published model has a tensor {published!r}")
        name = f"{MODULES[module]}.{_PARAMETERS.get(parameter, parameter)}"
        if name in ours and not torch.equal(ours[name], value):
            raise CheckpointError(
                f"checkpoint {path}: {published!r} differs from its copy of another name; expected the same"
            )
        ours[name] = value
    for name in [name for name in ours if name.endswith(".running_var")]:
        # Files of old PyTorch versions do not count batches; nothing reads the count.
        ours.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    return ours
