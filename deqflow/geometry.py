"""Pixels, grids and motion: padding, warping and splatting on batched tensors (B, C, H, W).

Flow is in pixels of the tensor's own grid, u to the right and v down. Pixel centers have integer coordinates.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def coordinate_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Pixel coordinates (x, y) of every pixel center, (2, height, width)."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype),
        torch.arange(width, device=device, dtype=dtype),
        indexing="ij",
    )
    return torch.stack((x, y))


@dataclass(frozen=True)
class Padding:
    """Rows and columns added around an image so that its sides become multiples of the network's stride."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    @classmethod
    def for_size(cls, height: int, width: int, multiple: int = 8, *, centered: bool = True) -> Self:
        """Return the smallest padding of (height, width) to multiples of ``multiple``.

        ``centered`` shares the padding between opposite sides (Sintel in published evaluations); else the
        width is shared and the whole vertical padding goes below (KITTI in published evaluations).
        """
        if height < 1 or width < 1 or multiple < 1:
            raise ValueError(f"expected positive sizes, got {height} x {width} and multiple {multiple}")
        down, across = -height % multiple, -width % multiple
        top = down // 2 if centered else 0
        return cls(across // 2, across - across // 2, top, down - top)

    def __add__(self, inner: "Padding") -> "Padding":
        """Both: this one around ``inner``, which was added before or is taken off after it."""
        sides = ("left", "right", "top", "bottom")
        return Padding(**{side: getattr(self, side) + getattr(inner, side) for side in sides})

    def pad(self, x: Tensor) -> Tensor:
        """Repeats the border of ``x`` (B, C, H, W) outwards."""
        if not any((self.left, self.right, self.top, self.bottom)):
            return x
        return F.pad(x, (self.left, self.right, self.top, self.bottom), mode="replicate")

    def crop(self, x: Tensor) -> Tensor:
        """Undoes `pad`: the inner part of ``x`` (..., H, W), as a view."""
        height, width = x.shape[-2:]
        return x[..., self.top : height - self.bottom, self.left : width - self.right]


def backward_warp(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Sample ``image`` where ``flow`` points: ``warped(x) = image(x + flow(x))``, bilinear.

    Args:
        image: (B, C, H, W), floating point; usually frame 2.
        flow: (B, 2, h, w) in pixels; its size is that of the result.

    Returns:
        The warped image (B, C, h, w), zero outside, and a bool mask (B, 1, h, w) of points inside the image.
    """
    _check_flow(image, flow)
    height, width = image.shape[-2:]
    target = coordinate_grid(flow.shape[2], flow.shape[3], device=flow.device) + flow.float()
    x, y = target[:, 0], target[:, 1]
    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).unsqueeze(1)
    # A side of one pixel has no extent to normalize by; every valid coordinate is then 0 and maps to -1.
    grid = torch.stack((2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1), dim=-1)
    warped = F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return warped.to(image.dtype), inside


def forward_splat(values: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Carries ``values`` along ``flow``: every pixel is spread bilinearly over the four it lands between.

    Where several pixels land on one, their weighted mean is taken. Points that leave the frame, and those
    whose flow is not finite, are dropped.

    Args:
        values: (B, C, H, W).
        flow: (B, 2, H, W), pixels.

    Returns:
        The mean (B, C, H, W), zero in holes, and the accumulated weight (B, 1, H, W), zero in holes.
    """
    _check_flow(values, flow)
    if values.shape[-2:] != flow.shape[-2:]:
        raise ValueError(f"values {tuple(values.shape)} and flow {tuple(flow.shape)} differ in size")
    batch, channels, height, width = values.shape
    target = coordinate_grid(height, width, device=flow.device) + flow.float()
    # Far outside is dropped like just outside; the clamp only keeps the conversion to integers defined.
    target = torch.nan_to_num(target, nan=-9.0).clamp(-9.0, max(height, width) + 9.0)
    corner = target.floor()
    fraction = target - corner
    corner = corner.long()
    payload = torch.cat((values.float(), torch.ones_like(values[:, :1], dtype=torch.float32)), 1).flatten(2)
    total = payload.new_zeros(batch, channels + 1, height * width)
    for right in (0, 1):
        for down in (0, 1):
            x, y = corner[:, 0] + right, corner[:, 1] + down
            weight = (fraction[:, 0] if right else 1 - fraction[:, 0]) * (
                fraction[:, 1] if down else 1 - fraction[:, 1]
            )
            weight = weight * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
            index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1).unsqueeze(1)
            total.scatter_add_(2, index.expand_as(payload), payload * weight.flatten(1).unsqueeze(1))
    total = total.unflatten(2, (height, width))
    weight = total[:, -1:]
    mean = total[:, :-1] / weight.clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(weight > 0, mean, 0).to(values.dtype), weight


def forward_backward_consistency(
    forward: Tensor, backward: Tensor, *, relative: float = 0.01, absolute: float = 0.5
) -> Tensor:
    """Bool (B, 1, H, W), true where going along ``forward`` and back along ``backward`` returns to the start.

    The usual test of Sundaram, Brox and Keutzer (ECCV 2010, eq. 5): the squared gap may be at most
    ``relative`` times the squared lengths plus ``absolute``. False also where the flow leaves the frame.
    """
    returned, inside = backward_warp(backward, forward)
    gap = (forward + returned).square().sum(1, keepdim=True)
    length = forward.square().sum(1, keepdim=True) + returned.square().sum(1, keepdim=True)
    return (gap <= relative * length + absolute) & inside


def warp(
    image: NDArray[np.generic], flow: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Carry an image back along a flow: frame 2 and the flow to it give what frame 1 shows, where it is seen.

    Args:
        image: (H, W, C), usually frame 2.
        flow: (H, W, 2) from frame 1 to frame 2, pixels.

    Returns:
        The image (H, W, C), bilinear, zero outside, and bool (H, W), true where the flow stays inside.
    """
    pixels, moves = (
        torch.from_numpy(np.ascontiguousarray(array, np.float32)).permute(2, 0, 1)[None]
        for array in (image, flow)
    )
    carried, inside = (part[0].permute(1, 2, 0).numpy() for part in backward_warp(pixels, moves))
    return carried, inside[..., 0]


def occlusion(forward: NDArray[np.float32], backward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Bool (H, W), true where a point of frame 1 is hidden in frame 2 or leaves it, as the two flows say.

    That is where `forward_backward_consistency` fails at its thresholds: there and back leads further from
    the start than sqrt(0.01 (|f|^2 + |b|^2) + 0.5) pixels.

    Args:
        forward: (H, W, 2) from frame 1 to frame 2, pixels.
        backward: (H, W, 2) from frame 2 to frame 1, pixels.
    """
    flows = (torch.from_numpy(flow).permute(2, 0, 1).unsqueeze(0) for flow in (forward, backward))
    return ~forward_backward_consistency(*flows)[0, 0].numpy()


def enlarged(image: Tensor, factor: int) -> Tensor:
    """Return frames (B, C, H, W) of 0..255, ``factor`` times as large, bicubic."""
    return F.interpolate(image, scale_factor=factor, mode="bicubic").clamp(0, 255)


def within(flow: Tensor, other: Tensor, distance: float) -> Tensor:
    """Return flow (B, 2, H, W), drawn towards ``other`` where it is more than ``distance`` pixels from it."""
    change = flow - other
    return other + change * (distance / change.norm(dim=1, keepdim=True).clamp_min(distance))


def resize_flow(flow: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the flow of the same frames at another size: resampled, and its vectors scaled.

    Args:
        flow: (H, W, 2), pixels.
        size: height and width.
    """
    height, width = flow.shape[:2]
    if size == (height, width):
        return flow
    field = torch.from_numpy(flow).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(field, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    scale = torch.tensor([size[1] / width, size[0] / height])
    return np.ascontiguousarray((resized * scale).numpy())


def _check_flow(image: Tensor, flow: Tensor) -> None:
    if image.ndim != 4 or flow.ndim != 4 or flow.shape[1] != 2 or flow.shape[0] != image.shape[0]:
        raise ValueError(
            f"expected an image (B, C, H, W) and a flow (B, 2, H, W), "
            f"got {tuple(image.shape)} and {tuple(flow.shape)}"
        )
