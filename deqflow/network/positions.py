"""What is computed for each position of a grid on its own."""

from collections.abc import Callable

import torch
from torch import Tensor

from deqflow.devices import working_set


def by_position(function: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """Apply a function of matrices (N, C), one row a position, to maps (B, C, H, W) in channels_last memory.

    Without a graph to be made it goes portion by portion: what lies between its operations then stays in the
    processor's cache, and is never there for the whole frame.
    """
    batch, _, height, width = maps[0].shape
    matrices = [part.permute(0, 2, 3, 1).flatten(0, 2) for part in maps]
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        out = function(*matrices)
    else:
        row = sum(matrix.shape[1] * matrix.element_size() for matrix in matrices)
        positions = max(1, working_set(matrices[0].device) // row)
        portions = zip(*(matrix.split(positions) for matrix in matrices), strict=True)
        first = function(*next(portions))
        out = first.new_empty(len(matrices[0]), first.shape[1])
        out[:positions] = first
        for index, portion in enumerate(portions, 1):
            out[index * positions : (index + 1) * positions] = function(*portion)
    return out.view(batch, height, width, -1).permute(0, 3, 1, 2)
