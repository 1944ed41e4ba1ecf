"""``solve`` evaluates, measures, stops each sample on its own and takes it out of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deqflow.equilibrium.solvers import Memory, Solver
from deqflow.equilibrium.state import S, State, Step, choose, finite, rebuild, select
from deqflow.equilibrium.stopping import Outcome, StoppingRule


@dataclass(frozen=True)
class Solution:
    """What ``solve`` found, per sample.

    Attributes:
        state: of each sample the last state, or the one that the stopping rule keeps.
        residual: (B, K) how far an evaluation moved it; NaN where nothing was measured, infinite where the
            evaluation was not finite.
        steps: (B,) int64, evaluations of the operator.
        outcome: (B,) int64, an ``Outcome`` each.
        trace: (N, B) first column of the residual after each evaluation that was measured; NaN after a sample
            stopped.
        recorded: states after the evaluations asked for, oldest first, by the same rule.
    """

    state: Any
    residual: Tensor
    steps: Tensor
    outcome: Tensor
    trace: Tensor
    recorded: list[Any] = field(default_factory=list)

    @property
    def converged(self) -> Tensor:
        """Which samples (B,) stopped by the tolerance."""
        return self.outcome == Outcome.CONVERGED


class _Findings:
    """What is known of each sample so far; samples are noted by their indices in the full batch."""

    def __init__(self, batch: int, device: torch.device, stop: StoppingRule, *, hold: bool) -> None:
        self.batch, self.stop, self.hold = batch, stop, hold
        self.steps = torch.zeros(batch, dtype=torch.int64, device=device)
        self.outcome = torch.full_like(self.steps, Outcome.OUT_OF_STEPS)
        self.kept = torch.zeros(batch, dtype=torch.bool, device=device)
        self.judged: Tensor | None = None
        self.state: list[Tensor] | None = None
        self.residual: Tensor | None = None
        self.trace: list[Tensor] = []

    def note(
        self,
        evaluation: int,
        samples: Tensor,
        moved: Tensor,
        judged: Tensor,
        sound: Tensor,
        answer: State,
    ) -> Tensor:
        """Take in one evaluation; returns which of its samples (b,) leave.

        Args:
            evaluation: its number, from 1.
            samples: (b,) indices of its samples in the full batch.
            moved: (b, K) residuals, infinite where the mapped state is not finite.
            judged: (b,) what ``Keep`` goes by.
            sound: (b,) whether the mapped states are finite.
            answer: what the solver would answer now, (b, ...) each.
        """
        stop = self.stop
        row = moved.new_full((self.batch,), torch.nan)
        row[samples] = moved[:, 0]
        self.trace.append(row)
        self.outcome[samples[~sound]] = Outcome.DIVERGED
        leaving = torch.full_like(sound, evaluation == stop.steps)
        if not self.hold:
            leaving = leaving | ~sound
        if evaluation >= stop.minimum and stop.watches:
            done = stop.satisfied(moved)
            self.outcome[samples[done]] = Outcome.CONVERGED
            leaving = leaving | done
        self.steps[samples[leaving]] = evaluation
        if stop.keep.everything:
            self._keep(leaving, samples, answer, moved)
            return leaving
        if evaluation >= stop.keep.first:
            if self.judged is None:
                self.judged = judged.new_full((self.batch,), torch.inf)
            accepted = ~self.kept[samples] | (judged < self.judged[samples] + stop.keep.slack)
            self.judged[samples[accepted]] = judged[accepted]
            self._keep(accepted, samples, answer, moved)
        self._keep(leaving & ~self.kept[samples], samples, answer, moved)
        return leaving

    def _keep(self, chosen: Tensor, samples: Tensor, state: State, moved: Tensor) -> None:
        """Note states (b, ...) and residuals (b, K) as the answer so far of the chosen samples."""
        count = int(chosen.sum())
        if count == 0:
            return
        if count < len(samples):
            samples, state, moved = samples[chosen], select(state, chosen), moved[chosen]
        if self.residual is None:
            self.residual = moved.new_full((self.batch, moved.shape[1]), torch.nan)
        self.residual[samples] = moved
        self.kept[samples] = True
        if count == self.batch:
            self.state = list(state)
            return
        if self.state is None:
            self.state = [part.new_empty((self.batch, *part.shape[1:])) for part in state]
        # What is noted may be a tensor of the solver's or the caller's: replaced, never written into.
        self.state = [
            whole.index_copy(0, samples, part.to(whole.dtype))
            for whole, part in zip(self.state, state, strict=True)
        ]


@torch.no_grad()
def solve(
    step: Step, state: S, solver: Solver, stop: StoppingRule, *, record: Sequence[int] = ()
) -> Solution:
    """Drive ``state`` towards the fixed point of ``step``, without a graph.

    Each sample stops by itself and leaves the batch, so the operator only ever evaluates those still moving.
    A sample whose mapped state is not finite leaves too, with its last finite state.

    Args:
        step: the operator.
        state: where to start, tensors (B, ...).
        solver: where to evaluate next.
        stop: when a sample is done, and which of its states is the answer.
        record: evaluation counts (1-based) whose states are wanted too; needs ``tolerance=0``. No
            sample leaves then: one that diverges stays at its last finite state.

    Raises:
        ValueError: ``record`` together with a tolerance, since samples would be missing from it.
    """
    if record and stop.watches:
        raise ValueError("record needs tolerance=0: with a tolerance, stopped samples leave the batch")
    samples = torch.arange(state[0].shape[0], device=state[0].device)
    findings = _Findings(len(samples), samples.device, stop, hold=bool(record))
    active: Tensor | None = None
    memory: Memory = []
    recorded: list[State] = []
    last = state
    for evaluation in range(1, stop.steps + 1):
        mapped = step(state, active)
        sound = finite(mapped)
        diverged = not bool(sound.all())
        if diverged:
            # What is not finite may already have been the solver's own point.
            state = choose(finite(state), state, last)
            mapped = choose(sound, mapped, state)
        if evaluation in record and stop.keep.everything:
            recorded.append(mapped)
        if stop.measures or diverged or evaluation == stop.steps:
            answer = state if solver.returns_point else mapped
            moved = torch.where(sound[:, None], stop.measure(mapped, state), torch.inf)
            judged = stop.keep.judged(mapped, state, moved)
            leaving = findings.note(evaluation, samples, moved, judged, sound, answer)
            if evaluation in record and not stop.keep.everything:
                recorded.append(mapped if findings.state is None else rebuild(state, findings.state))
            if bool(leaving.all()):
                break
            if bool(leaving.any()):
                active = samples = samples[~leaving]
                state, mapped = select(state, ~leaving), select(mapped, ~leaving)
                memory = [part[~leaving] for part in memory]
        last = mapped
        state, memory = solver.advance(state, mapped, memory)
    assert findings.state is not None and findings.residual is not None  # noted by the last evaluation
    return Solution(
        state=rebuild(state, findings.state),
        residual=findings.residual,
        steps=findings.steps,
        outcome=findings.outcome,
        trace=torch.stack(findings.trace),
        recorded=recorded,
    )
