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
    from deqflow.equilibrium import Anderson, FixedPointIteration, Outcome
    from deqflow.errors import DeqflowError
    from deqflow.estimate import FlowEstimate
    from deqflow.estimator import DEQFlow
    from deqflow.step import FlowState
    from deqflow.stream import FlowStream, estimate_video
    from deqflow.zoo import from_pretrained, load, save_pretrained

_HOMES = {
    "Anderson": "deqflow.equilibrium",
    "DEQFlow": "deqflow.estimator",
    "DeqflowError": "deqflow.errors",
    "FixedPointIteration": "deqflow.equilibrium",
    "FlowEstimate": "deqflow.estimate",
    "FlowState": "deqflow.step",
    "FlowStream": "deqflow.stream",
    "Outcome": "deqflow.equilibrium",
    "estimate_video": "deqflow.stream",
    "from_pretrained": "deqflow.zoo",
    "load": "deqflow.zoo",
    "save_pretrained": "deqflow.zoo",
}

__all__ = [
    "Anderson",
    "DEQFlow",
    "DeqflowError",
    "FixedPointIteration",
    "FlowEstimate",
    "FlowState",
    "FlowStream",
    "Outcome",
    "estimate_video",
    "from_pretrained",
    "load",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line's help should not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deqflow' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
