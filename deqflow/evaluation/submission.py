"""Files for the benchmarks' servers: written along each test sequence, kept, packed and read again.

What the servers take is said by the benchmarks' own readme files: that of Sintel's bundler (Wulff, 2012) and
those of KITTI's development kits (2012 and 2015).
"""

import math
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from deqflow.data.datasets import PairDataset, PairFiles, open_dataset
from deqflow.data.datasets.catalog import SUBMISSIONS, family_named
from deqflow.data.sample import Sample
from deqflow.errors import ConfigError, DataError, DeqflowError, FlowClippedWarning
from deqflow.evaluation.plan import Place, Plan
from deqflow.evaluation.predictors import Item, Predictor
from deqflow.evaluation.results import SETTINGS, ResultsFolder
from deqflow.io.files import atomic_path
from deqflow.io.flow_files import FLOW_FORMATS, read_flow, write_flow
from deqflow.io.images import read_image


@dataclass(frozen=True)
class Checked:
    """What reading a submission again has shown.

    Attributes:
        files: flow files that are as they should be.
        problems: what the server would refuse or score wrongly, a sentence each.
        notes: what is allowed and worth a look.
    """

    files: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Submission:
    """A folder of flow for every pair of a test split.

    Attributes:
        name: one of ``SUBMISSIONS``.
        folder: where the files lie.
        datasets: the test split.
        partial: whether pairs are missing from it, so that the server will refuse the result.
    """

    def __init__(self, name: str, root: Path, folder: Path, *, partial: bool = False) -> None:
        """Index the test split below ``root``.

        Raises:
            ConfigError: a benchmark without a server that we know.
            DataError: the split is not there, or not complete and not said to be ``partial``.
        """
        family = family_named(name)
        if family.submission is None:
            raise ConfigError(f"there is no submission for {name!r}, expected {' or '.join(SUBMISSIONS)}")
        self.name, self.folder, self.layout = name, folder, family.submission
        self.datasets: Sequence[PairDataset] = open_dataset(name, root, split="testing")
        expected = self.layout.passes * family.pairs["testing"]
        self.partial = sum(map(len, self.datasets)) != expected
        if self.partial and not partial:
            found = " and ".join(f"{len(dataset)} of {dataset.title}" for dataset in self.datasets)
            raise DataError(
                f"{root} holds {found} of the {expected} test pairs that the server of {family.title} "
                "expects: --partial writes what there is, to try it out"
            )

    @property
    def archive(self) -> Path | None:
        """The zip file to upload; None where there is none."""
        return None if self.layout.packed is None else self.folder / f"{self.name}.zip"

    @property
    def upload(self) -> str:
        """What to do with the submission."""
        return self.layout.upload.format(folder=self.folder, archive=self.archive)

    def file(self, place: Place) -> Path:
        """Return where the flow of a pair goes."""
        return self.folder / self.layout.place(self._pair(place))

    def _pair(self, place: Place) -> PairFiles:
        return self.datasets[place.dataset].files[place.pair]

    def places(self) -> list[Place]:
        """Return every pair in order."""
        return Plan.of(self.datasets).places

    def write(self, predict: Predictor, settings: dict[str, Any], *, overwrite: bool = False) -> float:
        """Write what is missing and return the mean steps per pair of what was solved; NaN of nothing.

        A predictor that goes along sequences starts each solve from the one before. Of a sequence that a run
        left unfinished all pairs are solved again, so that the files are those of a run never interrupted.

        Args:
            predict: the model.
            settings: everything that the flow depends on; a folder of other settings is refused.
            overwrite: replace what another run has written.

        Raises:
            ConfigError: the folder holds files of another run.
            DeqflowError, OSError: a frame cannot be read, or a file not be written.
        """
        self._begin(settings, overwrite=overwrite)
        chains = [
            chain
            for chain in Plan.of(self.datasets, sequential=predict.sequential).chains
            if not all(self.file(place).is_file() for place in chain)
        ]
        steps: list[int] = []
        with tqdm(total=sum(map(len, chains)), unit="pair", desc=self.name) as bar:
            for place in (place for chain in chains for place in chain):
                prediction = predict([self._item(place)])[0]
                file = self.file(place)
                file.parent.mkdir(parents=True, exist_ok=True)
                with warnings.catch_warnings():
                    # Clipped pixels are counted by the check, in a line a file.
                    warnings.simplefilter("ignore", FlowClippedWarning)
                    write_flow(file, prediction.flow)
                steps.append(prediction.steps or 0)
                bar.set_postfix(steps=f"{np.mean(steps):.1f}", refresh=False)
                bar.update()
        return float(np.mean(steps)) if steps else math.nan

    def written(self) -> int:
        """Count the files that are there."""
        return sum(self.file(place).is_file() for place in self.places())

    def _begin(self, settings: dict[str, Any], *, overwrite: bool) -> None:
        """Make the folder ours, or find that it is."""
        there = [file for file in map(self.file, self.places()) if file.exists()]
        if overwrite:
            for file in there:
                file.unlink()
        elif there and not (self.folder / SETTINGS).exists():
            raise ConfigError(
                f"{there[0]} exists already and no {SETTINGS} tells what made it: "
                "expected another --output, or --overwrite"
            )
        ResultsFolder(self.folder).open(settings, overwrite=overwrite)

    def _item(self, place: Place) -> Item:
        pair = self._pair(place)
        frame1, frame2 = pair.read_frames()
        unknown = np.zeros(frame1.shape[:2], bool)
        flow = np.zeros((*unknown.shape, 2), np.float32)
        sample = Sample(
            frame1, frame2, flow, unknown, name=pair.name, sequence=pair.sequence, index=pair.index
        )
        return Item(self.datasets[place.dataset], sample)

    def pack(self) -> None:
        """Write the archive, if the server takes one. The files are compressed already: they are stored."""
        if self.archive is None or self.layout.packed is None:
            return
        with atomic_path(self.archive) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for place in self.places():
                # A fixed date: the same flow gives the same archive.
                entry = zipfile.ZipInfo(self.layout.packed(self._pair(place)))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, self.file(place).read_bytes())

    def check(self) -> Checked:
        """Read every file again: names, formats, sizes against the frames, values; and the archive."""
        problems: list[str] = []
        notes: list[str] = []
        files = 0
        for place in tqdm(self.places(), unit="file", desc="check", leave=False):
            found = len(problems)
            self._check_file(place, problems, notes)
            files += len(problems) == found
        expected = {self.file(place) for place in self.places()}
        for top in sorted({self.layout.place(self._pair(place)).parts[0] for place in self.places()}):
            strangers = (path for path in sorted((self.folder / top).rglob("*")) if path.is_file())
            problems += [
                f"{path} does not belong to the submission" for path in strangers if path not in expected
            ]
        if not problems:
            problems += self._archive_problems()
        return Checked(files, problems, notes)

    def _check_file(self, place: Place, problems: list[str], notes: list[str]) -> None:
        file = self.file(place)
        if not file.is_file():
            problems.append(f"{file} is missing")
            return
        try:
            flow, valid = read_flow(file)
            height, width = read_image(self._pair(place).frame1).shape[:2]
        except DeqflowError as error:
            problems.append(str(error))
            return
        if valid.shape != (height, width):
            problems.append(
                f"{file} is {valid.shape[1]}x{valid.shape[0]} pixels, its frame is {width}x{height}"
            )
            return
        if not valid.all():
            problems.append(
                f"{file} has {int((~valid).sum())} pixels without an estimate, which the server fills in"
            )
        limits = FLOW_FORMATS[file.suffix].limits
        if limits is not None:
            clipped = int(((flow <= limits[0]) | (flow >= limits[1])).any(-1).sum())
            if clipped:
                notes.append(f"{file} has {clipped} pixels at the limit of its format, {limits[1]:.0f} px")
        far = int((np.hypot(flow[..., 0], flow[..., 1]) > np.hypot(height, width)).sum())
        if far:
            notes.append(f"{file} has {far} pixels that move further than the frame's diagonal")

    def _archive_problems(self) -> list[str]:
        """Say how the archive differs from the files beside it."""
        if self.archive is None or self.layout.packed is None:
            return []
        if not self.archive.is_file():
            return [f"{self.archive} is missing"]
        expected = {self.layout.packed(self._pair(place)): self.file(place) for place in self.places()}
        try:
            with zipfile.ZipFile(self.archive) as archive:
                names = archive.namelist()
                problems = [
                    f"{self.archive} lacks {name}" for name in sorted(expected.keys() - set(names))
                ] + [
                    f"{self.archive} holds {name}, which does not belong"
                    for name in names
                    if name not in expected
                ]
                if len(names) != len(set(names)):
                    problems.append(f"{self.archive} holds a name twice")
                return problems or [
                    f"{name} in {self.archive} differs from {file}"
                    for name, file in expected.items()
                    # By the size it says first: a stranger's archive must not fill the memory.
                    if archive.getinfo(name).file_size != file.stat().st_size
                    or archive.read(name) != file.read_bytes()
                ]
        except (zipfile.BadZipFile, OSError) as error:
            return [f"{self.archive} is not a usable zip archive: {error}"]
