"""What an evaluation amounts to: totals by data set and by group of them, as a table and as JSON."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from deqflow.errors import DataError
from deqflow.evaluation.metrics import MASKS, REGIONS
from deqflow.evaluation.results import SampleResult
from deqflow.evaluation.runner import Plan
from deqflow.evaluation.totals import Total, metric_name
from deqflow.tables import markdown

RELATIVE_GROUPS = ("Sintel final", "KITTI", "FlyingChairs")
"""Groups whose pairs enter the geometric mean of the error relative to DIS: large motion, blur, cameras."""

PAIRS_LISTED = 50
"""Up to so many pairs of all data sets together each has a row; those of more are in the files of results."""

_OUTLIER_COLUMNS = ("1px", "3px", "5px", "fl_all", "wauc")
_HEADINGS = {"1px": "1px %", "3px": "3px %", "5px": "5px %", "fl_all": "Fl %", "wauc": "WAUC"}


@dataclass
class Summary:
    """Errors of several methods on the same pairs, in memory that does not grow with their number.

    Attributes:
        methods: names, the one of interest first.
        groups: by a data set's title, the row of the table that its pairs are averaged in.
        totals: by a data set's title and a method's name.
        pairs: results by data set and pair, in order, and by method; only if they are few.
    """

    methods: tuple[str, ...]
    groups: dict[str, str]
    totals: dict[str, dict[str, Total]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], dict[str, SampleResult]] = field(default_factory=dict)

    @classmethod
    def of(cls, methods: Sequence[str], plan: Plan) -> "Summary":
        """An empty summary of what is planned."""
        names = [key[1:] for place in plan.places for key in plan.keys(place, methods[:1])]
        return cls(
            tuple(methods),
            {dataset.title: dataset.group for dataset in plan.datasets},
            {dataset.title: {method: Total() for method in methods} for dataset in plan.datasets},
            {name: {} for name in names} if len(names) <= PAIRS_LISTED else {},
        )

    def add(self, result: SampleResult) -> None:
        """Include one more result of these data sets and methods."""
        _include(self.totals[result.dataset][result.method], result)
        if (pair := self.pairs.get((result.dataset, result.name))) is not None:
            pair[result.method] = result

    def merge(self, other: "Summary") -> None:
        """Include all results of another summary of the same data sets and methods."""
        for title, totals in other.totals.items():
            for method, total in totals.items():
                self.totals[title][method].merge(total)
        for name, results in other.pairs.items():
            self.pairs[name] |= results

    def group_totals(self, groups: Collection[str] | None = None) -> dict[str, dict[str, Total]]:
        """Totals by group and method, of all groups or of some."""
        together: dict[str, dict[str, Total]] = {}
        for title, totals in self.totals.items():
            group = self.groups[title]
            if groups is None or group in groups:
                sums = together.setdefault(group, {method: Total() for method in self.methods})
                for method, total in totals.items():
                    sums[method].merge(total)
        return together

    def relative_error(
        self, method: str, baseline: str = "dis", groups: Collection[str] = RELATIVE_GROUPS
    ) -> float:
        """Geometric mean of a method's EPE / the baseline's over the pairs of ``groups``; NaN if none."""
        own, others = Total(), Total()
        for totals in self.group_totals(groups).values():
            own.merge(totals[method])
            others.merge(totals[baseline])
        if others.geometric_epe == 0:
            return math.nan if own.geometric_epe == 0 else math.inf
        return own.geometric_epe / others.geometric_epe

    def table(self) -> str:
        """Errors per pair (of few), data set and group as Markdown tables, and what must be said of them."""
        first = self.methods[0]
        lines = [
            f"EPE in pixels; shares of wrong pixels, WAUC, steps and seconds are those of {first}.",
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
        for (dataset, name), results in self.pairs.items():
            if len(results) == len(self.methods):
                totals = {method: Total() for method in self.methods}
                for method, total in totals.items():
                    _include(total, results[method])
                rows.append(self._row(f"{dataset} {name}", totals, ""))
        shared = [group for group, count in Counter(self.groups.values()).items() if count > 1]
        for name, totals in {**self.totals, **self.group_totals(shared)}.items():
            rows.append(self._row(f"{name} ({totals[self.methods[0]].pairs})", totals, "**"))
        header = ["pair", *self.methods, *(_HEADINGS[name] for name in _OUTLIER_COLUMNS), "steps", "seconds"]
        return markdown(header, rows)

    def _row(self, label: str, totals: dict[str, Total], mark: str) -> list[str]:
        first = totals[self.methods[0]]
        errors = [f"{mark}{totals[method].all.epe_image:.3f}{mark}" for method in self.methods]
        figures = first.metrics()
        steps = "" if first.mean_steps is None else f"{first.mean_steps:.1f}".removesuffix(".0")
        outliers = [f"{figures.get(name, math.nan):.2f}" for name in _OUTLIER_COLUMNS]
        return [f"{mark}{label}{mark}", *errors, *outliers, steps, f"{first.mean_seconds:.2f}"]

    def _by_region(self) -> list[str]:
        """Sintel's and KITTI's own figures, of the regions that some data set has."""
        first = self.methods[0]
        totals = {name: found[first] for name, found in self.totals.items()}
        present = {
            name for total in totals.values() for name, region in total.regions.items() if region.pixels
        }
        epe = [region for region in REGIONS if region in present and region not in ("all", *_FL_REGIONS)]
        fl = [region for region in ("noc", *_FL_REGIONS) if region in present]
        if not epe:
            return []
        header = ["data set", *(f"EPE {region}" for region in epe), *(f"Fl {region}" for region in fl)]
        cells = [*(("epe", region, 3) for region in epe), *(("fl", region, 2) for region in fl)]
        rows = [[name, *(_shown(total, *cell) for cell in cells)] for name, total in totals.items()]
        return markdown(header, rows)

    def _notes(self) -> list[str]:
        first = self.methods[0]
        lines = []
        for method in self.methods:
            count = sum(totals[method].all.nonfinite for totals in self.totals.values())
            if count:
                lines.append(
                    f"{method}: {count} valid pixels without a finite estimate; EPE of their pairs is nan."
                )
        lines += [
            f"{name}: {totals[first].unknown} pairs are left out of every mean: no pixel of theirs is known."
            for name, totals in self.totals.items()
            if totals[first].unknown
        ]
        lines += [
            f"Left out of {', '.join(names)} for want of {mask}: {', '.join(regions)}."
            for mask, regions in MASKS.items()
            if (names := self._without(regions[0]))
        ]
        lines += self._partly_masked()
        if "dis" in self.methods and first != "dis" and self.group_totals(RELATIVE_GROUPS):
            lines.append(
                f"Geometric mean of EPE / DIS's EPE over the pairs of {', '.join(RELATIVE_GROUPS)}: "
                f"{self.relative_error(first):.3f}"
            )
        return lines

    def _without(self, region: str) -> list[str]:
        """Data sets of which no pair has the mask that a region needs."""
        first = self.methods[0]
        return [
            name
            for name, totals in self.totals.items()
            if totals[first].pairs and region not in totals[first].regions
        ]

    def _partly_masked(self) -> list[str]:
        first = self.methods[0]
        return [
            f"{name}: {', '.join(regions)} over the {total.regions[regions[0]].pairs} "
            f"of {total.pairs} pairs with {mask}."
            for name, total in ((name, totals[first]) for name, totals in self.totals.items())
            for mask, regions in MASKS.items()
            if regions[0] in total.regions and total.regions[regions[0]].pairs < total.pairs
        ]

    def check_known(self) -> None:
        """Raise DataError if no pixel of a data set is known: its means would be of nothing."""
        empty = [name for name, totals in self.totals.items() if not totals[self.methods[0]].pairs]
        if empty:
            raise DataError(
                f"the flow of no pixel is known in any pair of {', '.join(empty)}: expected ground truth, "
                "and masks that are on where it holds"
            )

    def as_dict(self) -> dict[str, Any]:
        """The same for a machine; numbers that are not finite become null, which JSON can hold."""
        return {
            "methods": list(self.methods),
            "datasets": {name: _totals(totals) for name, totals in self.totals.items()},
            "groups": {name: _totals(totals) for name, totals in self.group_totals().items()},
            "relative_to_dis": {
                method: finite(self.relative_error(method))
                for method in self.methods
                if "dis" in self.methods
            },
            "pairs": [
                {
                    "dataset": dataset,
                    "pair": name,
                    "group": self.groups[dataset],
                    "methods": {
                        method: _pair(results[method]) for method in self.methods if method in results
                    },
                }
                for (dataset, name), results in self.pairs.items()
                if results
            ],
        }


def finite(value: float | None) -> float | None:
    """A number that JSON can hold, or None."""
    return value if value is not None and math.isfinite(value) else None


_FL_REGIONS = ("fg", "bg", "noc-fg", "noc-bg")


def _include(total: Total, result: SampleResult) -> None:
    total.add(
        result.regions,
        seconds=result.seconds,
        steps=result.steps,
        residual=result.residual,
        converged=result.converged,
    )


def _shown(total: Total, kind: str, region: str, digits: int) -> str:
    """A figure of a region; nothing where a data set has no pixel of it."""
    if region not in total.regions or not total.regions[region].pixels:
        return ""
    return f"{total.metrics()[metric_name(kind, region)]:.{digits}f}"


def _totals(totals: dict[str, Total]) -> dict[str, dict[str, Any]]:
    return {
        method: {
            "pairs": total.pairs,
            "pixels": total.all.pixels,
            "nonfinite": total.all.nonfinite,
            **{name: finite(value) for name, value in total.metrics().items()},
            "steps": total.mean_steps,
            "converged": total.converged if total.solved else None,
            "residual": finite(total.mean_residual),
            "seconds": finite(total.mean_seconds),
        }
        for method, total in totals.items()
    }


def _pair(result: SampleResult) -> dict[str, Any]:
    return {
        "pixels": result.regions["all"].pixels,
        "nonfinite": result.regions["all"].nonfinite,
        **{name: finite(value) for name, value in result.metrics.items()},
        "steps": result.steps,
        "residual": finite(result.residual),
        "seconds": round(result.seconds, 4),
    }
