"""A small library of deep equilibria: solvers, gradients and corrections, in plain PyTorch.

It knows nothing of images or flow. A *state* is a tuple of tensors whose first dimension is the batch, a
*step* maps a state to the next, and the four ideas combine freely:

>>> import torch
>>> from deqflow.equilibrium import Anderson, OneStep, StoppingRule, solve
>>> layer = torch.nn.Linear(4, 4)
>>> _ = torch.nn.init.orthogonal_(layer.weight, gain=0.5)
>>> x = torch.ones(3, 4)
>>> def step(state, active=None):
...     (z,) = state
...     return (torch.tanh(layer(z)) + (x if active is None else x[active]),)
>>> solution = solve(step, (torch.zeros(3, 4),), Anderson(), StoppingRule(steps=50, tolerance=1e-5))
>>> bool(solution.converged.all())
True
>>> (z,) = OneStep().attach(step, solution.state)
>>> z.sum().backward()
"""

from deqflow.equilibrium.correction import Correction, Path, Recorded, Segments, Unrolled
from deqflow.equilibrium.driver import Solution, solve
from deqflow.equilibrium.gradients import Gradient, Implicit, NeumannPhantom, OneStep, Phantom
from deqflow.equilibrium.solvers import Anderson, Broyden, FixedPointIteration, Solver
from deqflow.equilibrium.stability import (
    PathIndependence,
    exchanged,
    jacobian_penalty,
    path_independence,
    spectral_radius,
)
from deqflow.equilibrium.state import State, Step, absolute_change, joint_inner_product, relative_change
from deqflow.equilibrium.stopping import Outcome, StoppingRule

__all__ = [
    "Anderson",
    "Broyden",
    "Correction",
    "FixedPointIteration",
    "Gradient",
    "Implicit",
    "NeumannPhantom",
    "OneStep",
    "Outcome",
    "Path",
    "PathIndependence",
    "Phantom",
    "Recorded",
    "Segments",
    "Solution",
    "Solver",
    "State",
    "Step",
    "StoppingRule",
    "Unrolled",
    "absolute_change",
    "exchanged",
    "jacobian_penalty",
    "joint_inner_product",
    "path_independence",
    "relative_change",
    "solve",
    "spectral_radius",
]
