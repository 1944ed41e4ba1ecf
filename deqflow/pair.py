"""What is constant over the solve of a pair of frames, and how the solve ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from deqflow.equilibrium import Solution
from deqflow.geometry import Padding


@dataclass(frozen=True)
class FrameFeatures:
    """What the encoder makes of frames at one stride.

    Attributes:
        matching: (B, C, H/s, W/s) that the correlation compares.
        trunk: what the context is made from, of the frame that is the first of a pair; of that resolution, or
            the frame itself where a network of its own makes the context.
    """

    matching: Tensor
    trunk: Tensor


@dataclass(frozen=True)
class EncodedFrame:
    """Encoded frames; on video each is encoded once.

    Attributes:
        image: (B, 3, H, W) of 0..255, padded.
        features: by scale, as far as they were asked for.
    """

    image: Tensor
    features: Mapping[int, FrameFeatures]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "EncodedFrame":
        features = {
            scale: FrameFeatures(change(part.matching), change(part.trunk))
            for scale, part in self.features.items()
        }
        return EncodedFrame(change(self.image), features)

    def rolled(self, shift: int) -> "EncodedFrame":
        """Return the same frames in another order."""
        return self._each(lambda tensor: tensor.roll(shift, dims=0))

    def halves(self) -> tuple["EncodedFrame", "EncodedFrame"]:
        """Return the first and the second half of the frames."""
        return self._each(lambda tensor: tensor.chunk(2)[0]), self._each(lambda tensor: tensor.chunk(2)[1])


@dataclass(frozen=True)
class PreparedPair:
    """A pair of encoded frames and the padding that the flow between them is freed of."""

    first: EncodedFrame
    second: EncodedFrame
    padding: Padding


@dataclass(frozen=True)
class Guide:
    """What was found at the model's finest stride, which frames enlarged beyond it may only refine.

    Attributes:
        flow: (B, 2, H, W) of padded frames, pixels.
        expected_error: (B, 1, H, W) of a component of it; None where the model does not tell.
    """

    flow: Tensor
    expected_error: Tensor | None


@dataclass(frozen=True)
class PairSolution:
    """How a pair was solved.

    Attributes:
        scale: stride of the finest scale that was solved.
        finest: the solution there.
        reusable: that at ``SolveSettings.reused_scale``, where the next pair of a video may start.
        evaluations: (B,) of the update operator at each scale, by stride.
        guide: the scale before, where frames were enlarged for the finest; None where they were not.
        disagreement: (B, 1, H/s, W/s) how far a component of the flow ended from that of the scale before, in
            pixels (those of enlarged frames where these were solved); None where one of the two scales is
            not what the uncertainty was trained for: the model's finest stride, and a coarser one of its own.
    """

    scale: int
    finest: Solution
    reusable: Solution
    evaluations: Mapping[int, Tensor]
    guide: Guide | None = None
    disagreement: Tensor | None = None
