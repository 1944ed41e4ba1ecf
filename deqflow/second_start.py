"""A coarse solve that is begun twice: from the scale before, and from no motion.

What is small and fast may be lost at a coarse scale, and a solve that starts from its flow does not find it
again (path dependence; Anil et al., NeurIPS 2022), where one that starts from no motion may. Neither is right
everywhere: cells where the other one explains the frames clearly better go over to it, and the solve goes on
from there, which rounds off what does not fit together around them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.equilibrium import Solution, Solver, StoppingRule, solve
from deqflow.reuse import Matching
from deqflow.step import FlowState, UpdateStep

STEPS = 6
"""Evaluations from no motion; what they have found is judged, and gone on with, so more bring nothing."""

BETTER = 0.05
"""Fall of the matching distance from which a cell may go over."""

APART = 2.0
"""Cells between the two flows from which one may: of smaller differences matching tells less than solving."""

SIDE = 5
"""Cells on each side of the neighborhood whose mean matching distance is compared."""

UNLIKE = 1.5
"""Matching distance of what does not match: that of a neighbor whose flow leaves the frame."""

NEAR = 4
"""Cells around what went over in which going on may change the flow: a solve that is lost drifts, and no two
stops of it are equal."""

MORE_DOUBT = 1.5
"""Times the expected error of the first solve that the second may have: what is hidden in frame 2 matches
nothing where it really went, and something elsewhere."""


@torch.no_grad()
def solve_again(
    operator: UpdateStep,
    found: Solution,
    solver: Solver,
    stop: StoppingRule,
    matching: Matching,
    doubt: Callable[[FlowState], Tensor | None],
) -> Solution:
    """Begin a solve that ended once more, from no motion, and go on around what that explains better.

    Args:
        operator: of the pair at the scale.
        found: how the solve ended.
        solver: where to evaluate next.
        stop: when to stop.
        matching: of the pair at the scale.
        doubt: from a state to its expected errors, (B, 1, h, w), if the model tells any.

    Returns:
        The solution, with the steps of all solves.
    """
    other = solve(operator, operator.start, solver, replace(stop, steps=min(STEPS, stop.steps)))
    steps = found.steps + other.steps
    chosen = better(matching, found.state, other.state)
    if bool(chosen.any()):
        before, after = doubt(found.state), doubt(other.state)
        if before is not None and after is not None:
            chosen &= _around(after, 3) < MORE_DOUBT * _around(before, 3)
    if not bool(chosen.any()):
        return replace(found, steps=steps)
    last = solve(operator, other.state.where(chosen, found.state), solver, stop)
    near = F.max_pool2d(chosen.float(), 2 * NEAR + 1, stride=1, padding=NEAR) > 0
    return replace(last, state=last.state.where(near, found.state), steps=steps + last.steps)


def better(matching: Matching, found: FlowState, other: FlowState) -> Tensor:
    """Return the cells (B, 1, h, w), bool, in which another state explains a pair better.

    Where a flow leaves the frame nothing can be said against it, and nothing for it.

    Args:
        matching: of the pair, at the scale of the states.
        found: flow (B, 2, h, w) in pixels of the grid, and hidden.
        other: the same size.
    """
    (kept, inside), (new, new_inside) = (matching.distance(state.flow) for state in (found, other))
    kept = torch.where(inside, kept, 0)
    new = torch.where(new_inside, new, UNLIKE)
    may = new_inside & ((other.flow - found.flow).norm(dim=1, keepdim=True) > APART)
    return may & (_around(new, SIDE) < _around(kept, SIDE) - BETTER)


def _around(values: Tensor, side: int) -> Tensor:
    """Means of (B, 1, h, w) over squares of ``side`` cells, the border repeated outwards."""
    return F.avg_pool2d(F.pad(values, (side // 2,) * 4, mode="replicate"), side, stride=1)
