"""What training on footage without ground truth minimizes.

Warped frames must look alike where they show the same thing, flow is smooth where the frame is,
and what is seen in a crop must agree with what is seen in the whole frame. Sources: Jonschkowski et al., What
Matters in Unsupervised Optical Flow (UFlow), ECCV 2020; Stone et al., SMURF, CVPR 2021.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.estimator import DEQFlow
from deqflow.geometry import backward_warp, forward_backward_consistency
from deqflow.training.data import Batch
from deqflow.training.options import FootageOptions
from deqflow.training.starts import StepRandomness, follow

CENSUS_RADIUS = 3
LUMA = (0.2989, 0.5870, 0.1140)


def census_transform(image: Tensor, radius: int = CENSUS_RADIUS) -> Tensor:
    """Return each pixel as its soft signs against its neighbors, which a change of brightness leaves alone.

    Args:
        image: (B, 3, H, W) of 0..255.
        radius: of the square neighborhood.

    Returns:
        (B, (2 radius + 1)^2, H, W) in -1..1; borders compare with zeros and should not count.

    Source: Meister et al., UnFlow, AAAI 2018, sec. 3.
    """
    size = 2 * radius + 1
    gray = (image * image.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    around = F.unfold(gray, size, padding=radius).unflatten(2, gray.shape[-2:])
    difference = around - gray
    return difference * torch.rsqrt(0.81 + difference.square())


def census_distance(image1: Tensor, image2: Tensor, radius: int = CENSUS_RADIUS) -> Tensor:
    """Return the soft Hamming distance of two census transforms, (B, 1, H, W), at least 0."""
    squared = (census_transform(image1, radius) - census_transform(image2, radius)).square()
    return (squared / (0.1 + squared)).sum(dim=1, keepdim=True)


def photometric_loss(image1: Tensor, image2: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Return the mean robust census distance between frame 1 and frame 2 warped onto it.

    Args:
        image1: (B, 3, H, W) of 0..255.
        image2: (B, 3, H, W).
        flow: (B, 2, H, W), pixels.
        visible: (B, 1, H, W) bool, where frame 2 shows what frame 1 does; only there it counts.
    """
    warped, inside = backward_warp(image2, flow)
    # A neighborhood that reaches out of either frame has nothing to be compared with.
    r = CENSUS_RADIUS
    outside = F.pad((~inside).float(), (r, r, r, r), value=1.0)
    known = visible * (1 - F.max_pool2d(outside, 2 * r + 1, stride=1))
    # Generalized Charbonnier with exponent 0.4, as in UFlow, sec. 3.1.
    error = (census_distance(image1, warped) + 0.01) ** 0.4
    return (error * known).sum() / known.sum().clamp_min(1)


