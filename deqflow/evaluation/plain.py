"""Published models as their papers write them down, in few standard operations: what ours is held to."""

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.devices import resolve_precision
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.evaluation.bench import Timing, smooth_noise, take_turns
from deqflow.network import ConvexUpsampling, GRUUpdate, SeparateEncoders
from deqflow.network.correlation import GridSampledCorrelation
from deqflow.network.weight_norm import collect_filters
from deqflow.tables import markdown

PLAIN = "plain, float32"


@torch.no_grad()
def plain_flow(model: DEQFlow, image1: Tensor, image2: Tensor, steps: int) -> Tensor:
    """Return the flow (B, 2, H, W) after so many steps by the weights of ``model``, in float32.

    Every gate is a convolution of its own over (hidden, context, motion), every lookup a ``grid_sample``, and
    memory lies as PyTorch lays it by default.

    Args:
        model: of the published architecture, without attention.
        image1: (B, 3, H, W) of 0..255, sides multiples of 8.
        image2: the same.
        steps: evaluations of the update operator.

    Raises:
        ConfigError: a model of another architecture.
    """
    encoder, update, upsample = model.encoder, model.update, model.upsample
    if not (
        isinstance(encoder, SeparateEncoders)
        and isinstance(update, GRUUpdate)
        and update.attention is None
        and isinstance(upsample, ConvexUpsampling)
    ):
        raise ConfigError(f"{model.name} has no plain form; expected a published model without attention")
    image1, image2 = ((2 * image / 255 - 1).contiguous() for image in (image1, image2))
    correlation = GridSampledCorrelation(
        encoder.feature_net(image1),
        encoder.feature_net(image2),
        levels=model.config.levels,
        radius=model.config.radius,
    )
    context, start = encoder.context(image1)
    hidden = torch.zeros_like(context) if start is None else start
    flow = context.new_zeros(len(context), 2, *context.shape[2:])
    filters = collect_filters(update)
    for _ in range(steps):
        motion = update.motion(correlation.lookup(flow).contiguous(), flow, filters)
        for unit in update.units():
            both = torch.cat((hidden, context, motion), dim=1)
            keep, reset = (torch.sigmoid(gate(both, filters)) for gate in (unit.update, unit.reset))
            both = torch.cat((reset * hidden, context, motion), dim=1)
            hidden = (1 - keep) * hidden + keep * torch.tanh(unit.candidate(both, filters))
        first, second = update.flow_head
        flow = flow + second(F.relu(first(hidden, filters)), filters)
    return _upsampled(upsample, hidden, flow)


def _upsampled(upsample: ConvexUpsampling, hidden: Tensor, flow: Tensor) -> Tensor:
    batch, _, height, width = flow.shape
    factor = upsample.factor
    mask = (0.25 * upsample.mask(hidden)).view(batch, 1, 9, factor, factor, height, width)
    around = F.unfold(factor * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    fine = (torch.softmax(mask, dim=2) * around).sum(dim=2).permute(0, 1, 4, 2, 5, 3)
    return fine.reshape(batch, 2, factor * height, factor * width)


@torch.inference_mode()
def measure_plain(
    model: DEQFlow, *, precisions: tuple[str, ...], steps: int, size: tuple[int, int], repeats: int
) -> dict[str, tuple[Timing, float]]:
    """Time the plain implementation and the model in turns, and compare their flows.

    Args:
        model: see ``plain_flow``; restored to its own precision at the end.
        precisions: names that ``resolve_precision`` knows.
        steps: evaluations of the update operator.
        size: height and width of the frames, multiples of 8: noise, smoothed.
        repeats: of each.

    Returns:
        Times by what was timed, with the largest difference from the plain flow over its largest length.
    """
    first, second = smooth_noise(2, size).to(model.device).split(1)
    flows: dict[str, Tensor] = {}
    own = model.precision

    def plain() -> None:
        flows[PLAIN] = plain_flow(model, first, second, steps)

    def ours(precision: str) -> None:
        model.precision = resolve_precision(precision, model.device)
        flows[precision] = model(first, second, steps=steps, tolerance=0.0).flow

    runs: dict[str, Callable[[], object]] = {PLAIN: plain}
    runs |= {precision: partial(ours, precision) for precision in precisions}
    try:
        timings = take_turns(runs, model.device, repeats=repeats)
    finally:
        model.precision = own
    largest = float(torch.linalg.vector_norm(flows[PLAIN], dim=1).max())
    return {
        name: (timing, float((flows[name] - flows[PLAIN]).abs().max()) / largest)
        for name, timing in timings.items()
    }


def plain_table(measured: Mapping[str, tuple[Timing, float]]) -> str:
    """Return a Markdown table, one row for the plain implementation and one a precision."""
    plain = median(measured[PLAIN][0].seconds)
    rows = []
    for name, (timing, difference) in measured.items():
        seconds = median(timing.seconds)
        rows.append([name, f"{seconds:.3f}", f"{plain / seconds:.2f}", f"{difference:.1e}"])
    return "\n".join(markdown(["", "seconds per pair", "times as fast", "relative difference"], rows))
