"""TartanAir, a camera flying through rendered static scenes.

Wang et al., *TartanAir: A Dataset to Push the Limits of Visual SLAM*, IROS 2020. Flow comes from depth and
camera motion; a mask beside it marks what that does not hold for, moving things and hidden points.
"""

from collections.abc import Iterator
from pathlib import Path

from deqflow.data.datasets.family import Family
from deqflow.data.datasets.headers import numpy_file
from deqflow.data.datasets.pairs import PairDataset, PairFiles, Truth, number_in
from deqflow.errors import DataError
from deqflow.io.files import visible


class TartanAirPair(PairFiles):
    """A pair with a mask file beside the flow file that is zero where the flow holds."""

    def read_truth(self) -> Truth:
        """As `PairFiles.read_truth`; pixels that the mask marks are not valid.

        Raises:
            DataError: the mask is no array of the flow's size.
            FlowFileError: the flow cannot be read.
        """
        flow, valid, _ = super().read_truth()
        if self.mask is None:
            return Truth(flow, valid)
        mask = numpy_file(self.mask)
        if mask.shape != valid.shape:
            raise DataError(f"{self.mask} has shape {mask.shape}, expected that of the flow, {valid.shape}")
        return Truth(flow, valid & (mask == 0))

    @property
    def mask(self) -> Path | None:
        """The mask beside the flow file, if it is there."""
        if self.flow is None:
            return None
        mask = self.flow.with_name(self.flow.name.replace("_flow.npy", "_mask.npy"))
        return mask if mask.is_file() else None


def tartanair(root: Path, split: str) -> list[PairDataset]:
    """Every trajectory below ``root``, whose depth depends on how the archives were unpacked."""

    def candidates() -> Iterator[PairFiles]:
        for flow in visible(root, "**/flow/*_flow.npy"):
            number = number_in(flow, r"(\d+)_\d+_flow")
            images = flow.parent.parent / "image_left"
            trajectory = flow.parent.parent.relative_to(root).as_posix()
            yield TartanAirPair(
                f"{trajectory} {number}",
                images / f"{number:06d}_left.png",
                images / f"{number + 1:06d}_left.png",
                flow,
                sequence=trajectory,
                index=number,
            )

    return [PairDataset("TartanAir", "TartanAir", candidates(), root)]


TARTANAIR = Family(
    name="tartanair",
    title="TartanAir",
    folder="TartanAir",
    tree="abandonedfactory/Easy/P000/flow/000000_000001_flow.npy",
    open=tartanair,
    signs=("*/*/*/flow/*_flow.npy", "*/*/*/*/flow/*_flow.npy"),
    splits=("training",),
)