def smoothness_loss(image: Tensor, flow: Tensor, *, edge: float = 150.0, order: int = 1) -> Tensor:
    """Return the mean change of flow from pixel to pixel, forgiven where the frame changes too.

    Args:
        image: (B, 3, H, W) of 0..255.
        flow: (B, 2, H, W), pixels.
        edge: how much a change of the frame forgives; changes are measured in shares of the full range.
        order: 1 punishes slopes, 2 changes of slope, which lets planes of a driving scene lean.

    Raises:
        ValueError: another order.

    Source: UFlow, sec. 3.1.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, not {order}")
    total = flow.new_zeros(())
    for dim in (2, 3):
        change = flow.diff(n=order, dim=dim)
        contrast = (image / 255).diff(dim=dim).abs().mean(dim=1, keepdim=True)
        if order == 2:
            length = contrast.shape[dim] - 1
            contrast = 0.5 * (contrast.narrow(dim, 0, length) + contrast.narrow(dim, 1, length))
        total = total + (torch.exp(-edge * contrast) * (change.square() + 1e-6).sqrt()).mean()
    return total / 2


def distillation_loss(student: Tensor, teacher: Tensor, trusted: Tensor) -> Tensor:
    """Return the mean distance of a crop's flow from that of the whole frame, where that is to be trusted.

    Args:
        student: (B, 2, h, w), pixels.
        teacher: (B, 2, h, w), without a graph.
        trusted: (B, 1, h, w) bool.
    """
    known = trusted.float()
    distance = ((student - teacher).square() + 1e-6).sqrt() * known
    return distance.sum() / (2 * known.sum().clamp_min(1))


CROP_MARGIN = 32
"""Pixels of each side that the crop of the self-distillation leaves out, if that is at most a quarter."""


@dataclass(frozen=True)
class UnsupervisedMetrics:
    """Of one training step, without a graph.

    Attributes:
        photometric: of the last point, comparable between runs.
        smoothness: of the last point.
        distillation: between crop and frame.
        visible: share of pixels that pass the forward-backward check.
        residual: movement of the flow in the last step, RMS in pixels.
    """

    photometric: Tensor
    smoothness: Tensor
    distillation: Tensor
    visible: Tensor
    residual: Tensor


class UnsupervisedObjective(nn.Module):
    """Loss of a batch of frame pairs without ground truth, both ways at once.

    Args:
        model: whose parameters are trained.
        options: what counts how much, and how it is differentiated.
    """

    def __init__(self, model: DEQFlow, options: FootageOptions) -> None:
        super().__init__()
        self.model, self.options = model, options
        if model.uncertainty is not None:
            # Without ground truth there is no error to learn from, and DistributedDataParallel wants a
            # gradient of every parameter that asks for one.
            model.uncertainty.requires_grad_(False)

    def forward(self, batch: Batch, randomness: StepRandomness) -> tuple[Tensor, UnsupervisedMetrics]:
        """Compute the loss of both directions, over all pixels: likeness needs whole neighborhoods."""
        options = self.options
        first, second = torch.cat((batch.image1, batch.image2)), torch.cat((batch.image2, batch.image1))
        flows, residual = self._flows(batch.image1, batch.image2, randomness)
        last = flows[-1].detach()
        visible = forward_backward_consistency(last, last.roll(len(batch.image1), dims=0))
        looks = [photometric_loss(first, second, found, visible) for found in flows]
        slopes = [smoothness_loss(first, found) for found in flows]
        decay = [options.gamma ** (len(flows) - 1 - index) for index in range(len(flows))]
        parts = zip(decay, looks, slopes, strict=True)
        loss = torch.stack([w * (look + options.smoothness * slope) for w, look, slope in parts]).sum()
        distilled = last.new_zeros(())
        if options.distillation > 0:
            distilled = self._distillation(batch, last, visible, randomness)
            loss = loss + options.distillation * distilled
        metrics = (looks[-1], slopes[-1], distilled, visible.float().mean(), residual)
        return loss, UnsupervisedMetrics(*(value.detach() for value in metrics))

    def _flows(
        self, image1: Tensor, image2: Tensor, randomness: StepRandomness
    ) -> tuple[list[Tensor], Tensor]:
        """Return full-resolution flows along the path, those there before those back, and the residual."""
        path = follow(self.model, self.options, image1, image2, randomness, bidirectional=True)
        scale = randomness.stride(self.model.config)
        flows = [self.model.flow_at(state, scale=scale) for state in path.states]
        return flows, path.residual[:, 0].mean()

    def _distillation(
        self, batch: Batch, flow: Tensor, visible: Tensor, randomness: StepRandomness
    ) -> Tensor:
        """Return the crop's disagreement with the frame where the frame's own check passes.

        Around the border of the crop the student sees things leave that the teacher still sees.
        """
        coarsest = self.model.config.strides[0]
        margin = min(CROP_MARGIN, coarsest * (min(flow.shape[-2:]) // (4 * coarsest)))
        inner = (..., slice(margin, -margin), slice(margin, -margin))
        image1, image2 = (image[inner].contiguous() for image in (batch.image1, batch.image2))
        flows, _ = self._flows(image1, image2, randomness)
        return distillation_loss(flows[-1], flow[inner], visible[inner])

    @staticmethod
    def error_of(batch: Batch, flow: Tensor) -> Tensor:
        """Return the mean photometric error over all pixels, so that no choice of them can lower it."""
        everywhere = torch.ones_like(batch.valid, dtype=torch.bool)
        return photometric_loss(batch.image1, batch.image2, flow, everywhere)
