"""Correlation of the features of two frames: one protocol, its variants, and the choice between them."""

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor

from deqflow.devices import free_memory, is_deterministic
from deqflow.errors import ConfigError
from deqflow.network.correlation.all_pairs import AllPairsCorrelation
from deqflow.network.correlation.grid_sampled import GridSampledCorrelation
from deqflow.network.correlation.on_demand import OnDemandCorrelation
from deqflow.network.correlation.protocol import Correlation

__all__ = [
    "AUTO",
    "CORRELATIONS",
    "AllPairsCorrelation",
    "Correlation",
    "GridSampledCorrelation",
    "OnDemandCorrelation",
    "build_correlation",
    "choose_correlation",
]

AUTO: Final = "auto"

CORRELATIONS: Mapping[str, Callable[..., Correlation]] = {
    "all-pairs": AllPairsCorrelation,
    "on-demand": OnDemandCorrelation,
    "grid-sampled": GridSampledCorrelation,
}

LARGEST_ALL_PAIRS = 10_000
"""Positions of a frame up to which all pairs are not slower over a solve (measured: docs/performance.md)."""

MEMORY_SHARE = 0.25
"""Share of the free memory that a volume may take; its gradient is as large."""


def choose_correlation(features1: Tensor) -> str:
    """Return the name of the fastest correlation of features (B, C, H, W) that fits into memory.

    All pairs cost the square of the number of positions once, on demand costs so much per position at every
    step. The two agree to rounding, so results may differ by as much where little memory is free, unless
    they are to be the same in every run: then it goes by size alone.
    """
    batch, _, height, width = features1.shape
    positions = height * width
    volume = batch * positions**2 * 4 / 3 * 4  # of all levels, in float32
    fits = is_deterministic() or volume <= MEMORY_SHARE * free_memory(features1.device)
    return "all-pairs" if fits and positions <= LARGEST_ALL_PAIRS else "on-demand"


def build_correlation(
    features1: Tensor, features2: Tensor, *, levels: int, radius: int, kind: str = AUTO
) -> Correlation:
    """Return the correlation of a pair.

    Args:
        features1: (B, C, H, W) of frame 1.
        features2: (B, C, H, W) of frame 2.
        levels: number of scales of frame 2.
        radius: of the lookup window, in positions of each scale.
        kind: a name of ``CORRELATIONS``; ``auto`` is what ``choose_correlation`` says.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind == AUTO:
        kind = choose_correlation(features1)
    if kind not in CORRELATIONS:
        raise ConfigError(f"correlation {kind!r} is unknown; expected {AUTO}, {', '.join(CORRELATIONS)}")
    return CORRELATIONS[kind](features1, features2, levels=levels, radius=radius)
