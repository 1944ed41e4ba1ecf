"""A first look at a clip: how fast things move in it, from some of its pairs at the coarsest scale."""

from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from deqflow.io import VideoSource
from deqflow.visualize import ColorScale

if TYPE_CHECKING:
    from deqflow.commands.pairs import Image
    from deqflow.estimator import DEQFlow

MOST_LOOKS = 32
"""Pairs that are looked at, spread evenly over a clip of known length."""

UNKNOWN_LENGTH_STEP = 16
"""Of a clip of unknown length every so many pairs are."""

SHARE = 90
"""Percentile of the pairs' lengths that becomes full color: a cut among the pairs does not decide."""


def clip_scale(source: VideoSource, model: "DEQFlow", *, quiet: bool = False) -> float:
    """Return the length of flow in pixels to draw at full saturation over the whole of a clip.

    Args:
        source: read once more from its start.
        model: solves the pairs, at its coarsest scale alone.
        quiet: show no progress.
    """
    count = source.frame_count
    step = UNKNOWN_LENGTH_STEP if count is None else max(1, (count - 1) // MOST_LOOKS)
    lengths = []
    with (
        closing(source.frames()) as frames,
        tqdm(total=count and count - 1, unit="pair", desc="first look", disable=quiet) as progress,
    ):
        for index, (first, second) in enumerate(pairwise(frames)):
            progress.update()
            if index % step == 0 and second.follows:
                lengths.append(_length(first.image, second.image, model))
    return float(np.percentile(lengths, SHARE)) if lengths else ColorScale().floor


def _length(first: "Image", second: "Image", model: "DEQFlow") -> float:
    """Return what `ColorScale` makes of the motion of a pair."""
    import torch

    with torch.inference_mode():
        pair = model.prepare(model.to_tensor(first), model.to_tensor(second))
        state = model.coarse_start(pair)
        if state is None:  # small frames, which have no coarser scale
            state = model.solve(pair).finest.state
    stride = pair.first.image.shape[2] // state.flow.shape[2]
    flow = stride * state.flow[0].permute(1, 2, 0).float().cpu().numpy()
    height, width = first.shape[:2]
    # A vector per pixel, as `ColorScale` expects it of the frame's width.
    dense = np.repeat(np.repeat(flow, stride, axis=0), stride, axis=1)[:height, :width]
    return ColorScale().update(dense)
