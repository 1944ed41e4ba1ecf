"""Convolutions whose effective filters are computed once per forward pass, not once per solver step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Filters = Mapping[nn.Module, Tensor]
"""The effective filters of every convolution of an operator, for one forward pass."""


class PlainConv2d(nn.Conv2d):
    """A convolution with "same" padding that is given its filters."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int | tuple[int, int], *, bias: bool = True
    ) -> None:
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        super().__init__(in_channels, out_channels, size, padding=(size[0] // 2, size[1] // 2), bias=bias)

    def effective(self) -> Tensor:
        """Return the filters, shaped as ``weight``."""
        return self.weight

    def forward(self, x: Tensor, filters: Filters | None = None) -> Tensor:
        """Convolve (B, C, H, W) with this layer's share of ``filters``; None computes it."""
        return self._conv_forward(x, self.effective() if filters is None else filters[self], self.bias)


class WeightNormConv2d(PlainConv2d):
    """The same with weight norm: filters are ``gain * weight / |weight|``, one gain per output channel.

    Source: Salimans and Kingma, Weight Normalization, 2016. The parameters are plain ones, so a model copies,
    pickles and saves as any other.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int | tuple[int, int], *, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, bias=bias)
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))
        if not self.weight.is_meta:  # the first arithmetic there costs a second of imports
            with torch.no_grad():
                self.gain.copy_(self._length())

    def _length(self) -> Tensor:
        return torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)

    def effective(self) -> Tensor:
        """Return the filters, shaped as ``weight``."""
        return self.weight * (self.gain / self._length())


def collect_filters(operator: nn.Module) -> Filters:
    """Return the effective filters of all such convolutions inside ``operator``, differentiable.

    Under autocast they are cast here, once, instead of at every step of the solve.
    """
    layers = [layer for layer in operator.modules() if isinstance(layer, PlainConv2d)]
    device = layers[0].weight.device.type
    filters: dict[nn.Module, Tensor] = {layer: layer.effective() for layer in layers}
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        filters = {layer: weight.to(dtype) for layer, weight in filters.items()}
    return filters
