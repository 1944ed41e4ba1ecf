"""Solvers against closed forms, alone and in batches."""

import ast
import doctest
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from fixed_points import Linear, Pair, joined

from deqflow import equilibrium
from deqflow.equilibrium import (
    Anderson,
    Broyden,
    DampedIteration,
    FixedPointIteration,
    Keep,
    OneStep,
    Outcome,
    Phantom,
    Recorded,
    Segments,
    StoppingRule,
    absolute_change,
    relative_change,
    solve,
)
from deqflow.equilibrium.state import flatten

SOLVERS = [
    FixedPointIteration(),
    FixedPointIteration(relaxation=0.8),
    DampedIteration(),
    Anderson(),
    Anderson(window=2, mixing=0.7),
    Anderson(window=6, ridge_scale="absolute", ridge=1e-12),
    Broyden(),
    Broyden(history=2, line_search=2),
]


def test_damped_iteration_ends_cycles_and_leaves_the_rest_alone():
    rate = torch.tensor([-1.0, -0.9, -1.5, 0.0, 0.5, 0.9])  # per position; two channels at each
    goal = torch.tensor([[[1.0], [-2.0]]]).expand(1, 2, 6)

    def step(state, active=None):
        return (goal + rate * (state[0] - goal), state[1] / 2)

    start = (torch.zeros(1, 2, 6), torch.ones(1, 3))
    plain, damped = (
        solve(step, start, solver, StoppingRule(steps=3)).state
        for solver in (FixedPointIteration(), DampedIteration())
    )
    torch.testing.assert_close(damped[0][..., :4], goal[..., :4])
    assert torch.equal(damped[0][..., 4:], plain[0][..., 4:]) and torch.equal(damped[1], plain[1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_linear_contraction_reaches_the_closed_form(solver):
    step = Linear(3, 6)
    found = solve(step, step.start(), solver, StoppingRule(steps=200, tolerance=1e-10))
    assert isinstance(found.state, Pair)
    assert found.converged.all()
    torch.testing.assert_close(joined(found.state), step.solution(), atol=1e-8, rtol=0)


@hypothesis.given(
    batch=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16])
)
def test_changes_are_those_of_the_joint_vector(batch, dtype):
    generator = torch.Generator().manual_seed(batch)
    new, old = (
        (
            torch.randn(batch, 5, 4, 3, generator=generator).contiguous(memory_format=torch.channels_last),
            torch.randn(batch, 7, generator=generator).to(dtype),
        )
        for _ in range(2)
    )
    change, size = flatten(new) - flatten(old), flatten(new).norm(dim=1, keepdim=True)
    moved = change.norm(dim=1, keepdim=True)
    torch.testing.assert_close(absolute_change(new, old), moved)
    torch.testing.assert_close(relative_change(new, old), moved / size)


def test_acceleration_needs_fewer_steps_than_plain_iteration():
    step = Linear(4, 8, radius=0.95)
    stop = StoppingRule(steps=500, tolerance=1e-8)
    plain = solve(step, step.start(), FixedPointIteration(), stop)
    for solver in (Anderson(window=6), Broyden()):
        assert (solve(step, step.start(), solver, stop).steps < plain.steps).all()


@hypothesis.settings(max_examples=12)  # for each of eight solvers
@hypothesis.given(seed=st.integers(0, 1000), tolerance=st.sampled_from([1e-2, 1e-4, 1e-7]))
@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_stop_by_themselves(solver, seed, tolerance):
    step = Linear(4, 5, seed=seed)
    with torch.no_grad():
        step.matrix *= torch.tensor([0.05, 0.5, 0.9, 1.2]).double()[:, None, None]
    found = solve(step, step.start(), solver, StoppingRule(steps=60, tolerance=tolerance))
    assert torch.equal(step.counts, found.steps)
    assert (found.residual[found.converged, 0] <= tolerance).all()
    for sample in range(4):
        alone = Linear(4, 5, seed=seed)
        alone.matrix, alone.offset = step.matrix[[sample]], step.offset[[sample]]
        alone.counts = torch.zeros(1, dtype=torch.int64)
        single = solve(alone, alone.start(), solver, StoppingRule(steps=60, tolerance=tolerance))
        assert single.steps.item() == found.steps[sample]
        torch.testing.assert_close(joined(single.state)[0], joined(found.state)[sample])


