"""A small library of deep equilibria in plain PyTorch: it knows nothing of images or flow.

A *state* is a tuple of tensors whose first dimension is the batch, and a *step* maps a state to the next.
Four things then combine freely: a *solver* says where to evaluate next, a *stopping rule* when a sample is
done, a *gradient* how a found point is differentiated, and a *correction* where losses are taken on the way.

A solver of one's own is a subclass of ``Solver`` with ``advance``; a gradient is any object with ``attach``,
a correction any with ``follow``. ``jacobian_penalty``, ``spectral_radius`` and ``path_independence`` tell how
well behaved the fixed point is; a ``JointStep`` optimizes the input of a fixed point while it is solved.

Examples:
    >>> import torch
    >>> from deqflow.equilibrium import Anderson, Implicit, StoppingRule, solve
    >>> class Layer(torch.nn.Linear):
    ...     def forward(self, state, active=None):  # z <- tanh(W z + b) + x
    ...         return (torch.tanh(super().forward(state[0])) + (x if active is None else x[active]),)
    >>> layer, x = Layer(4, 4), torch.rand(3, 4)
    >>> _ = torch.nn.init.orthogonal_(layer.weight, gain=0.5)
    >>> solution = solve(layer, (torch.zeros(3, 4),), Anderson(), StoppingRule(steps=50, tolerance=1e-5))
    >>> bool(solution.converged.all())
    True
    >>> (z,) = Implicit().attach(layer, solution.state)
    >>> z.square().sum().backward()
"""

from deqflow.equilibrium.correction import Correction, Recorded, Segments, Trajectory, Unrolled
from deqflow.equilibrium.driver import Solution, solve
from deqflow.equilibrium.gradients import Gradient, Implicit, NeumannPhantom, OneStep, Phantom
from deqflow.equilibrium.joint import JointState, JointStep
from deqflow.equilibrium.solvers import (
    SOLVERS,
    Anderson,
    Broyden,
    DampedIteration,
    FixedPointIteration,
    Solver,
)
from deqflow.equilibrium.stability import (
    PathIndependence,
    alignment,
    exchanged,
    jacobian_penalty,
    path_independence,
    spectral_radius,
)
from deqflow.equilibrium.state import State, Step, absolute_change, joint_inner_product, relative_change
from deqflow.equilibrium.stopping import BEST, LAST, Keep, Outcome, StoppingRule

__all__ = [
    "BEST",
    "LAST",
    "SOLVERS",
    "Anderson",
    "Broyden",
    "Correction",
    "DampedIteration",
    "FixedPointIteration",
    "Gradient",
    "Implicit",
    "JointState",
    "JointStep",
    "Keep",
    "NeumannPhantom",
    "OneStep",
    "Outcome",
    "PathIndependence",
    "Phantom",
    "Recorded",
    "Segments",
    "Solution",
    "Solver",
    "State",
    "Step",
    "StoppingRule",
    "Trajectory",
    "Unrolled",
    "absolute_change",
    "alignment",
    "exchanged",
    "jacobian_penalty",
    "joint_inner_product",
    "path_independence",
    "relative_change",
    "solve",
    "spectral_radius",
]
