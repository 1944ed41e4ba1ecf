"""What an evaluation amounts to: totals by data set and by group of them, as a table and as JSON."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deqflow.data.datasets.pairs import Averaging
from deqflow.errors import DataError
from deqflow.evaluation.metrics import MASKS, REGIONS, ErrorSums, metric_name
from deqflow.evaluation.plan import Plan
from deqflow.evaluation.results import SampleResult, finite
from deqflow.tables import markdown

RELATIVE_GROUPS = ("Sintel final", "KITTI", "FlyingChairs")
"""Groups whose pairs enter the geometric mean of the error relative to DIS: large motion, blur, cameras."""

PAIRS_LISTED = 50
"""Up to so many pairs of all data sets together each has a row; those of more are in the files of results."""

FIGURES = {"1px": "1px %", "3px": "3px %", "5px": "5px %", "fl_all": "Fl %", "wauc": "WAUC"}
"""Headings of the figures that tables give beside the EPE."""

_FL_REGIONS = ("fg", "bg", "noc-fg", "noc-bg")


@dataclass(frozen=True)
class Total:
    """Errors of one method over many pairs, in every region, and what its solver did.

    Attributes:
        pairs: how many.
        unknown: further pairs, of which no pixel's flow is known; they are part of nothing else here.
        regions: by names of ``REGIONS``; one is missing if no pair has its mask.
        averaging: how the end-point error is averaged.
        steps: evaluations of the update operator per pair at the finest scale; None if the method does not
            iterate.
        cost: those at every scale, in evaluations of the 1/8 grid; None if the method does not iterate.
        converged: pairs that met the tolerance; None if the method does not iterate.
        residual: how far the flow moved in the last step, px RMS, mean over pairs; NaN if any is not finite,
            None if the method does not iterate.
        seconds: per pair, reading left out; NaN of no pair.
        geometric_epe: geometric mean over pairs of their error in px: 0 if one is perfect, NaN if one is not
            finite.
    """

    pairs: int
    unknown: int
    regions: dict[str, ErrorSums]
    averaging: Averaging
    steps: float | None
    cost: float | None
    converged: int | None
    residual: float | None
    seconds: float
    geometric_epe: float

    @classmethod
    def of(cls, results: Sequence[SampleResult], averaging: Averaging = "images") -> "Total":
        """Add up the results of one method, in their order."""
        known = [result for result in results if result.regions["all"].pixels]
        regions: dict[str, ErrorSums] = {}
        for result in known:
            for name, sums in result.regions.items():
                regions[name] = regions.get(name, ErrorSums()) + sums
        solved = [result for result in known if result.steps is not None]
        return cls(
            len(known),
            len(results) - len(known),
            {name: regions[name] for name in REGIONS if name in regions},
            averaging,
            _mean(result.steps for result in solved) if solved else None,
            _mean(result.cost for result in solved) if solved else None,
            sum(bool(result.converged) for result in solved) if solved else None,
            _mean(result.residual for result in solved) if solved else None,
            _mean(result.seconds for result in known),
            _geometric_mean([result.epe for result in known]),
        )

    @property
    def all(self) -> ErrorSums:
        """Sums over every valid pixel."""
        return self.regions.get("all", ErrorSums())

    @property
    def epe(self) -> float:
        """Mean end-point error in pixels as the benchmark averages it; NaN of nothing."""
        return self.metrics.get("epe", math.nan)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Every figure of every region by the names of ``ErrorSums.metrics``."""
        return {
            name: value
            for region, sums in self.regions.items()
            for name, value in sums.metrics(region, self.averaging).items()
        }

    def shown(self, kind: str, region: str, digits: int) -> str:
        """Return a figure of a region; nothing where no pair has a pixel of it."""
        if not self.regions.get(region, ErrorSums()).pixels:
            return ""
        return f"{self.metrics[metric_name(kind, region)]:.{digits}f}"

    def as_dict(self) -> dict[str, Any]:
        """Return the same for a machine."""
        return {
            "pairs": self.pairs,
            "pixels": self.all.pixels,
            "nonfinite": self.all.nonfinite,
            **self.metrics,
            "epe_image": self.all.epe_image,
            "epe_pixel": self.all.epe_pixel,
            "steps": self.steps,
            "cost": self.cost,
            "converged": self.converged,
            "residual": self.residual,
            "seconds": self.seconds,
        }