def test_zero_tolerance_runs_every_step_and_a_tolerance_at_least_two():
    step = Linear(2, 4)
    assert (solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=7)).steps == 7).all()
    at_rest = Linear(2, 4)
    at_rest.offset.zero_()
    found = solve(at_rest, at_rest.start(), FixedPointIteration(), StoppingRule(steps=9, tolerance=1.0))
    assert (found.steps == 2).all() and found.converged.all()


def test_trace_holds_residuals_until_a_sample_stops():
    step = Linear(2, 4)
    with torch.no_grad():
        step.matrix[0] *= 0.01
    found = solve(step, step.start(), FixedPointIteration(), StoppingRule(steps=40, tolerance=1e-4))
    first, second = found.steps.tolist()
    assert first < second == len(found.trace)
    assert torch.isfinite(found.trace[:first, 0]).all() and torch.isnan(found.trace[first:, 0]).all()
    assert torch.isfinite(found.trace[:, 1]).all()


def test_what_plain_iteration_cannot_reach_the_others_can():
    step = Linear(3, 4, radius=0.5)
    with torch.no_grad():
        step.matrix -= 1.3 * torch.eye(4).double()  # eigenvalues left of -0.8, most of them beyond -1
    stop = StoppingRule(steps=200, tolerance=1e-9)
    assert not solve(step, step.start(), FixedPointIteration(), stop).converged.any()
    for solver in (FixedPointIteration(relaxation=0.5), Anderson(), Broyden()):
        found = solve(step, step.start(), solver, stop)
        assert found.converged.all()
        torch.testing.assert_close(joined(found.state), step.solution(), atol=1e-7, rtol=0)


def test_line_search_tames_steps_too_long():
    def step(state, active=None):
        return (0.9 * state[0] - torch.sinh(2 * state[0]),)

    start = (torch.linspace(0.9, 3, 5, dtype=torch.float64).unsqueeze(0),)
    stop = StoppingRule(steps=80, tolerance=1e-9, measure=absolute_change)
    bold, careful = (solve(step, start, Broyden(line_search=tries), stop) for tries in (0, 6))
    assert bold.outcome.tolist() == [Outcome.DIVERGED]
    assert careful.outcome.tolist() == [Outcome.CONVERGED] and float(careful.state[0].abs().max()) < 1e-8


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_that_leaves_the_numbers_stops_at_its_last_finite_state(solver):
    step = Linear(3, 4)
    calls = 0

    def breaking(state, active=None):
        nonlocal calls
        calls += 1
        image = step(state, active)
        if calls == 4:
            image.left[1] = torch.inf
        return image

    found = solve(breaking, step.start(), solver, StoppingRule(steps=80, tolerance=1e-9))
    assert found.outcome.tolist() == [Outcome.CONVERGED, Outcome.DIVERGED, Outcome.CONVERGED]
    assert found.steps[1] == 4 and torch.equal(step.counts, found.steps)
    assert torch.isinf(found.residual[1]).all() and not found.converged[1]
    assert torch.isfinite(joined(found.state)).all()
    torch.testing.assert_close(joined(found.state)[::2], step.solution()[::2], atol=1e-7, rtol=0)


def exploding(state, active=None):
    factors = torch.tensor([[0.5], [1e200]], dtype=torch.float64)
    return (state[0] * (factors if active is None else factors[active]),)


def test_divergence_without_a_tolerance_is_told_too():
    start = (torch.ones(2, 1, dtype=torch.float64),)
    found = solve(exploding, start, FixedPointIteration(), StoppingRule(steps=6))
    assert found.outcome.tolist() == [Outcome.OUT_OF_STEPS, Outcome.DIVERGED]
    assert found.steps.tolist() == [6, 2]
    assert found.state[0].flatten().tolist() == [0.5**6, 1e200]


@dataclass(frozen=True)
class Leaping(FixedPointIteration):
    """Takes negative numbers out of the finite ones by itself."""

    def advance(self, state, image, memory):
        return (torch.where(image[0] < 0, 1e200 * image[0], image[0]),), memory


def test_a_solver_that_proposes_infinity_ends_at_the_image_before():
    def halve(state, active=None):
        return (0.5 * state[0],)

    start = (torch.tensor([[1.0], [-1.0]], dtype=torch.float64),)
    found = solve(halve, start, Leaping(), StoppingRule(steps=6))
    assert found.outcome.tolist() == [Outcome.OUT_OF_STEPS, Outcome.DIVERGED]
    assert found.state[0].flatten().tolist() == [0.5**6, -0.5 * (0.5 * 1e200)]


