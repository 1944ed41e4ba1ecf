"""What an update step needs of a correlation."""

from typing import Protocol

from torch import Tensor


class Correlation(Protocol):
    """Inner products of the features of frame 1 with those of frame 2, divided by sqrt(channels).

    Frame 2 is seen at several scales: level l is halved l times by 2x2 averages, an odd edge dropped.
    """

    @property
    def channels(self) -> int:
        """Return the number of channels of a lookup, levels * (2 radius + 1)^2."""
        ...

    @property
    def nbytes(self) -> int:
        """Return the bytes held from lookup to lookup."""
        ...

    def lookup(self, flow: Tensor, active: Tensor | None = None) -> Tensor:
        """Return the correlations in the window around where ``flow`` points, on every level.

        Args:
            flow: (b, 2, H, W) in pixels of this grid.
            active: (b,) indices of these samples in the batch, repeated ones allowed; None means all.

        Returns:
            (b, channels, H, W) float32, bilinear, zeros outside; channel
            ``l (2r+1)^2 + (dx+r) (2r+1) + (dy+r)``, the published order.
        """
        ...
