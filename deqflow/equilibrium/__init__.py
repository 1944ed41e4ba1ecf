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

from deqflow.equilibrium.correction import Correction, Path, Recorded, Segments
from deqflow.equilibrium.gradients import Gradient, OneStep, Phantom
from deqflow.equilibrium.solvers import (
    Anderson,
    FixedPointIteration,
    Solution,
    Solver,
    State,
    Step,
    StoppingRule,
    joint_inner_product,
    relative_change,
    solve,
)

__all__ = [
    "Anderson",
    "Correction",
    "FixedPointIteration",
    "Gradient",
    "OneStep",
    "Path",
    "Phantom",
    "Recorded",
    "Segments",
    "Solution",
    "Solver",
    "State",
    "Step",
    "StoppingRule",
    "joint_inner_product",
    "relative_change",
    "solve",
]