def test_recorded_states_stay_finite_when_a_sample_diverges():
    start = (torch.ones(2, 1, dtype=torch.float64),)
    found = solve(exploding, start, FixedPointIteration(), StoppingRule(steps=4), record=[2, 4])
    assert [state[0].flatten().tolist() for state in found.recorded] == [[0.25, 1e200], [0.0625, 1e200]]
    assert found.outcome.tolist() == [Outcome.OUT_OF_STEPS, Outcome.DIVERGED]


@pytest.mark.parametrize("tolerance", [0.0, 1e-12])
def test_the_best_state_is_the_one_with_the_smallest_residual(tolerance):
    step = Linear(3, 4)
    with torch.no_grad():
        step.matrix -= 1.1 * torch.eye(4).double()  # runs away sooner or later
    states = []

    def watched(state, active=None):
        states.append(joined(step(state, active)))
        return step(state, active)

    stop = StoppingRule(steps=12, tolerance=tolerance, keep=Keep(slack=0.0, first=3), measure=absolute_change)
    found = solve(watched, step.start(), FixedPointIteration(), stop)
    trace = found.trace[2:]
    assert torch.equal(found.residual[:, 0], trace.amin(dim=0))
    for sample, evaluation in enumerate((2 + trace.argmin(dim=0)).tolist()):
        assert torch.equal(joined(found.state)[sample], states[evaluation][sample])
    assert (found.steps == 12).all()


def test_starting_at_the_fixed_point_stays_there():
    step = Linear(2, 4)
    exact = step.solution()
    start = Pair(exact[:, :2], exact[:, 2:].view(2, 1, 2))
    for solver in (*SOLVERS, Anderson(ridge=0.0)):
        found = solve(step, start, solver, StoppingRule(steps=5))
        torch.testing.assert_close(joined(found.state), exact)


def test_acceleration_is_computed_in_full_precision_under_autocast():
    step = Linear(2, 6, radius=0.9)

    def in_float32(state, active=None):
        image = step(Pair(*(part.double() for part in state)), active)
        return Pair(*(part.float() for part in image))

    start = Pair(*(part.float() for part in step.start()))
    for solver in (Anderson(), Broyden()):
        plain = solve(in_float32, start, solver, StoppingRule(steps=6)).state
        with torch.autocast("cpu", torch.bfloat16):
            mixed = solve(in_float32, start, solver, StoppingRule(steps=6)).state
        assert torch.equal(joined(mixed), joined(plain))


@pytest.mark.parametrize(
    "make",
    [
        lambda: StoppingRule(steps=0),
        lambda: StoppingRule(steps=3, tolerance=-1.0),
        lambda: Phantom(steps=0),
        lambda: Phantom(damping=0.0),
        lambda: Anderson(window=0),
        lambda: Anderson(mixing=0.0),
        lambda: Broyden(history=0),
        lambda: Broyden(line_search=-1),
        lambda: FixedPointIteration(relaxation=2.0),
        lambda: Keep(slack=-1.0),
        lambda: Recorded(positions=(2, 2)).follow(
            None, (), FixedPointIteration(), OneStep(), StoppingRule(steps=4)
        ),
        lambda: Segments(positions=(2, 5)).follow(
            None, (), FixedPointIteration(), OneStep(), StoppingRule(steps=4)
        ),
        lambda: Segments(count=5).follow(None, (), FixedPointIteration(), OneStep(), StoppingRule(steps=4)),
        lambda: solve(None, (torch.zeros(1),), Anderson(), StoppingRule(steps=4, tolerance=1), record=[2]),
    ],
)
def test_impossible_requests_are_refused(make):
    with pytest.raises(ValueError, match=r"must|need"):
        make()


def test_the_example_of_the_docstring_runs():
    found = doctest.testmod(equilibrium)
    assert found.attempted > 5 and found.failed == 0


def test_it_knows_nothing_but_torch():
    for path in Path(equilibrium.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                foreign = name.startswith("deqflow") and not name.startswith("deqflow.equilibrium")
                assert not foreign and name.split(".")[0] not in ("numpy", "cv2", "scipy"), f"{path}: {name}"


def test_a_solver_of_ones_own():
    class Averaging(equilibrium.Solver):
        """The mean of all images so far."""

        def advance(self, state, image, memory):
            total = [sum(parts) for parts in zip(memory, image, strict=True)] if memory else list(image)
            self.count = getattr(self, "count", 0) + 1
            return type(state)(*(part / self.count for part in total)), total

    step = Linear(2, 4, radius=0.4)
    found = solve(step, step.start(), Averaging(), StoppingRule(steps=4000, tolerance=1e-4))
    assert found.converged.all()
