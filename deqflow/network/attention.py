"""Global motion aggregation (Jiang et al., GMA, ICCV 2021): what is occluded moves like what it resembles."""

import torch
from torch import Tensor, nn

from deqflow.network.weight_norm import Filters, PlainConv2d


class GlobalAttention(nn.Module):
    """How much each position of frame 1 resembles each other one, from its context; once per pair.

    One head, as wide as the context, and no positional term.

    Args:
        context: channels of the context.
    """

    def __init__(self, context: int) -> None:
        super().__init__()
        self.scale = context**-0.5
        self.query_key = nn.Conv2d(context, 2 * context, 1, bias=False)

    def forward(self, context: Tensor) -> Tensor:
        """(B, C, H, W) -> weights (B, N, N) over the N = H * W positions, rows sum to one."""
        query, key = self.query_key(context).flatten(2).chunk(2, dim=1)
        weights = torch.softmax((self.scale * query).transpose(1, 2) @ key, dim=2)
        return weights.to(query.dtype)  # autocast's softmax is float32; the matrix is the largest of the step


class GlobalAggregation(nn.Module):
    """Adds to the motion at each position what the positions that it resembles do.

    Args:
        motion: channels of the encoded motion.
        conv: class of the convolution.
    """

    def __init__(self, motion: int, *, conv: type[PlainConv2d]) -> None:
        super().__init__()
        self.value = conv(motion, motion, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(
        self, motion: Tensor, attention: Tensor, filters: Filters, active: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W) -> the same shape; ``active`` says which samples of ``attention`` these are."""
        value = self.value(motion, filters)
        flat = value.flatten(2).to(attention.dtype)
        if active is None:
            gathered = flat @ attention.transpose(1, 2)
        else:
            # Sample by sample: indexing would copy N x N weights for each of them at every step.
            pairs = zip(flat, active.tolist(), strict=True)
            gathered = torch.stack([one @ attention[sample].T for one, sample in pairs])
        return motion + self.scale * gathered.view_as(value)
