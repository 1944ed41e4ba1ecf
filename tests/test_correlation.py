"""Every correlation against a slow, obvious one; the variants against each other; the choice between them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from published import naive_lookup

from deqflow.devices import autocast
from deqflow.errors import ConfigError
from deqflow.network import CORRELATIONS, build_correlation, correlation
from deqflow.network.correlation import on_demand

LEVELS, RADIUS = 4, 3


@pytest.fixture(params=CORRELATIONS)
def kind(request):
    return request.param


def build(kind, features, levels=LEVELS, radius=RADIUS):
    return build_correlation(*features, levels=levels, radius=radius, kind=kind)


@pytest.mark.parametrize("size", [(8, 10), (5, 7), (2, 2), (1, 3), (16, 9)])
@pytest.mark.parametrize("reach", [0.5, 4.0, 40.0])
def test_lookup_agrees_with_the_volume_that_is_pooled_and_sampled(kind, size, reach, device):
    features = torch.randn(2, 2, 6, *size)
    flow = reach * torch.randn(2, 2, *size)
    built = build(kind, features.to(device))
    seen = built.lookup(flow.to(device)).cpu()
    assert seen.shape == (2, built.channels, *size)
    torch.testing.assert_close(seen, naive_lookup(*features, flow, 4, 3), atol=2e-5, rtol=1e-4)


def test_lookup_of_some_samples_is_a_part_of_the_lookup_of_all(kind):
    features, flow = torch.randn(2, 3, 4, 6, 8), 3 * torch.randn(3, 2, 6, 8)
    built = build(kind, features)
    active = torch.tensor([2, 0, 2])
    torch.testing.assert_close(built.lookup(flow[active], active), built.lookup(flow)[active])


def test_lookup_gradients_of_features_flow_and_gradients_agree_with_the_volume(kind):
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(1, 3, 5, 6, generator=generator, requires_grad=True) for _ in range(2)]
    flow = (2 * torch.randn(1, 2, 5, 6, generator=generator)).requires_grad_()
    inputs = (*features, flow)

    def gradients(seen):
        first = torch.autograd.grad((seen**2).sum(), inputs, create_graph=True)
        return [*first, *torch.autograd.grad(sum((part**2).sum() for part in first), inputs)]

    found = gradients(build(kind, features, levels=2).lookup(flow))
    try:
        expected = gradients(naive_lookup(*features, flow, 2, 3))
    except RuntimeError as error:
        pytest.skip(f"this release of PyTorch cannot differentiate grid_sample twice: {error}")
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)


def test_lookup_of_flow_that_is_not_a_number_is_finite(kind):
    flow = torch.full((1, 2, 4, 4), float("nan"))
    flow[0, 0, 0] = 1e30
    flow[0, 1, 1] = -math.inf
    assert torch.isfinite(build(kind, torch.randn(2, 1, 4, 4, 4)).lookup(flow)).all()


@st.composite
def flows(draw, batch, height, width):
    """Smooth, torn, noisy and far flows, some of them not numbers in places."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    flow = draw(st.sampled_from([0.0, 3.7, 1e4])) * torch.randn(batch, 2, 1, 1, generator=generator)
    flow = flow + draw(st.sampled_from([0.0, 0.3, 5.0, 1e6])) * torch.randn(
        batch, 2, height, width, generator=generator
    )
    flow[..., : draw(st.integers(0, width))] += draw(st.sampled_from([0.0, 2.5, -11.25]))
    if draw(st.booleans()):
        flow[:, :, height // 2] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    return flow


@given(
    data=st.data(),
    height=st.integers(1, 21),
    width=st.integers(1, 21),
    levels=st.integers(1, 5),
    radius=st.integers(0, 4),
    samples=st.lists(st.integers(0, 1), min_size=1, max_size=3),
    portion=st.sampled_from([1, 2**14, 2**22]),
)
def test_on_demand_is_all_pairs_with_its_gradients(data, height, width, levels, radius, samples, portion):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2, 5, height, width, generator=generator).requires_grad_()
    flow = data.draw(flows(len(samples), height, width))
    active = torch.tensor(samples)
    pairs, demand = (build(kind, features, levels, radius) for kind in ("all-pairs", "on-demand"))
    expected = pairs.lookup(flow, active)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_demand, "working_set", lambda device: portion)
        seen = demand.lookup(flow, active)
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(demand.lookup(flow, active), expected, atol=1e-4, rtol=1e-4)
    weight = torch.randn(seen.shape, generator=generator)
    wanted, found = (torch.autograd.grad((each * weight).sum(), features)[0] for each in (expected, seen))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_in_bfloat16_on_demand_is_all_pairs_to_the_rounding_of_a_product(device):
    features, flow = torch.randn(2, 1, 32, 24, 30).to(device), 2 * torch.randn(1, 2, 24, 30).to(device)
    exact = build("all-pairs", features).lookup(flow)
    with torch.no_grad(), autocast(device, torch.bfloat16):
        for kind in CORRELATIONS:
            built = build(kind, features)
            torch.testing.assert_close(built.lookup(flow), exact, atol=0.05, rtol=0.02)


def test_gradients_of_on_demand_in_bfloat16_are_float32_and_those_of_all_pairs(device):
    features, flow = torch.randn(2, 1, 32, 24, 30).to(device), 2 * torch.randn(1, 2, 24, 30).to(device)
    features.requires_grad_()
    weight = torch.randn(1, LEVELS * (2 * RADIUS + 1) ** 2, 24, 30).to(device)
    found = []
    for kind in ("all-pairs", "on-demand"):
        with autocast(device, torch.bfloat16):
            seen = build(kind, features).lookup(flow)
        found += torch.autograd.grad((seen.float() * weight).sum(), features)
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], atol=0.03 * float(found[0].std()), rtol=0.03)


def test_on_demand_keeps_no_vector_twice_for_the_gradient():
    """Patches of all queries hold every vector of frame 2 some hundred times."""
    features, flow = torch.randn(2, 1, 64, 32, 40), 8 * torch.randn(1, 2, 32, 40)
    features.requires_grad_()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        build("on-demand", features, levels=2).lookup(flow)
    gathered = 4 * 64 * 32 * 40 * 2 * (2 * RADIUS + 2) ** 2
    assert sum(kept.values()) < gathered / 8


def test_on_demand_memory_is_linear_in_the_positions():
    small, large = (build("on-demand", torch.zeros(2, 1, 8, side, side)).nbytes for side in (64, 128))
    assert large < 4.1 * small
    assert large < build("all-pairs", torch.zeros(2, 1, 8, 128, 128)).nbytes / 100


def test_the_choice_is_by_size_and_free_memory_and_can_be_made(monkeypatch):
    def chosen(side, batch=1, **options):
        features = torch.zeros(2, batch, 1, side, side)
        return type(build_correlation(*features, levels=1, radius=0, **options))

    monkeypatch.setattr(correlation, "LARGEST_ALL_PAIRS", 64)
    monkeypatch.setattr(correlation, "free_memory", lambda device: 2**20)
    assert chosen(8) is CORRELATIONS["all-pairs"]
    assert chosen(9) is CORRELATIONS["on-demand"]
    assert chosen(8, batch=32) is CORRELATIONS["on-demand"]
    for kind, built in CORRELATIONS.items():
        assert chosen(8, kind=kind) is chosen(9, kind=kind) is built
    with pytest.raises(ConfigError, match="'sparse' is unknown; expected auto, all-pairs, on-demand"):
        chosen(8, kind="sparse")
