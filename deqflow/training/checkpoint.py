"""What a run starts from, goes on from and leaves behind: weights, states and how good they are."""

import hashlib
import io
import json
import math
import os
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from deqflow.config import ModelConfig
from deqflow.devices import resolve_precision
from deqflow.errors import CheckpointError, ConfigError, TrainingError
from deqflow.estimator import DEQFlow
from deqflow.io.files import atomic_path
from deqflow.network import GatedStripConfig
from deqflow.processes import Processes
from deqflow.training.options import TrainOptions
from deqflow.zoo import PRESETS, file_sha256, read_checkpoint, shipped_weights
from deqflow.zoo.loading import build, fitting_config, preset
from deqflow.zoo.weights import told_parts

FORMAT = 2
"""Of states; those of another are refused."""
SEAL = b"sha256 "
COMMENT = len(SEAL) + 64


def seal(data: bytes) -> bytes:
    """Return the bytes of a zip archive with their SHA-256 as the archive's comment: still the same archive.

    The CRC-32 of its records leaves out their headers, and PyTorch reads other numbers where one of those is
    changed.
    """
    comment = SEAL + hashlib.sha256(data).hexdigest().encode()
    return data[:-2] + len(comment).to_bytes(2, "little") + comment


def read_state(path: Path) -> dict[str, Any]:
    """Read a state file whose seal is whole.

    Raises:
        CheckpointError: the file is cut short, changed or no state.
    """
    data = path.read_bytes()
    if seal(data[: -COMMENT - 2] + bytes(2)) != data:
        raise CheckpointError(f"{path} is damaged: its checksum does not match")
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return dict(content)


class StateStore:
    """The last few states in a run's folder, ``state-<step>.pt``, newest last.

    A file gets its name once it is whole and on the disk, so a kill at any instant leaves the earlier ones
    and perhaps this one.

    Args:
        folder: of the run.
        keep: how many states to keep, at least 1.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._damaged: list[Path] = []

    def paths(self) -> list[Path]:
        """Return every state, oldest first."""
        numbered = [path for path in self.folder.glob("state-*.pt") if re.fullmatch(r"state-\d+", path.stem)]
        return sorted(numbered, key=lambda path: int(path.stem[6:]))

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest state that is whole, and its path; None in a folder without states.

        Damaged ones before it are named in a warning and set aside when the next state is written.

        Raises:
            CheckpointError: there are states, but none is whole, or one has a format of another version.
        """
        self._damaged = []
        for path in reversed(self.paths()):
            try:
                content = read_state(path)
            except CheckpointError as error:
                self._damaged.append(path)
                reason = str(error).splitlines()[0]
                warnings.warn(f"{path} cannot be resumed ({reason}); trying the one before", stacklevel=2)
                continue
            if content["format"] != FORMAT:
                raise CheckpointError(
                    f"{path} has training state format {content['format']}, expected {FORMAT}"
                )
            return path, content
        if self._damaged:
            raise CheckpointError(
                f"{self._damaged[0]} is not a whole training state and no earlier one is at hand; move it "
                "away to start anew"
            )
        return None

    def save(self, content: Mapping[str, Any]) -> Path:
        """Write a state and remove the oldest beyond ``keep``.

        Raises:
            TrainingError: it cannot be written (a full disk, say); the states before it are as they were.
        """
        path = self.folder / f"state-{content['step']:08d}.pt"
        buffer = io.BytesIO()
        torch.save({**content, "format": FORMAT}, buffer)
        try:
            for damaged in self._damaged:
                damaged.rename(damaged.with_name(f"{damaged.name}.damaged"))
            self._damaged = []
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                file.write(seal(buffer.getvalue()))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            before = self.paths()
            kept = f"{before[-1]} is intact" if before else "there is no earlier one"
            raise TrainingError(
                f"the state cannot be written to {path}: {error.strerror or error}; {kept}"
            ) from error
        killed_while_writing = self.folder.glob(".*.[0-9]*.tmp")
        for old in [*self.paths()[: -self.keep], *killed_while_writing]:
            old.unlink(missing_ok=True)
        return path


DECIDING = ("stage", "model", "optimizer")
"""Another run altogether if they differ."""
INDIFFERENT = (
    *("output", "stages", "data", "textures", "device", "workers", "dry_run", "compile"),
    *("max_minutes", "save_minutes", "validate_minutes", "validation_pairs", "keep", "max_skipped"),
)
"""They change nothing that is learned, or (places of data) only where the ``identity`` tells."""


def check_alike(processes: Processes, step: int, recipe: str, identity: Mapping[str, str]) -> None:
    """Check that the processes of a run start from the same step of the same run.

    Raises:
        TrainingError: some do not: each machine has a folder of its own, or was given other options.
    """
    options = {name: value for name, value in json.loads(recipe).items() if name not in INDIFFERENT}
    run = zlib.crc32(json.dumps([options, dict(identity)], sort_keys=True).encode())
    if not processes.alike(step, run):
        raise TrainingError(
            f"the processes of this run do not start alike (this one at step {step}): --output must be a "
            "folder that all machines share, and their options and data the same"
        )


