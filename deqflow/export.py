"""Models as ONNX files: a fixed number of steps, frames of any size."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.config import SolveSettings
from deqflow.equilibrium import FixedPointIteration
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.extras import requires
from deqflow.flow_network import FARTHEST_REFINEMENT
from deqflow.geometry import Padding, within
from deqflow.io.files import replace_bytes
from deqflow.pair import EncodedFrame, PreparedPair
from deqflow.step import FlowState

OPSET = 20
"""Of ONNX; the first in which GridSample has the modes of PyTorch by the same names."""

USUAL_SIDE = 320
"""Pixels on the shorter side of the frames that exported scales are for unless told otherwise."""


class FixedSteps(nn.Module):
    """A model with nothing left to decide while it runs: scales and steps are fixed, nothing is measured.

    Attributes:
        smallest_side: pixels that frames must have a side, so that no level of the correlation is empty at
            the coarsest scale, which small frames do not leave out here.
    """

    def __init__(self, model: DEQFlow, settings: SolveSettings) -> None:
        super().__init__()
        if not isinstance(settings.solver, FixedPointIteration):
            raise ConfigError(f"export needs the solver plain or relaxed, not {settings.solver}")
        self.model, self.settings = copy.deepcopy(model).cpu().float().eval().requires_grad_(False), settings
        self.model.correlation = "grid-sampled"
        self.smallest_side = settings.scales[0] * 2 ** (model.config.levels - 1)

    @torch.no_grad()
    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        """Frames (B, 3, H, W) of 0..255 -> flow (B, 2, H, W) in pixels."""
        model, settings = self.model, self.settings
        stride, coarsest = model.config.stride, max(model.config.strides)
        height, width = image1.shape[2:]
        above, before = (-height % coarsest) // 2, (-width % coarsest) // 2
        images = [_padded(image, coarsest, above, before) for image in (image1, image2)]
        state: FlowState | None = None
        last, guide = 0, None
        known = [model.encode(image, settings.scales[-1:]) for image in images]
        for scale in settings.scales:
            if scale > coarsest:
                shrunk = [_padded(F.avg_pool2d(image, scale // coarsest), coarsest) for image in images]
                features = [{scale: model.encode(image, (coarsest,)).features[coarsest]} for image in shrunk]
                frames = [EncodedFrame(image, part) for image, part in zip(shrunk, features, strict=True)]
            else:
                frames = known
            step = model.operator(PreparedPair(frames[0], frames[1], Padding()), scale)
            if state is not None:
                if scale < stride:
                    guide = model.flow_at(state, scale=last)
                rows, columns = step.start.flow.shape[2:]
                state = state.enlarged(last // scale, (rows, columns))
            state, last = step.start if state is None else state, scale
            for _ in range(settings.steps_at(scale)):
                state, _ = settings.solver.advance(state, step(state), [])
        assert state is not None  # there is a scale at least
        scale = settings.scales[-1]
        flow = model.flow_at(state, scale=scale)
        if guide is not None:
            flow = within(flow, guide, FARTHEST_REFINEMENT)
        return flow[:, :, above : above + height, before : before + width]


def _padded(image: Tensor, multiple: int, above: int = 0, before: int = 0) -> Tensor:
    """Repeat the border so that sides become multiples: rows above, columns before, and the rest beyond.

    As ``Padding`` does, but without asking how large the frames are.
    """
    height, width = image.shape[2:]
    rows = torch.arange(height + -height % multiple, device=image.device) - above
    columns = torch.arange(width + -width % multiple, device=image.device) - before
    return image[:, :, rows.clamp(0, height - 1)][..., columns.clamp(0, width - 1)]


def usual_settings(model: DEQFlow, settings: SolveSettings) -> SolveSettings:
    """Return settings without the scales that frames of ``USUAL_SIDE`` pixels a side leave out."""
    frame = torch.empty(1, 3, USUAL_SIDE, USUAL_SIDE, device="meta")
    return replace(settings, scales=model.scales(frame, settings))


def export_onnx(model: DEQFlow, path: Path, settings: SolveSettings) -> FixedSteps:
    """Write a model as ONNX: ``image1`` and ``image2`` (1, 3, H, W) of 0..255 to ``flow`` (1, 2, H, W).

    Args:
        model: its weights are written in float32.
        path: replaced if it exists.
        settings: how to solve; neither the tolerance nor the second start counts: all steps are run, once.

    Returns:
        What was written, as it runs here.

    Raises:
        ConfigError: a solver that is not an iteration.
        MissingExtraError: onnx or onnxscript are not installed.
    """
    with requires("onnx", "export"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    fixed = FixedSteps(model, settings).eval()
    height, width = (torch.export.Dim(side, min=fixed.smallest_side) for side in ("height", "width"))
    sides = {2: height, 3: width}
    # Sides that are no multiple of anything, so that no branch is taken for one; two tensors, for one that is
    # given twice would be taken as one input.
    examples = torch.zeros(2, 1, 3, fixed.smallest_side + 41, fixed.smallest_side + 83).unbind()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            fixed,
            examples,
            dynamo=True,
            dynamic_shapes={"image1": sides, "image2": sides},
            input_names=["image1", "image2"],
            output_names=["flow"],
            opset_version=OPSET,
            optimize=False,  # a quarter of the time, for what runtimes do when they load the file
            verbose=False,
        )
    assert program is not None
    replace_bytes(path, program.model_proto.SerializeToString())
    return fixed
