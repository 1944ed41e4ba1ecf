"""Wrong starts: training solves that begin at the state of another motion.

A model whose fixed point depends on where the solve began stays at whatever state it is given. Starting part
of the training steps from states of other motions over the same frame makes the losses pull from there too.
Source: Anil et al., Path Independent Equilibrium Models Can Better Exploit Test-Time Computation, NeurIPS
2022.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from deqflow.equilibrium import Solver
from deqflow.estimator import DEQFlow, PreparedPair
from deqflow.reuse import carry
from deqflow.step import FlowState

WrongKind = Literal["still", "other-motion", "other-sample", "carried"]

SHARES: dict[WrongKind, float] = {"still": 0.2, "other-motion": 0.4, "other-sample": 0.2, "carried": 0.2}
"""How the wrong starts divide into kinds."""

REACHES = (12, 40)
"""Largest shifts of the second frame for another motion, pixels; either is as likely."""

EVALUATIONS = (3, 14)
"""Fewest and most evaluations that a wrong start is solved with."""


@dataclass(frozen=True)
class WrongStart:
    """A start that belongs to another pair of frames.

    Attributes:
        kind: ``still`` is the state of frame 1 with itself; ``other-motion`` that of frame 1 with frame 2
            rolled by ``shift``; ``other-sample`` that of another sample of the batch; ``carried`` that of the
            pair from frame 2 to frame 1, carried along its own flow to frame 1, as of a motion that reverses.
        evaluations: of the solve that reaches it.
        shift: of frame 2 for ``other-motion``, rows and columns in pixels.
        offset: which other sample, any number from 0: that so much further plus one, in a circle without the
            sample itself.
    """

    kind: WrongKind
    evaluations: int
    shift: tuple[int, int] = (0, 0)
    offset: int = 0

    @classmethod
    def draw(cls, generator: Generator) -> "WrongStart":
        """Draw a start; every call takes the same number of draws."""
        kind = list(SHARES)[int(torch.tensor(list(SHARES.values())).multinomial(1, generator=generator))]
        fewest, most = EVALUATIONS
        evaluations = int(torch.randint(fewest, most + 1, (), generator=generator))
        reach = REACHES[int(torch.randint(len(REACHES), (), generator=generator))]
        down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
        offset = int(torch.randint(2**31, (), generator=generator))
        return cls(kind, evaluations, (down, right), offset)


@torch.no_grad()
def wrong_state(
    model: DEQFlow,
    image1: Tensor,
    image2: Tensor,
    start: WrongStart,
    solver: Solver,
    *,
    bidirectional: bool = False,
) -> FlowState:
    """Return the state that a wrong start solves to, without a graph.

    Args:
        model: whose state it is.
        image1: (B, 3, H, W) of 0..255, sides multiples of 8.
        image2: (B, 3, H, W).
        start: what to solve. In a batch of one sample ``other-sample`` has none and is ``other-motion``.
        solver: where to evaluate next.
        bidirectional: see ``DEQFlow.prepare``; the states are those of 2B pairs then.
    """
    kind = start.kind
    if kind == "other-sample" and len(image1) * (1 + bidirectional) == 1:
        kind = "other-motion"
    firsts, seconds = image1, image2
    if bidirectional:
        firsts, seconds = torch.cat((image1, image2)), torch.cat((image2, image1))
    if kind == "still":
        encoded = model.encode(firsts)
        pair = PreparedPair(encoded, encoded, model.padding(firsts))
    elif kind == "other-motion":
        pair = model.prepare(firsts, seconds.roll(start.shift, dims=(2, 3)))
    else:
        pair = model.prepare(image1, image2, bidirectional=bidirectional)
        if kind == "carried":
            pair = PreparedPair(pair.second, pair.first, pair.padding)
    settings = replace(
        model.defaults,
        steps=start.evaluations,
        tolerance=0.0,
        solver=solver,
        scales=(model.config.stride,),
    )
    state: FlowState = model.solve(pair, settings=settings).finest.state
    if kind == "carried":
        return carry(state)
    if kind == "other-sample":
        by = 1 + start.offset % (len(firsts) - 1)
        return FlowState(*(part.roll(-by, dims=0) for part in state))
    return state
