"""How far the flow of a pixel may be off, told from the hidden state."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.errors import ConfigError
from deqflow.network.sizes import require_sizes

Curve = tuple[tuple[float, float], ...]
"""Points (told, real) of a rising curve: mean absolute errors in pixels."""

INNER_SCALE = 0.25
"""Mean absolute error in pixels of an ordinary pixel: the fixed scale of the mixture's first component."""

LARGEST_SCALE = 400.0
"""Of the second component, in pixels."""


class Mixture(NamedTuple):
    """Errors of one component of the flow as a mixture of two Laplace distributions.

    Attributes:
        ordinary: log odds of the first, whose scale is ``INNER_SCALE``.
        scale: of the second, in pixels, above ``INNER_SCALE``.
    """

    ordinary: Tensor
    scale: Tensor

    @property
    def expected_error(self) -> Tensor:
        """Mean absolute error of a component of the flow, in pixels."""
        share = torch.sigmoid(self.ordinary)
        return share * INNER_SCALE + (1 - share) * self.scale

    def negative_log_likelihood(self, difference: Tensor) -> Tensor:
        """Negative log likelihood of errors (of both components: they broadcast), per pixel."""
        distance = difference.abs()
        inner = F.logsigmoid(self.ordinary) - distance / INNER_SCALE - math.log(2 * INNER_SCALE)
        outer = F.logsigmoid(-self.ordinary) - distance / self.scale - (2 * self.scale).log()
        return -torch.logaddexp(inner, outer)


class MixtureHead(nn.Module):
    """A mixture of Laplace distributions for every full-resolution pixel.

    Source: Wang, Lipson and Deng, SEA-RAFT, ECCV 2024, sec. 3.1: one scale is fixed, the other is told.

    Args:
        hidden: channels of the hidden state.
        width: channels in between.
        factor: full-resolution pixels per coarse one, along each side.
        calibration: what the error really is where the mixture tells one; empty leaves it as told.
    """

    def __init__(
        self, *, hidden: int = 96, width: int = 64, factor: int = 8, calibration: Curve = ()
    ) -> None:
        super().__init__()
        self.factor, self.calibration = factor, calibration
        self.head = nn.Sequential(
            nn.Conv2d(hidden, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * factor**2, 1)
        )

    def forward(self, hidden: Tensor) -> Mixture:
        """Mixtures (B, 1, H * factor, W * factor) from hidden (B, C, H, W)."""
        return Mixture(*(F.pixel_shuffle(part[:, 0], self.factor) for part in self.at_positions(hidden)))

    def expected_error(self, hidden: Tensor, disagreement: Tensor | None = None) -> Tensor:
        """Calibrated mean absolute error of a component of the flow, (B, 1, H * factor, W * factor) pixels.

        Between the points of the calibration, and beyond the last, it follows straight lines.

        Args:
            hidden: (B, C, H, W).
            disagreement: (B, 1, H, W) pixels between this flow and that of a coarser scale. Where two scales
                differ one of them is wrong: it is added to what the mixture tells, before the calibration.
        """
        told: Tensor = self(hidden).expected_error
        if disagreement is not None:
            told = told + F.interpolate(disagreement, scale_factor=self.factor, mode="bilinear")
        if not self.calibration:
            return told
        known, real = torch.tensor(self.calibration, device=told.device).t().contiguous()
        above = torch.searchsorted(known, told).clamp(1, len(known) - 1)
        slope, first = real.diff() / known.diff(), real[0]
        return (real[above] + (told - known[above]) * slope[above - 1]).clamp_min(first)

    def at_positions(self, hidden: Tensor, positions: Tensor | None = None) -> Mixture:
        """Mixtures sorted by their place inside a coarse pixel, (B, 1, K, H, W) float32.

        Args:
            hidden: (B, C, H, W).
            positions: (K,) places ``factor * row + column``; None means all.
        """
        last = self.head[2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        weight, bias = (part.unflatten(0, (2, -1)) for part in (last.weight, last.bias))
        if positions is not None:
            weight, bias = weight[:, positions], bias[:, positions]
        told = F.conv2d(self.head[:2](hidden), weight.flatten(0, 1), bias.flatten()).float()
        ordinary, scale = told.unflatten(1, (2, 1, -1)).unbind(dim=1)
        return Mixture(ordinary, (INNER_SCALE + F.softplus(scale)).clamp_max(LARGEST_SCALE))


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Sizes of a ``MixtureHead``.

    Attributes:
        width: channels in between.
        calibration: points (told, real) of expected errors, see ``MixtureHead``; `calibrate` measures them.
    """

    width: int = 64
    calibration: Curve = ()
    kind: str = field(default="mixture", init=False)

    def __post_init__(self) -> None:
        require_sizes("uncertainty", width=self.width)
        if self.calibration and not _rising(self.calibration):
            raise ConfigError(
                "calibration of the uncertainty must be 2 to 64 pairs of numbers from 0 that rise, "
                f"got {self.calibration!r:.200}"
            )

    def build(self, *, hidden: int, factor: int) -> MixtureHead:
        """Return the head, for frames ``factor`` times as large as the grid."""
        return MixtureHead(hidden=hidden, width=self.width, factor=factor, calibration=self.calibration)


def _rising(points: object) -> bool:
    """Whether something is a curve: a file may say anything."""
    if not isinstance(points, tuple) or not 2 <= len(points) <= 64:
        return False
    if not all(isinstance(point, tuple) and len(point) == 2 for point in points):
        return False
    if not all(
        type(number) in (int, float) and 0 <= number < math.inf for point in points for number in point
    ):
        return False
    return all(low[0] < high[0] and low[1] < high[1] for low, high in pairwise(points))
