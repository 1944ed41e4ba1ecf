"""The rooms of the network against slow, obvious versions of themselves."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deqflow.network import ConvexUpsampling, GatedStripUpdate, StandardizedConv2d, positions
from deqflow.network.gated_update import RowConv2d
from deqflow.network.positions import by_position
from deqflow.network.upsampling import extract_positions


def test_convex_upsampling_of_constant_flow_is_constant_inside():
    upsample = ConvexUpsampling(hidden=4, width=8)
    flow = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 6, 7)
    fine = upsample(torch.randn(1, 4, 6, 7), flow)
    assert fine.shape == (1, 2, 48, 56)
    torch.testing.assert_close(fine[:, :, 8:-8, 8:-8], 8 * flow[:, :, :1, :1].expand(1, 2, 32, 40))


def test_chosen_cells_are_pixels_of_the_full_flow():
    upsample = ConvexUpsampling(hidden=4, width=8)
    hidden, flow = torch.randn(2, 4, 3, 5), torch.randn(2, 2, 3, 5)
    chosen = torch.tensor([0, 7, 8, 37, 63])
    expected = extract_positions(upsample(hidden, flow), 8, chosen)
    torch.testing.assert_close(upsample.at_positions(hidden, flow, chosen), expected)
    full = torch.arange(2 * 16 * 24).view(1, 2, 16, 24)
    row, column = divmod(37, 8)
    assert torch.equal(extract_positions(full, 8, torch.tensor([37]))[:, :, 0], full[:, :, row::8, column::8])


def test_standardized_filters_have_zero_mean_and_the_norm_of_their_gain():
    conv = StandardizedConv2d(5, 3, 3)
    conv.gain.data = torch.tensor([1.0, 2.0, 0.5])
    flat = conv.standardized().flatten(1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(flat.norm(dim=1), conv.gain.data, atol=1e-5, rtol=0)


def test_frozen_filters_are_made_once_and_anew_when_they_change():
    conv, x = StandardizedConv2d(5, 3, 3), torch.randn(1, 5, 6, 6)

    def expected():
        return F.conv2d(x, 2 * conv.standardized(), 2 * conv.bias, padding=1)

    learned = conv(x, 2.0)
    conv.requires_grad_(False)
    made = []
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        standardized = conv.standardized
        patch.setattr(conv, "standardized", lambda: made.append(1) or standardized(), raising=False)
        for _ in range(3):
            assert torch.equal(conv(x, 2.0), learned)
    assert len(made) == 1
    with torch.inference_mode():
        for change in (
            lambda: conv.gain.mul_(3),
            lambda: conv.bias.add_(1),
            lambda: setattr(conv.weight, "data", torch.randn_like(conv.weight)),
            lambda: conv.load_state_dict(StandardizedConv2d(5, 3, 3).state_dict(), assign=True),
        ):
            change()
            conv.requires_grad_(False)
            assert torch.equal(conv(x, 2.0), expected())
        assert torch.equal(copy.deepcopy(conv)(x, 2.0), expected())
    torch.testing.assert_close(conv(x.requires_grad_(), 2.0), expected())


@pytest.mark.parametrize("graph", [False, True])
def test_convex_upsampling_is_the_sum_over_neighbors_weighted_by_a_softmax(graph):
    upsample, factor = ConvexUpsampling(hidden=4, width=8, factor=4), 4
    hidden, flow = torch.randn(2, 4, 3, 5), torch.randn(2, 2, 3, 5)
    with torch.set_grad_enabled(graph):
        fine = upsample(hidden, flow)
    logits = 0.25 * upsample.mask(hidden)
    padded = F.pad(factor * flow, (1, 1, 1, 1))
    for y, x, row, column in [(0, 0, 0, 3), (1, 2, 2, 1), (2, 4, 3, 3)]:
        place = factor * row + column
        weights = torch.softmax(logits[:, place :: factor**2, y, x], dim=1)
        around = padded[:, :, y : y + 3, x : x + 3].flatten(2)
        expected = (weights[:, None] * around).sum(dim=2)
        torch.testing.assert_close(fine[:, :, factor * y + row, factor * x + column], expected)


@pytest.mark.parametrize("portion", [1, 300, 2**22])
def test_by_position_in_portions_is_the_whole_and_a_pointwise_convolution(portion, monkeypatch):
    monkeypatch.setattr(positions, "working_set", lambda device: portion)
    layer, maps = nn.Linear(5 + 2, 3), (torch.randn(2, 5, 4, 6), torch.randn(2, 2, 4, 6))

    def product(x, y):
        return layer(torch.cat((x, y), dim=1))

    whole = by_position(product, *maps)
    expected = F.conv2d(torch.cat(maps, dim=1), layer.weight[:, :, None, None], layer.bias)
    torch.testing.assert_close(whole, expected)
    with torch.no_grad():
        torch.testing.assert_close(by_position(product, *maps), whole)


@pytest.mark.parametrize("shape", [(2, 6, 5, 9), (1, 6, 1, 3)])
def test_rows_are_convolved_alike_with_and_without_a_gradient(shape):
    torch.manual_seed(0)
    layer = RowConv2d(6, 6, (1, 5), padding=(0, 2), groups=6)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = F.conv2d(x, layer.weight, layer.bias, padding=(0, 2), groups=6)
    seen = layer(x)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(seen, plain)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain)
    factor = torch.randn(shape)
    wanted = torch.autograd.grad((plain * factor).sum(), (x, *layer.parameters()))
    got = torch.autograd.grad((seen * factor).sum(), (x, *layer.parameters()))
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_hidden_stays_bounded_whatever_is_seen():
    update = GatedStripUpdate(hidden=8, context=4, correlation=10, motion=6, mixed=12)
    hidden, flow = torch.zeros(1, 8, 5, 5), torch.zeros(1, 2, 5, 5)
    injected = update.prepare(100 * torch.randn(1, 4, 5, 5))
    for _ in range(10):
        hidden, delta = update(hidden, flow, 1000 * torch.randn(1, 10, 5, 5), injected)
        flow = flow + delta
    assert hidden.abs().max() <= 1
