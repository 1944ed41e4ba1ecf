"""Muon on filters and AdamW on the rest, as one optimizer; and the rate that a schedule says."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from deqflow.errors import ConfigError
from deqflow.training.optimizer import (
    LEAST_SIDE,
    Muon,
    MuonAdamW,
    create_optimizer,
    learning_rate,
    orthogonal,
)
from deqflow.training.options import TrainOptions
from deqflow.zoo import create


def filters(memory_format=torch.contiguous_format):
    """A convolution whose weight is a matrix of 16 rows, with a bias."""
    torch.manual_seed(0)
    return nn.Conv2d(10, 16, 3).to(memory_format=memory_format)


def given_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(
            memory_format=torch.channels_last if parameter.ndim == 4 else torch.preserve_format
        )


def test_every_parameter_is_in_one_group_and_filters_share_their_memory():
    model = create("deqflow-s-v0")
    optimizer = create_optimizer(model, TrainOptions(optimizer="muon"))
    assert isinstance(optimizer, MuonAdamW)
    places = [p.data_ptr() for group in optimizer.param_groups for p in group["params"]]
    assert sorted(places) == sorted(p.data_ptr() for p in model.parameters())
    in_muon = {p.data_ptr() for group in optimizer.muon.param_groups for p in group["params"]}
    for parameter in model.parameters():
        is_matrix = parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= LEAST_SIDE
        assert (parameter.data_ptr() in in_muon) == is_matrix
    assert isinstance(create_optimizer(model, TrainOptions()), torch.optim.AdamW)


@pytest.mark.parametrize("shape", [(16, 90), (90, 16), (24, 24)])
def test_an_orthogonal_matrix_has_the_same_singular_vectors(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ orthogonal(matrix) @ right.T
    assert values.diagonal().min() > 0.6 and values.diagonal().max() < 1.3
    torch.testing.assert_close(values, values.diagonal().diag(), rtol=0, atol=1e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has no Muon before 2.9")
@pytest.mark.parametrize("shape", [(16, 90), (90, 16)])
def test_muon_is_that_of_pytorch_in_another_precision(shape):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.1, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        if step == 2:
            optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
        ours.grad = theirs.grad = torch.randn(shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
        # A change of one has a norm of some 0.1 * 0.2 * sqrt(90) * sqrt(16).
        assert (ours - theirs).norm() < 0.05 * 0.1 * 0.2 * 90**0.5 * 4


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_step_of_a_filter_is_nearly_orthogonal_and_as_large_as_adams(memory_format):
    model = filters(memory_format)
    before = model.weight.detach().clone()
    given_gradients(model)
    optimizer = MuonAdamW(model.parameters(), rate=0.01, weight_decay=0.0)
    optimizer.step()
    change = (before - model.weight.detach()).flatten(1)
    # Newton-Schulz iterations as Muon does them leave singular values between about 0.7 and 1.2.
    singular = torch.linalg.svdvals(change) / (0.01 * 0.2 * 90**0.5)
    assert singular.min() > 0.5 and singular.max() < 1.5
    assert model.bias.grad is not None
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_memory_layout_does_not_matter():
    changed = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = filters(memory_format)
        given_gradients(model)
        MuonAdamW(model.parameters(), rate=0.1, weight_decay=0.1).step()
        changed.append(model.weight.detach().contiguous())
    torch.testing.assert_close(*changed, rtol=0, atol=0.1 * 0.2 * 90**0.5 * 0.02)


def test_it_goes_on_from_its_state_to_the_same_bits():
    whole = filters()
    optimizer = MuonAdamW(whole.parameters(), rate=0.01, weight_decay=0.01)
    for seed in range(2):
        given_gradients(whole, seed)
        optimizer.step()
    first = filters()
    optimizer = MuonAdamW(first.parameters(), rate=0.01, weight_decay=0.01)
    given_gradients(first, 0)
    optimizer.step()
    state, second = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(first)
    optimizer = MuonAdamW(second.parameters(), rate=0.01, weight_decay=0.01)
    optimizer.load_state_dict(state)
    given_gradients(second, 1)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_a_parameter_without_gradient_stays():
    model = filters()
    before = model.weight.detach().clone()
    model.bias.grad = torch.ones(16)
    MuonAdamW(model.parameters(), rate=0.1, weight_decay=0.1).step()
    assert torch.equal(model.weight, before) and not torch.equal(model.bias, torch.zeros(16))


@pytest.mark.parametrize("schedule", ["linear", "one-cycle"])
def test_by_the_clock_a_schedule_is_as_far_as_the_further_of_steps_and_minutes(schedule):
    steps = TrainOptions(schedule=schedule, train_steps=100, warmup=0.1, max_minutes=10)
    clock = replace(steps, schedule_by="clock")
    assert learning_rate(clock, 0, 300) == learning_rate(steps, 50, 300) == learning_rate(steps, 50)
    assert learning_rate(clock, 80, 60) == learning_rate(steps, 80)
    assert learning_rate(clock, 0, 0) == learning_rate(steps, 0)
    end = learning_rate(steps, 100)
    assert learning_rate(clock, 3, 600) == learning_rate(clock, 3, 9000) == end
    assert end == 0 if schedule == "linear" else 0 < end < 0.6 * steps.learning_rate
    with pytest.raises(ConfigError, match="max_minutes above 0"):
        replace(clock, max_minutes=0)