def check_resumable(
    path: Path, saved: Mapping[str, Any], recipe: str, identity: Mapping[str, str]
) -> list[str]:
    """Return what a run changes compared with the state it resumes, each as a few words.

    Args:
        path: of the state, for messages.
        saved: the state.
        recipe: this run's options as JSON.
        identity: of this run's data, as ``Sources.identity``.

    Raises:
        ConfigError: the state is of another stage, model or optimizer.
    """
    then, now = json.loads(saved["options"]), json.loads(recipe)
    for name in DECIDING:
        if then.get(name, now[name]) != now[name]:
            raise ConfigError(
                f"{path} was saved by a run with {name} {then[name]!r}, not {now[name]!r}: --output must "
                "name another folder"
            )
    indifferent = set(INDIFFERENT)
    if now.get("schedule_by") == "clock":
        indifferent.remove("max_minutes")
    changed = [
        f"{name} {now[name]} instead of {then[name]}"
        for name in now
        if name not in (*DECIDING, *indifferent) and name in then and then[name] != now[name]
    ]
    known = json.loads(saved["identity"])
    changed += [
        f"other {name} than before" for name in identity if known.get(name, identity[name]) != identity[name]
    ]
    changed += [f"without {name}" for name in known if name not in identity]
    return changed


def score_of(weights: Path, held_out: str, error: str = "epe") -> float:
    """Return the error that a file of weights claims on these held-out pairs; infinite if there is no file.

    Raises:
        TrainingError: the file says nothing about these pairs, so nothing could be said to be better.
    """
    if not weights.exists():
        return math.inf
    try:
        with safe_open(str(weights), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        metadata = {}
    if metadata.get("held_out") != held_out or f"held_out_{error}" not in metadata:
        raise TrainingError(
            f"{weights} exists and does not say how good it is on these held-out pairs, so it is not "
            "overwritten: --output must name another folder"
        )
    return float(metadata[f"held_out_{error}"])


@dataclass
class Progress:
    """How the error on the held-out pairs went.

    Attributes:
        start: before training, or at the first evaluation; None before it.
        best: the lowest so far.
        best_step: when that was.
        latest: at the last evaluation.
        step: of the last evaluation.
        worse: evaluations since the best one.
    """

    start: float | None = None
    best: float | None = None
    best_step: int = 0
    latest: float | None = None
    step: int = -1
    worse: int = 0

    def note(self, scores: Mapping[str, float], step: int) -> bool:
        """Take in an evaluation, of which the first score decides; return whether it beat all before."""
        self.latest, self.step = next(iter(scores.values())), step
        if self.start is None or self.best is None:
            self.start = self.best = self.latest
            self.best_step = step
            return False
        if self.latest < self.best:
            self.best, self.best_step, self.worse = self.latest, step, 0
            return True
        self.worse += 1
        return False

    def verdict(self, weights: Path, error: str = "EPE") -> str:
        """Return a sentence about start and best; ``error`` is what it is called."""
        if self.start is None or self.best is None:
            return "nothing was held out, so nothing is known of better or worse"
        if self.best < self.start:
            return (
                f"better: held-out {error} {self.start:.3f} before, {self.best:.3f} at step "
                f"{self.best_step}; those weights are in {weights}"
            )
        return (
            f"not better: held-out {error} {self.start:.3f} before, {self.latest:.3f} at the end; "
            "those weights are only in the run's states"
        )


def create_model(options: TrainOptions, device: torch.device) -> DEQFlow:
    """Create a preset with random weights or those of ``init``, on the device, in training mode.

    Raises:
        ConfigError: no such preset, or an option that the device does not know.
        CheckpointError: weights of another architecture.
    """
    initial = _initial_weights(options)
    if initial is None:
        found = preset(options.model)
        model = DEQFlow(trained_config(found.config, options), found.defaults, name=options.model)
    else:
        checkpoint = read_checkpoint(initial)
        config = fitting_config(options.model, checkpoint)
        model = build(options.model, trained_config(config, options), checkpoint)
    model.precision = resolve_precision(options.precision, device)
    if options.sync_batch_norm:
        if device.type != "cuda":
            raise ConfigError(f"sync_batch_norm needs CUDA devices, this run is on {device.type}")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device).train()
    if options.freeze_batch_norm:
        freeze_batch_norm(model)
    if options.compile:
        for part in (model.encoder, model.update, model.upsample, model.uncertainty):
            if part is not None:
                part.compile()
    return model


def trained_config(config: ModelConfig, options: TrainOptions) -> ModelConfig:
    """Return the configuration with what the options change of it, all of it without parameters.

    Raises:
        ConfigError: ``minimum_gate`` outside its range, or for a model without such a gate.
    """
    if options.minimum_gate is None:
        return config
    if not isinstance(config.update, GatedStripConfig):
        raise ConfigError(f"minimum_gate needs a model with gated strips, {options.model} has none")
    return replace(config, update=replace(config.update, minimum_gate=options.minimum_gate))


def origin(options: TrainOptions) -> str:
    """Describe what a run starts from: random weights, or a file and what it says of itself.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = _initial_weights(options)
    if path is None:
        return "random weights"
    about = read_checkpoint(path).metadata
    return _told(path.name, file_sha256(path), about, told_parts(path, about))


def _told(name: str, digest: str, about: Mapping[str, str], averaged: Sequence[Mapping[str, Any]]) -> str:
    """Describe a file of weights by what it says of its training, or of the files that it is the mean of."""
    known = [f"{about[field]} {field}" for field in ("steps", "hours") if field in about]
    before = [f"from {about['started_from']}"] if "started_from" in about else []
    parts = [f"{part['share']:g} of {_told(part['file'], part['sha256'], part, ())}" for part in averaged]
    mean = [f"the mean of {' and '.join(parts)}"] if parts else []
    return f"{name} ({', '.join([f'SHA-256 {digest}', *known, *before, *mean])})"


def _initial_weights(options: TrainOptions) -> Path | None:
    if options.init is None:
        return None
    return shipped_weights(options.init) if options.init in PRESETS else Path(options.init)


def freeze_batch_norm(model: nn.Module) -> None:
    """Normalize batches by their running statistics, which stay as they are (Teed and Deng, RAFT, 2020)."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
