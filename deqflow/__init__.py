"""DEQ-Flow: optical flow as the fixed point of a learned update operator.

>>> import deqflow
>>> model = deqflow.load("deqflow-s")  # doctest: +SKIP
>>> estimate = model.estimate("frame1.png", "frame2.png")  # doctest: +SKIP
>>> estimate.flow.shape  # doctest: +SKIP
(436, 1024, 2)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqflow.config import SolveSettings
    from deqflow.equilibrium import Anderson, Broyden, DampedIteration, FixedPointIteration, Outcome, Solver
    from deqflow.errors import CheckpointError, ConfigError, DataError, DeqflowError, ImageError, VideoError
    from deqflow.estimate import BatchEstimate, FlowEstimate
    from deqflow.estimator import DEQFlow
    from deqflow.geometry import occlusion, warp
    from deqflow.io import read_flow, write_flow
    from deqflow.step import FlowState
    from deqflow.stream import FlowStream
    from deqflow.video import estimate_video
    from deqflow.visualize import flow_to_image
    from deqflow.zoo import from_pretrained, list_models, load, save_pretrained

_HOMES = {
    "Anderson": "deqflow.equilibrium",
    "BatchEstimate": "deqflow.estimate",
    "Broyden": "deqflow.equilibrium",
    "CheckpointError": "deqflow.errors",
    "ConfigError": "deqflow.errors",
    "DEQFlow": "deqflow.estimator",
    "DampedIteration": "deqflow.equilibrium",
    "DataError": "deqflow.errors",
    "DeqflowError": "deqflow.errors",
    "FixedPointIteration": "deqflow.equilibrium",
    "FlowEstimate": "deqflow.estimate",
    "FlowState": "deqflow.step",
    "FlowStream": "deqflow.stream",
    "ImageError": "deqflow.errors",
    "Outcome": "deqflow.equilibrium",
    "SolveSettings": "deqflow.config",
    "Solver": "deqflow.equilibrium",
    "VideoError": "deqflow.errors",
    "estimate_video": "deqflow.video",
    "flow_to_image": "deqflow.visualize",
    "from_pretrained": "deqflow.zoo",
    "list_models": "deqflow.zoo",
    "load": "deqflow.zoo",
    "occlusion": "deqflow.geometry",
    "read_flow": "deqflow.io",
    "save_pretrained": "deqflow.zoo",
    "warp": "deqflow.geometry",
    "write_flow": "deqflow.io",
}

__all__ = [
    "Anderson",
    "BatchEstimate",
    "Broyden",
    "CheckpointError",
    "ConfigError",
    "DEQFlow",
    "DampedIteration",
    "DataError",
    "DeqflowError",
    "FixedPointIteration",
    "FlowEstimate",
    "FlowState",
    "FlowStream",
    "ImageError",
    "Outcome",
    "SolveSettings",
    "Solver",
    "VideoError",
    "estimate_video",
    "flow_to_image",
    "from_pretrained",
    "list_models",
    "load",
    "occlusion",
    "read_flow",
    "save_pretrained",
    "warp",
    "write_flow",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line's help should not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deqflow' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
