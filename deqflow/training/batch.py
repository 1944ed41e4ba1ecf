"""What a training step is given: a batch of pairs, and what is drawn for the step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqflow.data.sample import Sample
from deqflow.training.options import TrainOptions
from deqflow.training.starts import WrongStart


@dataclass(frozen=True)
class Batch:
    """Pairs as tensors: images (B, 3, H, W) of 0..255, flow (B, 2, H, W), valid (B, 1, H, W) float.

    Where the flow from frame 2 to frame 1 is known as well, ``backward`` and ``backward_valid`` hold it.
    """

    image1: Tensor
    image2: Tensor
    flow: Tensor
    valid: Tensor
    names: tuple[str, ...] = ()
    backward: Tensor | None = None
    backward_valid: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    @property
    def bidirectional(self) -> bool:
        """Whether the flow back is known too."""
        return self.backward is not None

    def ground_truth(self) -> tuple[Tensor, Tensor]:
        """Flow and validity, those of the way back after all those of the way there."""
        if self.backward is None or self.backward_valid is None:
            return self.flow, self.valid
        return torch.cat((self.flow, self.backward)), torch.cat((self.valid, self.backward_valid))

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU can fetch from (called by DataLoader)."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **changed)

    def split(self, parts: int) -> list["Batch"]:
        """Equal parts, to be computed one after the other."""
        chunks = {name: tensor.chunk(parts) for name, tensor in self.tensors().items()}
        share = len(self.names) // parts
        return [
            Batch(
                **{name: chunk[i] for name, chunk in chunks.items()},
                names=self.names[i * share : (i + 1) * share],
            )
            for i in range(parts)
        ]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""

    def stacked(name: str) -> Tensor:
        maps = np.stack([np.atleast_3d(getattr(sample, name)) for sample in samples])
        return torch.from_numpy(maps).permute(0, 3, 1, 2).float()

    names = tuple(sample.name for sample in samples)
    there = Batch(stacked("frame1"), stacked("frame2"), stacked("flow"), stacked("valid"), names)
    if samples[0].backward is None:
        return there
    return replace(there, backward=stacked("backward"), backward_valid=stacked("backward_valid"))


@dataclass(frozen=True)
class StepRandomness:
    """What a step is drawn, from the seed and its number: the same on every process and in every resumed run.

    Attributes:
        subpixel_positions: (K,) positions inside a coarse pixel that losses look at, see
            ``ConvexUpsampling.at_positions``.
        solver_steps: evaluations of the solve.
        coarse_start: whether the solve starts from the fixed point at twice the stride.
        probe: seed of the Jacobian penalty's probe; None leaves the penalty out.
        wrong_start: what to start from instead of zeros or the coarse fixed point; None does not.
    """

    subpixel_positions: Tensor
    solver_steps: int
    coarse_start: bool = False
    probe: int | None = None
    wrong_start: WrongStart | None = None

    @classmethod
    def of_step(cls, step: int, options: TrainOptions, device: torch.device) -> "StepRandomness":
        """The randomness of a step, counted from 0."""
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        subpixel_positions = torch.randperm(64, generator=generator)[: options.subpixel_positions].to(device)
        fewest, most = options.solver_steps
        solver_steps = int(torch.randint(fewest, most + 1, (), generator=generator))
        probe = int(torch.randint(2**31, (), generator=generator))
        coarse = float(torch.rand((), generator=generator)) < options.coarse_start_probability
        penalised = options.jacobian_weight > 0 and step % options.jacobian_every == 0
        wrong = float(torch.rand((), generator=generator)) < options.wrong_start_probability
        return cls(
            subpixel_positions,
            solver_steps,
            coarse and not wrong,
            probe if penalised else None,
            WrongStart.draw(generator) if wrong else None,
        )
