"""Weights out of files, whoever wrote them: tensors by our names and what the file says of itself."""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deqflow.errors import CheckpointError
from deqflow.zoo.published import is_published, to_our_names

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Where a file that holds several dictionaries of tensors keeps the model's."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every name."""

SAFE_UNPICKLER = "2.10"
"""The first release of PyTorch whose restricted unpickler has no known hole."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a file.

    Attributes:
        path: of the file.
        tensors: by our names.
        metadata: what a safetensors file says of itself; empty for others.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def described(self) -> dict[str, str]:
        """What the file says besides its model and configuration, which ``save_weights`` writes itself."""
        return {key: text for key, text in self.metadata.items() if key not in ("model", "config")}


def read_checkpoint(path: Path) -> Checkpoint:
    """Weights from ``.safetensors``, or from any other file as PyTorch writes it, without running its code.

    Names of DEQ-Flow (2022 to 2023) and RAFT files become ours.

    Raises:
        CheckpointError: a file that is missing, damaged, wants to run code, or holds no weights.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file")
    metadata: dict[str, str] = {}
    if path.suffix.lower() == ".safetensors":
        tensors, metadata = _read_safetensors(path)
    else:
        tensors = _state_dict(_read_pickle(path), path)
    tensors = _without_prefixes(tensors)
    if is_published(tensors):
        tensors = to_our_names(tensors, path)
    for name, value in tensors.items():
        if value.layout != torch.strided or value.dtype not in DTYPES or value.is_meta:
            raise CheckpointError(f"checkpoint {path}: {name!r} is not a plain tensor of numbers")
        # Of the elements that are stored: a tensor may claim to be larger than the file by repeating them.
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise CheckpointError(f"checkpoint {path}: {name!r} is larger than what the file holds of it")
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"checkpoint {path}: {name!r} holds numbers that are not finite")
    return Checkpoint(path, tensors, metadata)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    if torch.__version__ < SAFE_UNPICKLER:
        raise CheckpointError(
            f"checkpoint {path} could make PyTorch {torch.__version__} run code of its own (CVE-2026-24747); "
            f"expected PyTorch {SAFE_UNPICKLER} or newer, or a .safetensors file"
        )
    if zipfile.is_zipfile(path):
        # PyTorch stores without compression; a small file that unpacks to a huge one is not its work.
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, OSError) as error:
            raise CheckpointError(f"checkpoint {path} is a damaged PyTorch file") from error
        if unpacked > path.stat().st_size:
            raise CheckpointError(f"checkpoint {path} is a compressed archive; expected a PyTorch file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise CheckpointError(f"checkpoint {path} is not a readable PyTorch file") from error
        raise CheckpointError(
            f"checkpoint {path} wants {wanted[1]}, which could run code and is refused; expected a state dict"
        ) from error
    except Exception as error:  # a damaged pickle can fail as anything at all
        raise CheckpointError(f"checkpoint {path} is not a readable PyTorch file: {error!r}") from error


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    if _is_state_dict(loaded):
        return dict(loaded)
    if isinstance(loaded, Mapping):
        inside = {key: value for key, value in loaded.items() if _is_state_dict(value)}
        for key in WRAPPERS if len(inside) > 1 else inside:
            if key in inside:
                return dict(inside[key])
    raise CheckpointError(f"checkpoint {path} holds no dictionary of tensors by name")


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(4):  # they nest, but not without end
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
