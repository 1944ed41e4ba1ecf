"""Training: the model, its data and its objective, and the loop from the first step or where a run stopped.

A pair goes from ``Sources.training`` (``data.py``) in a ``Batch`` through the objective (``supervised.py`` or
``unsupervised.py``), whose solve starts as ``starts.py`` says, to the optimizer's step (``optimizer.py``).
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.profiler import record_function
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from deqflow.config import REFERENCE_STRIDE
from deqflow.devices import processor_seconds, tune_for_fixed_sizes
from deqflow.errors import CheckpointError, ConfigError, DivergenceError, TrainingError
from deqflow.estimator import DEQFlow
from deqflow.io.files import replace_bytes
from deqflow.processes import Processes, start_processes
from deqflow.signals import on_ending
from deqflow.training.checkpoint import (
    Progress,
    StateStore,
    check_alike,
    check_resumable,
    create_model,
    origin,
    score_of,
)
from deqflow.training.data import Batch, batches, evaluate
from deqflow.training.optimizer import averaging, create_optimizer, learning_rate
from deqflow.training.options import TrainOptions
from deqflow.training.parts import create_objective, open_sources
from deqflow.training.rehearsal import rehearse
from deqflow.training.starts import StepRandomness
from deqflow.zoo import save_weights


def run(plan: TrainOptions | Sequence[TrainOptions]) -> None:
    """Train as told; under ``torchrun`` as one of several processes.

    Several stages go one after the other, each from the weights of the one before. Each writes to its
    ``output``: ``state-<step>.pt`` (everything a resumed run needs), the averaged weights as
    ``<model>.safetensors``, the recipe as ``<model>.json`` and TensorBoard scalars. The newest state found
    there is resumed.

    Raises:
        ConfigError: an option that does not fit.
        CheckpointError: a state or weights of another architecture.
        DataError: data or textures that cannot be used.
        TrainingError: the run cannot go on; what it had reached is saved. A DivergenceError where its loss
            is not a number.
    """
    stages = [plan] if isinstance(plan, TrainOptions) else list(plan)
    with start_processes(stages[0].device) as processes:
        tune_for_fixed_sizes(processes.device)
        weights: Path | None = None
        for options in stages:
            if weights is not None and not options.dry_run:
                options = replace(options, init=str(weights))
            trainer = Trainer(options, processes)
            if options.dry_run:
                rehearse(trainer)
            elif not trainer.train():
                break
            weights = trainer.weights_path
            processes.wait()


MODULES = ("model", "average", "optimizer")
COUNTERS = ("step", "seconds", "processor_seconds", "skipped", "skipped_in_a_row")
"""The parts of a trainer that its state holds, by name."""

WISHES = ("stop", "save", "validate")
"""What each process wants after a step; means above zero say that one of them does."""

UNTOLD = (*WISHES, "seconds")
"""Means over the processes that are no scalars of the run."""


class Trainer:
    """One process of a run."""

    def __init__(self, options: TrainOptions, processes: Processes) -> None:
        self.processes = processes
        if options.batch % (processes.count * options.accumulate * options.ways):
            ways = f" times {options.ways} directions" if options.ways > 1 else ""
            raise ConfigError(
                f"batch {options.batch} must be a multiple of {processes.count} processes times "
                f"{options.accumulate} parts{ways}"
            )
        torch.manual_seed(options.seed)
        self.model = create_model(options, processes.device)
        strides = self.model.config.strides
        self.options = options = options.for_strides(strides)
        trained = self.model.config.trainable_strides[: len(options.scale_shares)]
        self.fine = max(1, sum(stride < REFERENCE_STRIDE for stride in trained))
        self.sources = open_sources(options)
        self.recipe = options.recipe(str(self.model.precision).removeprefix("torch."))
        self.average = AveragedModel(self.model, multi_avg_fn=averaging(options.ema))
        self.criterion = create_objective(self.model, options)
        self.objective: nn.Module = self.criterion
        if processes.count > 1:
            self.objective = DistributedDataParallel(self.criterion, find_unused_parameters=len(strides) > 1)
        self.optimizer = create_optimizer(self.model, options)
        self.step, self.seconds = 0, 0.0
        self.processor_seconds, self.counted = 0.0, processor_seconds()
        self.skipped = self.skipped_in_a_row = 0
        self.rate = 0.0
        self.progress = Progress()
        self.to_beat = self._score_to_beat() if options.keep_best else math.inf
        self.store = StateStore(options.output, options.keep)
        newest = self.store.newest()
        if newest is None:
            if self.weights_path.exists() and not options.keep_best:
                raise TrainingError(
                    f"{self.weights_path} exists without a training state to go on from, so it is not "
                    "overwritten: --output must name another folder"
                )
            self.origin = origin(options)
        else:
            self._restore(*newest)
        check_alike(processes, self.step, self.recipe, self.sources.identity)
        self.saved_step = self.step
        self.whole = True  # but for the moment in which the weights change
        self.writer: SummaryWriter | None = None
        self.stopping = False

    def train(self) -> bool:
        """Run until the last step, ``max_minutes`` or one of `ENDINGS`; save on the way and at the end.

        Returns:
            Whether the stage is finished: no steps are left, no time of its schedule or no patience.
        """
        if self.processes.first:
            self.options.output.mkdir(parents=True, exist_ok=True)
            self.writer = SummaryWriter(str(self.options.output), purge_step=self.step or None)
        first, options = self.processes.first, self.options
        bar = tqdm(
            total=options.train_steps, initial=self.step, disable=not first, smoothing=0.02, unit="step"
        )
        try:
            with on_ending(self._stop), bar, self._rescue():
                self._loop(bar)
        finally:
            if self.writer is not None:
                self.writer.close()
        return self.step >= options.train_steps or self._over()

    def _loop(self, bar: "tqdm[None]") -> None:
        options, processes = self.options, self.processes
        before = self.seconds
        started = saved = validated = mark = time.monotonic()
        if options.keep_best and (self.progress.start is None or self._best_is_gone()):
            self._validate()
        last = self.step if self._over() else options.train_steps
        for batch in batches(self.sources.training, self.step, last, options, processes):
            now = time.monotonic()
            self.seconds = before + now - started
            # Any process's clock or signal counts for all of them: they decide on the same numbers.
            wishes = (
                self.stopping or 0 < options.max_minutes * 60 <= now - started,
                options.save_minutes * 60 <= now - saved,
                0 < options.validate_minutes * 60 <= now - validated,
            )
            means = self._train_step(batch.to(processes.device), dict(zip(WISHES, wishes, strict=True)))
            self._report(bar, means, options.batch / (time.monotonic() - mark))
            mark = time.monotonic()
            ends = self.step == options.train_steps or self._over()
            done = ends and (options.validate_minutes > 0 or options.keep_best)
            due = options.validate_steps > 0 and self.step % options.validate_steps == 0
            if means["validate"] > 0 or due or done:
                self._validate()
                validated = time.monotonic()
            if means["save"] > 0:
                self._save()
                saved = time.monotonic()
            if means["stop"] > 0 or self._over():
                break
        if self.step > self.saved_step or not self.store.paths():
            self._save()
        elif processes.first and not options.keep_best:
            self._save_weights()  # a kill may have come between the last state and its weights
        if options.keep_best and processes.first:
            error = options.error_name
            told = self.progress.verdict(self.weights_path, "EPE" if error == "epe" else f"{error} error")
            tqdm.write(f"deqflow: {told}")

    def _best_is_gone(self) -> bool:
        """Whether the best weights were deleted; then what beats the start is best."""
        gone = self.progress.best != self.progress.start and not self.weights_path.exists()
        if gone:
            self.progress.best = self.progress.start
        return gone

    @contextlib.contextmanager
    def _rescue(self) -> Iterator[None]:
        """Save what the run had reached, whatever ends it (a pair, a worker, another process, memory)."""
        try:
            yield
        except Exception:
            if self.whole and self.step > self.saved_step:
                self._save()
            raise

    def _over(self) -> bool:
        """Whether the stage ends before its last step: out of patience, or by the clock of its schedule."""
        options = self.options
        by_clock = options.schedule_by == "clock" and options.max_minutes * 60 <= self.seconds
        return by_clock or 0 < options.patience <= self.progress.worse

    def _train_step(self, batch: Batch, wishes: dict[str, bool]) -> dict[str, float]:
        """Do one step; return the means over the processes of what it measured and of the wishes."""
        options = self.options
        randomness = StepRandomness.of_step(self.step, options, self.processes.device, fine=self.fine)
        self.optimizer.zero_grad(set_to_none=True)
        measured: dict[str, float] = {}
        for index, part in enumerate(batch.split(options.accumulate)):
            # Gradients are exchanged between processes once a step, with the last part of its batch.
            last = index == options.accumulate - 1
            with contextlib.nullcontext() if last else self._unsynchronized():
                loss, metrics = self.objective(part, randomness)
                with record_function("backward"):
                    (loss / options.accumulate).backward()
            for name, value in (("loss", loss.detach()), *vars(metrics).items()):
                measured[name] = measured.get(name, 0.0) + float(value) / options.accumulate
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        means = self.processes.mean(
            {**measured, "gradient_norm": float(norm), "seconds": self.seconds, **wishes}
        )
        self.seconds = means["seconds"]  # one clock for all processes, which the rate may follow
        self.rate = learning_rate(options, self.step, self.seconds)
        if math.isfinite(means["loss"]) and math.isfinite(means["gradient_norm"]):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
            self.whole = False
            with record_function("optimizer"):
                self.optimizer.step()
                self.average.update_parameters(self.model)
            self.skipped_in_a_row = 0
        else:
            self._skip(batch)
        self.step += 1
        self.whole = True
        return means

    def _score_to_beat(self) -> float:
        """Return the error of the weights that are already there, which only better ones replace."""
        if not any(kind.count for kind in self.sources.held_out):
            raise ConfigError("keep_best needs pairs to compare on: give --held-out or --validation-sets")
        return score_of(self.weights_path, self.sources.identity["held out"], self.options.error_name)

    def _unsynchronized(self) -> contextlib.AbstractContextManager[object]:
        objective = self.objective
        return (
            objective.no_sync()
            if isinstance(objective, DistributedDataParallel)
            else contextlib.nullcontext()
        )

    def _skip(self, batch: Batch) -> None:
        """Count a step whose loss or gradient is not a number; too many in a row end the run."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row < self.options.max_skipped:
            return
        path = self.options.output / f"skipped-{self.step:08d}-{self.processes.rank}.safetensors"
        batch.save(path)
        raise DivergenceError(
            f"loss or gradient was not finite in {self.skipped_in_a_row} steps in a row; the batch of step "
            f"{self.step} is in {path}"
        )

    def _report(self, bar: "tqdm[None]", means: dict[str, float], rate: float) -> None:
        if self.writer is None:
            return
        error = self.options.error_name
        told = {
            error: f"{means[error]:.2f}",
            "residual": f"{means['residual']:.3f}",
            "pairs_s": f"{rate:.1f}",
        }
        bar.set_postfix(told | ({"skipped": str(self.skipped)} if self.skipped else {}), refresh=False)
        bar.update()
        scalars = {name: value for name, value in means.items() if name not in UNTOLD}
        scalars |= {"pairs_per_second": rate, "skipped": self.skipped}
        scalars["learning_rate"] = self.rate
        for name, value in scalars.items():
            self.writer.add_scalar(f"train/{name}", value, self.step)

    def _validate(self) -> None:
        """Evaluate the averaged weights on the held-out pairs; write them if they are to be and better."""
        scores = evaluate(self.averaged, self.sources, self.options, self.processes, self.criterion.error_of)
        if not scores:
            return
        better = self.progress.note(scores, self.step)
        if self.writer is None:
            return
        for name, value in scores.items():
            self.writer.add_scalar(f"held_out/{name}", value, self.step)
        told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        tqdm.write(f"step {self.step}, {self.seconds / 3600:.2f} h: held out {told}")
        score = next(iter(scores.values()))
        if self.options.keep_best and better and score < self.to_beat:
            claim = {f"held_out_{self.options.error_name}": repr(score)}
            self._save_weights(held_out=self.sources.identity["held out"], **claim)

    def _save(self) -> None:
        """Write the state; and the averaged weights, unless only better ones are wanted."""
        if not self.processes.first:
            return
        counted = processor_seconds()
        self.processor_seconds += counted - self.counted
        self.counted = counted
        content = {name: getattr(self, name) for name in COUNTERS} | {
            name: getattr(self, name).state_dict() for name in MODULES
        }
        # Scenes, orders, solver steps and pixels of a step are functions of (seed, step); the global
        # generator is kept for modules that draw from it.
        content["rng"] = torch.get_rng_state()
        content["progress"] = asdict(self.progress)
        content["origin"] = self.origin
        content["options"] = self.recipe
        content["identity"] = json.dumps(dict(self.sources.identity))
        self.store.save(content)
        self.saved_step = self.step
        if not self.options.keep_best:
            self._save_weights()

    def _restore(self, path: Path, content: dict[str, Any]) -> None:
        """Go on from a state, and say what differs from the run that it was saved by."""
        changed = check_resumable(path, content, self.recipe, self.sources.identity)
        try:
            for name in MODULES:
                getattr(self, name).load_state_dict(content[name])
            torch.set_rng_state(content["rng"])
            content = {"processor_seconds": 0.0} | content  # older states do not tell
            for name in COUNTERS:
                setattr(self, name, content[name])
            self.progress, self.origin = Progress(**content["progress"]), str(content["origin"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path} is not a training state of this model: {reason}") from error
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.options.weight_decay
        if self.processes.first:
            told = f", with {'; '.join(changed)}" if changed else ""
            print(f"deqflow: resuming {path} at step {self.step}{told}", file=sys.stderr)

    def _save_weights(self, **scores: str) -> None:
        """Write the averaged weights, with how they came about, and the recipe beside them."""
        about = {
            "weights": "exponential moving average" if self.options.ema else "of the last step",
            "data": self.sources.summary,
            "textures": self.sources.textures,
            "steps": str(self.step),
            "hours": f"{self.seconds / 3600:.2f}",
            "processor_hours": f"{self.processor_seconds / 3600:.4f}",
            "recipe": self.recipe,
            "started_from": self.origin,
        }
        save_weights(self.averaged, self.weights_path, metadata=about | scores)
        recipe = json.dumps(json.loads(self.recipe), indent=1)
        replace_bytes(self.weights_path.with_suffix(".json"), f"{recipe}\n".encode())

    @property
    def averaged(self) -> DEQFlow:
        """The model with averaged weights."""
        assert isinstance(self.average.module, DEQFlow)
        return self.average.module

    @property
    def weights_path(self) -> Path:
        """Where the averaged weights go."""
        return self.options.output / f"{self.options.model}.safetensors"

    def _stop(self) -> None:
        self.stopping = True
