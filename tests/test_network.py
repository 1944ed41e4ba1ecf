"""The rooms of the network against slow, obvious versions of themselves."""

import pytest
import torch
import torch.nn.functional as F
from published import naive_lookup

from deqflow.network import (
    ConvexUpsampling,
    CorrelationPyramid,
    GatedStripUpdate,
    StandardizedConv2d,
    correlation,
)
from deqflow.network.gated_update import PointwiseConv2d, RowConv2d
from deqflow.network.upsampling import extract_positions


@pytest.mark.parametrize("size", [(8, 10), (5, 7), (2, 2), (1, 3), (16, 9)])
@pytest.mark.parametrize("reach", [0.5, 4.0, 40.0])
def test_lookup_agrees_with_the_all_pairs_volume(size, reach, device):
    features = torch.randn(2, 2, 6, *size)
    flow = reach * torch.randn(2, 2, *size)
    pyramid = CorrelationPyramid(*features.to(device), levels=4, radius=3)
    expected = naive_lookup(*features, flow, 4, 3)
    torch.testing.assert_close(pyramid.lookup(flow.to(device)).cpu(), expected, atol=2e-5, rtol=1e-4)


def test_lookup_of_some_samples_is_a_part_of_the_lookup_of_all():
    features, flow = torch.randn(2, 3, 4, 6, 8), 3 * torch.randn(3, 2, 6, 8)
    pyramid = CorrelationPyramid(*features)
    active = torch.tensor([2, 0, 2])
    torch.testing.assert_close(pyramid.lookup(flow[active], active), pyramid.lookup(flow)[active])


def test_lookup_gradients_agree_with_the_all_pairs_volume():
    features = torch.randn(2, 1, 3, 5, 6, dtype=torch.float32, requires_grad=True)
    flow, weight = 2 * torch.randn(1, 2, 5, 6), torch.randn(1, 98, 5, 6)
    fast = CorrelationPyramid(*features, levels=2, radius=3).lookup(flow)
    (gradient,) = torch.autograd.grad((fast * weight).sum(), features)
    (expected,) = torch.autograd.grad((naive_lookup(*features, flow, 2, 3) * weight).sum(), features)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


def test_lookup_gradients_of_flow_and_of_gradients_agree_too():
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(1, 3, 5, 6, generator=generator, requires_grad=True) for _ in range(2)]
    flow = (2 * torch.randn(1, 2, 5, 6, generator=generator)).requires_grad_()
    inputs = (*features, flow)

    def gradients(seen):
        first = torch.autograd.grad((seen**2).sum(), inputs, create_graph=True)
        return [*first, *torch.autograd.grad(sum((part**2).sum() for part in first), inputs)]

    found = gradients(CorrelationPyramid(*features, levels=2, radius=3).lookup(flow))
    try:
        expected = gradients(naive_lookup(*features, flow, 2, 3))
    except RuntimeError as error:
        pytest.skip(f"this release of PyTorch cannot differentiate grid_sample twice: {error}")
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)


def test_a_large_volume_without_a_graph_takes_half_the_memory(monkeypatch, device):
    features = torch.randn(2, 2, 16, 7, 9, generator=torch.Generator().manual_seed(0)).to(device)
    flow = 3 * torch.randn(2, 2, 7, 9, generator=torch.Generator().manual_seed(1)).to(device)
    exact = CorrelationPyramid(*features)
    monkeypatch.setattr(correlation, "LARGEST_EXACT", 1000)
    monkeypatch.setattr(correlation, "CHUNK", 500)  # several chunks, the last one smaller
    with torch.no_grad():
        halved = CorrelationPyramid(*features)
        assert 2 * halved.nbytes == exact.nbytes
        torch.testing.assert_close(halved.lookup(flow), exact.lookup(flow), rtol=2e-3, atol=2e-3)
    assert CorrelationPyramid(*features).nbytes == exact.nbytes  # training is exact


def test_lookup_of_flow_that_is_not_a_number_stays_inside_the_volume():
    pyramid = CorrelationPyramid(*torch.randn(2, 1, 4, 4, 4))
    flow = torch.full((1, 2, 4, 4), float("nan"))
    flow[0, 0, 0] = 1e30
    assert torch.isfinite(pyramid.lookup(flow)).all()


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


def test_pointwise_convolution_is_a_convolution():
    layer, x = PointwiseConv2d(5, 3), torch.randn(2, 5, 4, 6)
    expected = F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
    torch.testing.assert_close(layer(x), expected)


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