class Summary:
    """Errors of several methods on the same pairs.

    Attributes:
        methods: names, the one of interest first.
        datasets: titles.
        groups: by a data set's title, the row of the table that its pairs are averaged in.
        results: in the order in which they are added up, so that sums do not depend on who found them.
        totals: by a data set's title and a method's name.
    """

    def __init__(self, methods: Sequence[str], plan: Plan, results: Iterable[SampleResult]) -> None:
        """Take in what was found of a plan's pairs, in any order."""
        self.methods = tuple(methods)
        self.groups = {dataset.title: dataset.group for dataset in plan.datasets}
        self._averaging = {dataset.title: dataset.convention.averaging for dataset in plan.datasets}
        found = {result.key: result for result in results}
        keys = (key for place in plan.places for key in plan.keys(place, self.methods))
        self.results = [found[key] for key in keys if key in found]
        self.totals = {
            title: {method: self._total([title], method) for method in methods} for title in self.groups
        }

    def _total(self, titles: Collection[str], method: str) -> Total:
        results = [r for r in self.results if r.method == method and r.dataset in titles]
        return Total.of(results, self._averaging[next(iter(titles))] if titles else "images")

    @cached_property
    def pairs(self) -> dict[tuple[str, str], dict[str, SampleResult]]:
        """Results by data set and pair, in order, and by method."""
        pairs: dict[tuple[str, str], dict[str, SampleResult]] = {}
        for result in self.results:
            pairs.setdefault((result.dataset, result.name), {})[result.method] = result
        return pairs

    @property
    def listed(self) -> dict[tuple[str, str], dict[str, SampleResult]]:
        """The pairs if they are few enough for a table to have a row for each; else none."""
        return self.pairs if len(self.pairs) <= PAIRS_LISTED else {}

    def group_totals(self) -> dict[str, dict[str, Total]]:
        """Return totals by group and method."""
        titles: dict[str, list[str]] = {}
        for title, group in self.groups.items():
            titles.setdefault(group, []).append(title)
        return {g: {method: self._total(t, method) for method in self.methods} for g, t in titles.items()}

    def relative_error(
        self, method: str, baseline: str = "dis", groups: Collection[str] = RELATIVE_GROUPS
    ) -> float:
        """Return the geometric mean of EPE / the baseline's EPE over the pairs of ``groups``; NaN if none."""
        titles = [title for title, group in self.groups.items() if group in groups]
        own, other = (self._total(titles, name).geometric_epe for name in (method, baseline))
        if other == 0:
            return math.nan if own == 0 else math.inf
        return own / other

    def check_known(self) -> None:
        """Raise DataError if no pixel of a data set is known: its means would be of nothing."""
        empty = [title for title, total in self._first_totals().items() if not total.pairs]
        if empty:
            raise DataError(
                f"the flow of no pixel is known in any pair of {', '.join(empty)}: expected ground truth, "
                "and masks that are on where it holds"
            )

    def table(self) -> str:
        """Return errors per pair (of few), data set and group as Markdown, and what must be said of them."""
        first = self.methods[0]
        lines = [
            f"EPE in pixels; shares of wrong pixels, WAUC, steps, cost and seconds are those of {first}.",
            "",
            *self._overview(),
            "",
        ]
        regions = self._by_region()
        if regions:
            lines += [f"{first} by region: EPE in pixels, Fl in percent.", "", *regions, ""]
        lines += self._notes()
        return "\n".join(lines)

    def _overview(self) -> list[str]:
        rows = []
        for (dataset, name), results in self.listed.items():
            if len(results) == len(self.methods):
                totals = {method: Total.of([results[method]]) for method in self.methods}
                rows.append(self._row(f"{dataset} {name}", totals, ""))
        counts = Counter(self.groups.values())
        shared = {group: totals for group, totals in self.group_totals().items() if counts[group] > 1}
        for name, totals in {**self.totals, **shared}.items():
            rows.append(self._row(f"{name} ({totals[self.methods[0]].pairs})", totals, "**"))
        return markdown(["pair", *self.methods, *FIGURES.values(), "steps", "cost", "seconds"], rows)

    def _row(self, label: str, totals: dict[str, Total], mark: str) -> list[str]:
        first = totals[self.methods[0]]
        errors = [f"{mark}{totals[method].epe:.3f}{mark}" for method in self.methods]
        work = ["" if v is None else f"{v:.1f}".removesuffix(".0") for v in (first.steps, first.cost)]
        figures = [f"{first.metrics.get(name, math.nan):.2f}" for name in FIGURES]
        return [f"{mark}{label}{mark}", *errors, *figures, *work, f"{first.seconds:.2f}"]

    def _by_region(self) -> list[str]:
        """Tabulate Sintel's and KITTI's own figures, of the regions that some data set has."""
        totals = self._first_totals()
        present = {name for total in totals.values() for name, sums in total.regions.items() if sums.pixels}
        epe = [region for region in REGIONS if region in present and region not in ("all", *_FL_REGIONS)]
        fl = [region for region in ("noc", *_FL_REGIONS) if region in present]
        if not epe:
            return []
        header = ["data set", *(f"EPE {region}" for region in epe), *(f"Fl {region}" for region in fl)]
        cells = [*(("epe", region, 3) for region in epe), *(("fl", region, 2) for region in fl)]
        return markdown(header, [[name, *(t.shown(*cell) for cell in cells)] for name, t in totals.items()])

    def _first_totals(self) -> dict[str, Total]:
        return {title: totals[self.methods[0]] for title, totals in self.totals.items()}

    def _notes(self) -> list[str]:
        first, totals = self.methods[0], self._first_totals()
        lines = []
        for method in self.methods:
            count = sum(total[method].all.nonfinite for total in self.totals.values())
            if count:
                lines.append(
                    f"{method}: {count} valid pixels without a finite estimate; EPE of their pairs is nan."
                )
        lines += [
            f"{title}: {total.unknown} pairs are left out of every mean: no pixel of theirs is known."
            for title, total in totals.items()
            if total.unknown
        ]
        for mask, regions in MASKS.items():
            without = [title for title, t in totals.items() if t.pairs and regions[0] not in t.regions]
            if without:
                lines.append(f"Left out of {', '.join(without)} for want of {mask}: {', '.join(regions)}.")
        for title, total in totals.items():
            for mask, regions in MASKS.items():
                count = total.regions.get(regions[0], ErrorSums()).pairs
                if 0 < count < total.pairs:
                    lines.append(
                        f"{title}: {', '.join(regions)} over the {count} of {total.pairs} pairs with {mask}."
                    )
        if "dis" in self.methods and first != "dis" and {*self.groups.values()} & {*RELATIVE_GROUPS}:
            lines.append(
                f"Geometric mean of EPE / DIS's EPE over the pairs of {', '.join(RELATIVE_GROUPS)}: "
                f"{self.relative_error(first):.3f}"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return the same for a machine; numbers that are not finite become null, which JSON can hold."""

        def by_method(totals: dict[str, Total]) -> dict[str, Any]:
            return {method: total.as_dict() for method, total in totals.items()}

        relative = self.methods if "dis" in self.methods else ()
        summary = {
            "methods": list(self.methods),
            "datasets": {name: by_method(totals) for name, totals in self.totals.items()},
            "groups": {name: by_method(totals) for name, totals in self.group_totals().items()},
            "relative_to_dis": {method: self.relative_error(method) for method in relative},
            "pairs": [
                {
                    "dataset": dataset,
                    "pair": name,
                    "group": self.groups[dataset],
                    "methods": {method: _pair(result) for method, result in results.items()},
                }
                for (dataset, name), results in self.listed.items()
            ],
        }
        return finite(summary)


def _mean(values: Iterable[float | None]) -> float:
    """Return the mean of plain floats, added up in order; NaN of nothing and if one is None or not finite."""
    numbers = [math.nan if value is None else value for value in values]
    mean = sum(numbers) / len(numbers) if numbers else math.nan
    return mean if math.isfinite(mean) else math.nan


def _geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean; NaN of nothing and if one is NaN, else 0 if one is 0."""
    if 0 in values and not any(map(math.isnan, values)):
        return 0.0
    return math.exp(_mean(math.log(value) if value else math.nan for value in values))


def _pair(result: SampleResult) -> dict[str, Any]:
    return {
        "pixels": result.regions["all"].pixels,
        "nonfinite": result.regions["all"].nonfinite,
        **result.metrics,
        "steps": result.steps,
        "cost": result.cost,
        "residual": result.residual,
        "seconds": round(result.seconds, 4),
    }
