"""The training loop, from the first step or from where the last run stopped."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from deqflow.devices import keep_freed_memory, pin_process, resolve_device, resolve_precision
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.training.data import Batch, StepSampler, list_textures, loader, scenes, split_textures
from deqflow.training.losses import CorrectionObjective
from deqflow.training.options import TrainOptions
from deqflow.training.state import restore_state, save_state
from deqflow.zoo import PRESETS, create, load_weights, save_weights, shipped_weights


def run(options: TrainOptions) -> None:
    """Train as told; under ``torchrun`` as one of several processes.

    Writes to ``options.output``: ``state.pt`` (everything a resumed run needs), ``<model>.safetensors`` (the
    averaged weights) and TensorBoard scalars. A state found there is resumed.

    Raises:
        ConfigError: an option that does not fit.
        CheckpointError: a state or weights of another architecture.
        DataError: textures that cannot be used.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if options.batch % processes:
        raise ConfigError(f"batch {options.batch} must be a multiple of the {processes} processes")
    device = resolve_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
        pin_process(int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    elif device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if processes > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
    try:
        Trainer(options, device, rank, processes).train()
    finally:
        if processes > 1:
            dist.destroy_process_group()


def averaging(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential moving average whose memory grows with the run: the random start is soon forgotten."""

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(average), list(current), 1 - now)

    return update


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: up linearly, then down linearly to zero."""
    rise = max(1.0, warmup * steps)
    return min((step + 1) / rise, max(0.0, (steps - step) / max(1.0, steps - rise)))


class Trainer:
    """One process of a run."""

    def __init__(self, options: TrainOptions, device: torch.device, rank: int, processes: int) -> None:
        self.options, self.device, self.rank, self.processes = options, device, rank, processes
        torch.manual_seed(options.seed)
        self.model = create(options.model)
        if options.init is not None:
            shipped = options.init in PRESETS
            load_weights(self.model, shipped_weights(options.init) if shipped else Path(options.init))
        self.model.precision = resolve_precision(options.precision, device)
        self.model.to(device).train()
        self.average = AveragedModel(self.model, multi_avg_fn=averaging(options.ema))
        objective = CorrectionObjective(
            self.model,
            corrections=options.corrections,
            gamma=options.gamma,
            stillness=options.stillness,
        )
        self.objective: nn.Module = objective
        if processes > 1:
            self.objective = DistributedDataParallel(objective)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self.schedule = LambdaLR(self.optimizer, lambda step: one_cycle(step, options.steps, options.warmup))
        self.textures = list_textures(options)
        self.data = scenes(options, self.textures, held_out=False)
        self.held_out = scenes(options, self.textures, held_out=True)
        self.step, self.seconds = 0, 0.0
        self.state_path = options.output / "state.pt"
        if self.state_path.exists():
            self.step, self.seconds = restore_state(
                self.state_path,
                model=self.model,
                average=self.average,
                optimizer=self.optimizer,
                schedule=self.schedule,
            )
        self.writer: SummaryWriter | None = None
        if rank == 0:
            options.output.mkdir(parents=True, exist_ok=True)
            self.writer = SummaryWriter(str(options.output), purge_step=self.step or None)
        self.stopping = False

    def train(self) -> None:
        """Run until the last step, ``max_minutes``, SIGTERM or SIGINT; save on the way and at the end."""
        before = {name: signal.signal(name, self._stop) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._loop()
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _loop(self) -> None:
        options = self.options
        sampler = StepSampler(
            self.step, options.steps, batch=options.batch, rank=self.rank, processes=self.processes
        )
        bar = tqdm(
            total=options.steps, initial=self.step, unit="step", disable=self.rank != 0, smoothing=0.02
        )
        started = saved = validated = mark = time.monotonic()
        before = self.seconds
        for batch in loader(self.data, sampler, options):
            metrics = self._train_step(batch.to(self.device))
            now = time.monotonic()
            self.seconds = before + now - started
            out_of_time = 0 < options.max_minutes * 60 <= now - started
            totals = self._across_processes(
                [*metrics, float(self.stopping or out_of_time), now - saved, now - validated]
            )
            if self.writer is not None:
                self._report(bar, totals, options.batch / (now - mark))
            mark = now
            # Decided on averages, so that every process decides alike.
            if 0 < options.validate_minutes * 60 <= totals[6]:
                self._validate()
                validated = time.monotonic()
            if options.save_minutes * 60 <= totals[5]:
                self._save()
                saved = time.monotonic()
            if totals[4] > 0:
                break
        if options.validate_minutes > 0 and self.step >= options.steps:
            self._validate()
        self._save()
        bar.close()

    def _train_step(self, batch: Batch) -> list[float]:
        """One optimiser step; returns loss, end-point error, residual and gradient norm."""
        options = self.options
        # Drawn from the step: the same on every process and in every resumed run.
        draw = torch.Generator().manual_seed(options.seed * 1_000_003 + self.step)
        chosen = torch.randperm(64, generator=draw)[: options.cells].to(self.device)
        fewest, most = options.solver_steps
        steps = int(torch.randint(fewest, most + 1, (), generator=draw))
        loss, metrics = self.objective(batch.image1, batch.image2, batch.flow, batch.valid, chosen, steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        # Gradients are averaged over processes, so all of them see the same norm and skip together.
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.average.update_parameters(self.model)
        self.schedule.step()
        self.step += 1
        return [float(loss.detach()), float(metrics.epe), float(metrics.residual), float(norm)]

    def _across_processes(self, values: list[float]) -> list[float]:
        """Mean of each value over all processes."""
        if self.processes == 1:
            return values
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return (together / self.processes).tolist()

    def _report(self, bar: "tqdm[None]", totals: list[float], rate: float) -> None:
        assert self.writer is not None
        loss, epe, residual, norm = totals[:4]
        bar.set_postfix(epe=f"{epe:.2f}", residual=f"{residual:.3f}", pairs_s=f"{rate:.1f}", refresh=False)
        bar.update()
        scalars: dict[str, float | Tensor] = {
            "loss": loss,
            "epe": epe,
            "residual": residual,
            "gradient_norm": norm,
            "pairs_per_second": rate,
        }
        scalars["learning_rate"] = self.schedule.get_last_lr()[0]
        for name, value in scalars.items():
            self.writer.add_scalar(f"train/{name}", value, self.step)

    @torch.no_grad()
    def _validate(self) -> None:
        """End-point error of the averaged weights on the held-out scenes, shared out among the processes."""
        options = self.options
        model = self.averaged.eval()
        counts = sorted({options.solver_steps[1], 2 * options.solver_steps[1]})
        sums = [0.0] * (len(counts) + 1)
        sampler = StepSampler(
            0,
            -(-options.validation_pairs // options.batch),
            batch=options.batch,
            rank=self.rank,
            processes=self.processes,
        )
        for batch in loader(self.held_out, sampler, options):
            batch = batch.to(self.device)
            for index, count in enumerate(counts):
                estimate = model(batch.image1, batch.image2, steps=count, tolerance=0.0)
                error = (estimate.flow - batch.flow).norm(dim=1, keepdim=True) * batch.valid
                sums[index] += float((error.sum((1, 2, 3)) / batch.valid.sum((1, 2, 3)).clamp_min(1)).sum())
            sums[-1] += sampler.share
        totals = self._across_processes(sums)
        scores = {
            f"epe_{count}_steps": total / totals[-1] for count, total in zip(counts, totals, strict=False)
        }
        if self.writer is not None:
            for name, value in scores.items():
                self.writer.add_scalar(f"held_out/{name}", value, self.step)
            told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            tqdm.write(f"step {self.step}, {self.seconds / 3600:.2f} h: held out {told}")

    def _save(self) -> None:
        if self.rank != 0:
            return
        save_state(
            self.state_path,
            step=self.step,
            model=self.model,
            average=self.average,
            optimizer=self.optimizer,
            schedule=self.schedule,
            seconds=self.seconds,
            options=asdict(self.options),
        )
        save_weights(self.averaged, self.weights_path, metadata=self._provenance())

    def _provenance(self) -> dict[str, str]:
        """How the weights came about, without the paths of this machine."""
        options = asdict(self.options)
        recipe = {
            name: value for name, value in options.items() if name not in ("textures", "output", "init")
        }
        textures = split_textures(self.textures, held_out=False)
        licence = "permissive licences only" if self.options.permissive_only else "all licences"
        return {
            "weights": "exponential moving average",
            "data": "synthetic scenes",
            "textures": f"{len(textures.photos)} photos, {len(textures.objects)} cut-outs, {licence}",
            "steps": str(self.step),
            "hours": f"{self.seconds / 3600:.2f}",
            "recipe": json.dumps(recipe),
        }

    @property
    def averaged(self) -> DEQFlow:
        """The model with averaged weights."""
        assert isinstance(self.average.module, DEQFlow)
        return self.average.module

    @property
    def weights_path(self) -> Path:
        """Where the averaged weights go."""
        return self.options.output / f"{self.options.model}.safetensors"

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True
