"""Memory of a training step: what the graph keeps for the backward pass, and the peak of the process."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from deqflow import zoo
from deqflow.equilibrium import Correction, OneStep, Recorded, Unrolled
from deqflow.estimator import DEQFlow
from deqflow.evaluation.process_cost import peak_memory
from deqflow.memory import SavedBytes
from deqflow.tables import markdown

MIB = 2**20


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one training step.

    Attributes:
        encoders: kept for the backward pass of the feature and context networks.
        rest: kept for that of correlation, update operator and upsampling.
        volume: the correlation volume, alive during the solve; the backward pass needs its gradient, which
            is as large, but not the volume.
        peak: largest resident size of a process that does this step and nothing else; None where the system
            does not tell.
    """

    encoders: int
    rest: int
    volume: int
    peak: int | None = None

    @property
    def kept(self) -> int:
        """Everything kept for the backward pass."""
        return self.encoders + self.rest


def training_memory(
    model: DEQFlow, correction: Correction, *, steps: int, size: tuple[int, int], batch: int = 1
) -> TrainingMemory:
    """Measure what one training step keeps; its backward pass runs too, for the peak of the process.

    Args:
        model: any; gradients are left behind.
        correction: where losses are taken. ``Unrolled()`` decodes every step, as RAFT is trained.
        steps: solver steps.
        size: height and width, multiples of 8; the frames hold noise.
        batch: pairs.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, batch, 3, *size), generator=generator).to(model.device).float()
    encoders, everything = SavedBytes(model), SavedBytes(model)
    with torch.enable_grad(), everything.counting():
        pair = model.prepare(*images)
        features = everything.total
        with encoders.counting():
            # Once more and on its own: inside the operator it cannot be told from the correlation.
            context = model.encoder.context(pair.first.features[model.config.stride].trunk.detach(), -1)
        context_bytes = encoders.total
        del context
        path = model.trajectory(
            pair, correction=correction, gradient=OneStep(), solver=model.defaults.solver, steps=steps
        )
        loss = torch.stack([model.flow_at(state).abs().mean() for state in path.states]).sum()
    kept = everything.total
    loss.backward()
    with torch.no_grad():
        volume = model.operator(pair).correlation.nbytes
    encoders_bytes = features + context_bytes
    return TrainingMemory(encoders_bytes, kept - encoders_bytes, volume, peak_memory())


def _measure(name: str, correction: Correction, steps: int, size: tuple[int, int]) -> TrainingMemory:
    return training_memory(zoo.create(name).train(), correction, steps=steps, size=size)


def memory_report(
    name: str, *, steps: Sequence[int], corrections: Sequence[int], size: tuple[int, int]
) -> str:
    """Return a Markdown table: a model unrolled against it as a DEQ with corrections and one-step gradients.

    Each row is measured in a process of its own, since the peak of a process never falls again.
    """
    recipes: list[tuple[str, Correction]] = [("unrolled, every step decoded", Unrolled())]
    recipes += [(f"DEQ, corrections: {count}", Recorded(count=count)) for count in corrections]
    header = [
        "training",
        "steps",
        "kept MiB",
        "without encoders",
        "volume",
        "peak",
        "kept x",
        "without encoders x",
    ]
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for count in steps:
            unrolled: TrainingMemory | None = None
            for title, correction in recipes:
                found = pool.submit(_measure, name, correction, count, size).result()
                unrolled = unrolled or found
                rows.append(
                    [
                        title,
                        str(count),
                        *(f"{value / MIB:.1f}" for value in (found.kept, found.rest, found.volume)),
                        "" if found.peak is None else f"{found.peak / MIB:.0f}",
                        f"{unrolled.kept / found.kept:.1f}",
                        f"{unrolled.rest / found.rest:.1f}",
                    ]
                )
    return "\n".join(markdown(header, rows))
