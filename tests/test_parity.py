"""Agreement with what the published code computes from the same weights and frames (see the README there)."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import deqflow
from deqflow import FlowState, zoo
from deqflow.equilibrium import (
    BEST,
    Anderson,
    Broyden,
    FixedPointIteration,
    Implicit,
    Keep,
    OneStep,
    Phantom,
    Recorded,
    Segments,
    StoppingRule,
    absolute_change,
    solve,
)
from deqflow.estimator import DEQFlow
from deqflow.pair import PairSolution
from deqflow.step import Movement
from deqflow.training.supervised import correction_loss

PUBLISHED_ANDERSON = Anderson(window=6, ridge=1e-4, ridge_scale="absolute")


class Reference:
    """One pair of files: a checkpoint as it was published, and arrays."""

    def __init__(self, folder, name, tmp):
        self.arrays = dict(np.load(folder / f"{name}.npz"))
        self.notes = json.loads((folder / f"{name}.json").read_text())
        weights = {
            f"module.{key.removeprefix('weights/')}": torch.from_numpy(value)
            for key, value in self.arrays.items()
            if key.startswith("weights/")
        }
        self.checkpoint = tmp / f"{name}.pth"
        torch.save(weights, self.checkpoint)
        self.frames = [self.arrays[f"frame{index}"] for index in (1, 2, 3)]

    def close(self, run, *, up=None, state=None, tolerance):
        """Whether everything that the run holds is there and agrees, relative to its largest value."""
        found = {}
        if up is not None:
            found["flow_up"] = np.moveaxis(up, -1, 0) if up.shape[-1] == 2 else up
        if state is not None:
            found |= {"flow_low": state.flow[0], "hidden": state.hidden[0]}
        expected = {
            key.removeprefix(f"{run}/"): value
            for key, value in self.arrays.items()
            if key.startswith(f"{run}/")
        }
        assert expected.keys() <= found.keys()
        for name, value in expected.items():
            gap = np.abs(np.asarray(found[name]) - value).max() / np.abs(value).max()
            assert gap < tolerance, f"{run}/{name}: {gap:.1e}"


@pytest.fixture(scope="module")
def deq(shared_parity, tmp_path_factory):
    return Reference(shared_parity, "deq_tiny_wnorm", tmp_path_factory.mktemp("deq"))


@pytest.fixture(scope="module")
def model(deq):
    return deqflow.load("deqflow-tiny", checkpoint=deq.checkpoint, device="cpu")


@pytest.fixture(scope="module")
def raft_files(shared_parity, tmp_path_factory):
    return Reference(shared_parity, "raft_small", tmp_path_factory.mktemp("raft"))


@pytest.fixture(scope="module")
def raft(raft_files):
    return deqflow.load("raft-small", checkpoint=raft_files.checkpoint, device="cpu")


@pytest.mark.parametrize("steps", [6, 30])
def test_plain_iteration(deq, model, steps):
    estimate = model.estimate(*deq.frames[:2], steps=steps)
    deq.close(f"naive_solver_{steps}", up=estimate.flow, state=estimate.state, tolerance=1e-5)
    assert estimate.steps == steps == deq.notes["inference"][f"naive_solver_{steps}"]["returned_step"]


def test_reuse_of_the_last_pairs_state(deq, model):
    state = model.estimate(*deq.frames[:2], steps=6).state
    estimate = model.estimate(*deq.frames[1:], steps=6, state=state)
    deq.close("reuse_6", up=estimate.flow, state=estimate.state, tolerance=1e-5)
    start = FlowState(torch.zeros_like(state.hidden), state.flow)
    deq.close("flow_init_6", up=model.estimate(*deq.frames[1:], steps=6, state=start).flow, tolerance=1e-5)


def measure(new, old):
    """The published residual first; ``decode`` wants the other two columns of the pixel measure."""
    return torch.cat((absolute_change(new, old), Movement(8)(new, old)[:, 1:]), dim=1)


def published_solve(model, frames, solver, stop):
    """A solve that keeps the state of the smallest absolute residual, as the published solvers do."""
    with torch.no_grad():
        pair = model.prepare(*map(model.to_tensor, frames))
        step = model.operator(pair)
    solution = solve(
        step, step.start, solver, replace(stop, keep=Keep(slack=0.0, first=stop.minimum), measure=measure)
    )
    decoded = model.decode(PairSolution(8, solution, solution, {8: solution.steps}), pair.padding)
    return solution, decoded.flow[0].numpy()


def assert_trace(found, expected, count):
    """The residuals while they are more than the rounding noise of a sum over 10,000 numbers."""
    expected = torch.tensor(expected[:count])
    torch.testing.assert_close(found[:count].flatten(), expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [5, 12])
def test_anderson(deq, model, steps):
    # Two plain evaluations, which are no candidates, then mixed ones.
    stop = StoppingRule(steps=steps, minimum=3)
    solution, up = published_solve(model, deq.frames[:2], PUBLISHED_ANDERSON, stop)
    deq.close(f"anderson_{steps}", up=up, state=solution.state, tolerance=1e-4)
    trace = deq.notes["inference"][f"anderson_{steps}"]["abs_residual_trace"]
    assert_trace(solution.trace[2:], trace, 4)


def test_broyden(deq, model):
    # One evaluation more than is counted: that of the start, which is no candidate.
    stop = StoppingRule(steps=11, minimum=2)
    solution, up = published_solve(model, deq.frames[:2], Broyden(history=10), stop)
    deq.close("broyden_10", up=up, state=solution.state, tolerance=1e-4)
    assert_trace(solution.trace[1:], deq.notes["inference"]["broyden_10"]["abs_residual_trace"], 6)


def test_plain_traces(deq, model):
    stop = StoppingRule(steps=30)
    solution, _ = published_solve(model, deq.frames[:2], FixedPointIteration(), stop)
    assert_trace(solution.trace, deq.notes["inference"]["naive_solver_30"]["abs_residual_trace"], 12)


RECIPES = {
    "one_step": (Segments(count=3), OneStep(), False),
    "phantom3_tau05": (Segments(count=2), Phantom(steps=3, damping=0.5), False),
    "phantom3_tau1_all_grad": (Segments(count=2), Phantom(steps=3), True),
    "ift": (
        Segments(count=1),
        Implicit(stop=StoppingRule(steps=200, tolerance=1e-9, keep=BEST)),
        True,
    ),
    "recorded": (Recorded(count=3), OneStep(), False),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_training(deq, recipe):
    correction, gradient, attach_flow = RECIPES[recipe]
    expected = deq.notes["training"][recipe]
    model = trainable(deq)
    path = model.trajectory(
        model.prepare(*map(model.to_tensor, deq.frames[:2])),
        correction=correction,
        gradient=gradient,
        solver=FixedPointIteration(),
        steps=expected["steps"],
        attach_flow=attach_flow,
    )
    predictions = [model.upsample(*state) for state in path.states]
    flow = torch.from_numpy(deq.arrays["train/flow_gt"])[None]
    valid = torch.from_numpy(deq.arrays["train/valid"])[None, None]
    loss = correction_loss(predictions, flow, valid, 0.8)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    published = {
        ours: expected["grad_norm"][theirs.removeprefix("module.")]
        for theirs, ours in renamed(deq).items()
        if theirs.removeprefix("module.") in expected["grad_norm"]
    }
    assert published.keys() == norms.keys()
    noise = 1e-6 * np.linalg.norm(list(published.values()))
    for name, value in published.items():
        assert norms[name] == pytest.approx(value, rel=1e-3, abs=noise), name


def trainable(deq):
    """The published recipe keeps batch norm frozen, which is what evaluation mode does."""
    source = zoo.restore("deqflow-tiny", deq.checkpoint)
    model = DEQFlow(source.config).eval()
    model.load_state_dict(source.state_dict())
    return model


def renamed(deq):
    """Published name -> ours, found by loading every tensor filled with a number of its own."""
    weights = torch.load(deq.checkpoint, weights_only=True)
    numbered = {
        name: torch.full_like(value, index, dtype=torch.float64)
        for index, (name, value) in enumerate(weights.items())
    }
    for name in numbered:
        if ".norm3." in name:
            numbered[name] = numbered[name.replace("norm3", "downsample.1")]
    path = deq.checkpoint.with_name("numbered.pth")
    torch.save(numbered, path)
    ours = {int(value.flatten()[0]): name for name, value in zoo.read_checkpoint(path).tensors.items()}
    return {name: ours[int(value.flatten()[0])] for name, value in numbered.items()}


def test_raft(raft_files, raft):
    estimate = raft.estimate(*raft_files.frames[:2], steps=6)
    raft_files.close("iters_6", up=estimate.flow, state=estimate.state, tolerance=1e-5)
    assert estimate.steps == 6


def test_raft_started_from_a_flow(raft_files, raft):
    state = raft.estimate(*raft_files.frames[:2], steps=6).state
    image2, image3 = (raft.to_tensor(frame) for frame in raft_files.frames[1:])
    with torch.no_grad():
        start = raft.initial_state(raft.encode(image2))._replace(flow=state.flow)
    flow = raft(image2, image3, start, steps=6).flow[0]
    raft_files.close("flow_init_6", up=flow.numpy(), tolerance=1e-5)


def test_raft_decodes_every_iteration(raft_files, raft):
    sequence = np.concatenate(
        [
            np.moveaxis(raft.estimate(*raft_files.frames[:2], steps=steps).flow, -1, 0)[None]
            for steps in (1, 2, 3)
        ]
    )
    expected = raft_files.arrays["iters_3/sequence"]
    assert np.abs(sequence - expected).max() < 1e-5 * np.abs(expected).max()
