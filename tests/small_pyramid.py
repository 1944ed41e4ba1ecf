"""A small model of three scales with random weights, and frames for it."""

import torch
from torch import Tensor

from deqflow.config import ModelConfig, SolveSettings
from deqflow.estimator import DEQFlow
from deqflow.network import ConvexConfig, GatedStripConfig, MixtureConfig, PyramidEncoderConfig

CONFIG = ModelConfig(
    features=16,
    context=8,
    hidden=16,
    levels=2,
    radius=2,
    encoder=PyramidEncoderConfig(stem=8, widths=(8, 12, 16), depths=(1, 2, 1), fused=12),
    update=GatedStripConfig(motion=12, mixed=24),
    upsampling=ConvexConfig(width=16),
    uncertainty=MixtureConfig(width=8),
)
SCALES = (16, 8, 4)


def small_pyramid(config: ModelConfig = CONFIG, name: str = "custom") -> DEQFlow:
    """Return the model, to estimate with; its weights are always the same."""
    torch.manual_seed(1)
    return DEQFlow(config, SolveSettings(scales=SCALES), name=name).eval().requires_grad_(False)


def frames(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Two batches of noise, (2, batch, 3, height, width) of 0..255."""
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(2, batch, 3, height, width, generator=generator)
