"""The page docs/study.md and its pictures, from what `study.py` saved and from nothing else.

python recipes/study/page.py
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from statistics import fmean, stdev
from textwrap import wrap
from typing import Any

import plots
from words import COMPARISONS, HEAD, Comparison

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[2] / "docs"
BENCHES = {"digits": "digits-dit", "fashion": "fashion-dit"}
WIDTH = 120
"""Characters of a line."""
TEACHER, WORST = 2.27, 50.0
PUBLISHED: dict[str, tuple[float | None, float | None, float | None]] = {
    "Hyena-SE": (2.73, 3.62, None),
    "Hyena-X": (2.74, 3.69, None),
    "Hyena-Y": (2.72, 3.66, None),
    "sliding window": (2.67, 3.09, None),
    "Mamba-2": (2.65, 3.02, None),
    "MLP ratio 3": (2.53, 2.61, 2.66),
    "MLP ratio 6": (2.38, 2.37, 2.42),
    "Hyena-X MLP": (2.64, 3.26, None),
}
"""FID at 50, 75 and 100 % (Table 4 of arXiv 2506.05340); None is above 50, the worst it tells. The teacher has 2.27."""
APART = ("self-grafting", "depth to width")
"""Groups whose rows have names that say nothing without them."""


@dataclass(frozen=True)
class Judged:
    """A row of the study, over its seeds.

    Attributes:
        group, name: of the row.
        ratio: the mean over draws and seeds of its Frechet distance over the teacher's from the same noise.
        error: the standard error of that mean, of the draws of all seeds.
        accuracy: the share of samples seen as their class.
        params, flops: over the teacher's.
        seeds: how many trainings.
        paper: what the paper has of it over its teacher, for rows of Table 4; infinity where it is above 22.
    """

    group: str
    name: str
    ratio: float
    error: float
    accuracy: float
    params: float
    flops: float
    seeds: int
    paper: float | None = None

    @property
    def key(self) -> str:
        """What it is called in the results."""
        return f"{self.group}: {self.name}"

    @property
    def label(self) -> str:
        """What it is called beside rows of other groups."""
        return self.key if self.group in APART else self.name


class Results:
    """What `study.py` saved of a bench."""

    def __init__(self, bench: str) -> None:
        self.bench = bench
        self.saved: dict[str, Any] = json.loads((RESULTS / f"{bench}.json").read_text())
        self.teacher: list[float] = self.saved["teacher"]["frechet"]

    def rows(self) -> list[Judged]:
        """One for each row, in the order of the study."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for each in self.saved["rows"]:
            found.setdefault((each["group"], each["name"]), []).append(each)
        return [self._judged(group, name, each) for (group, name), each in found.items()]

    def _judged(self, group: str, name: str, runs: Sequence[dict[str, Any]]) -> Judged:
        ratios = [a / b for run in runs for a, b in zip(run["frechet"], self.teacher, strict=False)]
        share = {key: runs[0][key][1] / runs[0][key][0] for key in ("params", "flops")}
        accuracy = fmean(value for run in runs for value in run["accuracy"])
        error = stdev(ratios) / len(ratios) ** 0.5
        sizes = (share["params"], share["flops"], len(runs))
        return Judged(group, name, fmean(ratios), error, accuracy, *sizes, published(group, name))

    def made(self) -> str:
        """How many trainings there are, and on what they were run."""
        rows, missing = self.saved["rows"], self.saved["missing"]
        places = {f"{row['device']}, {_versions(row['origin'])}" for row in rows}
        return f"{len(rows)} of {len(rows) + len(missing)} trainings have been made, on {'; '.join(sorted(places))}."

    def not_made(self) -> str:
        """The trainings that are missing, a line for each group and seed."""
        groups: dict[tuple[str, int], list[str]] = {}
        for each in self.saved["missing"]:
            key, _, seed = each.rpartition(", seed ")
            group, _, name = key.partition(": ")
            groups.setdefault((group, int(seed)), []).append(name)
        rows = Counter(row.group for row in self.rows())
        said = {at: "all rows" if len(names) == rows[at[0]] else "; ".join(names) for at, names in groups.items()}
        return "\n".join(f"- {group}, seed {seed}: {names}" for (group, seed), names in said.items())

    def floor(self) -> float:
        """The standard deviation of the ratio of means of five draws of the teacher, from other noise."""
        relative = stdev(self.teacher) / fmean(self.teacher)
        return relative * (2 / 5) ** 0.5

    def spread(self) -> str:
        """By how much trainings of one row differ, as a share of their mean; all are judged by the same noise."""
        ratios: dict[tuple[str, str], list[float]] = {}
        for row in self.saved["rows"]:
            ratio = fmean(a / b for a, b in zip(row["frechet"], self.teacher, strict=False))
            ratios.setdefault((row["group"], row["name"]), []).append(ratio)
        several = [each for each in ratios.values() if len(each) > 1]
        if not several:
            return ""
        squares = sum((ratio / fmean(each) - 1) ** 2 for each in several for ratio in each)
        spread = (squares / sum(len(each) - 1 for each in several)) ** 0.5
        return (
            f"Trainings of a row from different seeds differ by {spread:.1%} (standard deviation, from "
            f"{len(several)} of the rows)."
        )


def _versions(origin: dict[str, Any]) -> str:
    threads = origin["threads"]
    named = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    return f"{threads} {'thread' if threads == 1 else 'threads'}, {named}"


def main() -> None:
    """Write the page."""
    benches = [Results(bench) for bench in BENCHES if (RESULTS / f"{bench}.json").exists()]
    parts = [part for results in benches for part in _bench(results)]
    (DOCS / "study.md").write_text("\n\n".join([HEAD.strip(), *parts]) + "\n")


def _bench(results: Results) -> Iterator[str]:
    rows = results.rows()
    ratios = {row.key: row.ratio for row in rows}
    teacher = results.teacher
    yield f"## {BENCHES[results.bench]}"
    yield (
        f"The teacher's Frechet distance is {fmean(teacher):.3f} in the mean of {len(teacher)} draws of 1,000 samples, "
        f"from {min(teacher):.3f} to {max(teacher):.3f}; its samples are seen as their class in "
        f"{fmean(results.saved['teacher']['accuracy']):.1%}. Two means of five of its own draws differ by "
        f"{results.floor():.1%} (standard deviation): the noise floor."
    )
    yield " ".join(filter(None, [results.made(), results.spread()]))
    for number, comparison in enumerate(COMPARISONS):
        if chosen := compared(comparison, rows):
            picture = f"images/study-{results.bench}-{number}.png"
            plots.draw(chosen, results.floor(), DOCS / picture)
            said = _read(comparison.reading.get(results.bench, ""), ratios)
            title = comparison.title
            yield "\n\n".join(filter(None, [f"### {title}", said, f"![{title}]({picture})", table(chosen)]))
    if missing := results.not_made():
        yield f"### Not run yet\n\n{missing}"


def _read(reading: str, ratios: dict[str, float]) -> str:
    """What is to be said, once all rows that it names are there."""
    try:
        return "\n".join(wrap(reading.format(ratios), WIDTH))
    except KeyError:
        return ""


def compared(comparison: Comparison, rows: Sequence[Judged]) -> list[Judged]:
    """The rows of a comparison under the names that they have there; none if it has none of its own."""
    own = sorted((row for row in rows if row.group in comparison.groups), key=_place)
    beside = [
        replace(row, group="", name=comparison.beside[row.key], paper=None)
        for row in rows
        if row.key in comparison.beside
    ]
    return [*beside, *own] if own else []


def _place(row: Judged) -> tuple[int, int]:
    """Rows of Table 4 by operator, before all others; then by the part of the layers, as far as they name one."""
    operator = len(PUBLISHED) if row.paper is None else [*PUBLISHED].index(row.name.partition(",")[0])
    return operator, int(row.name.split()[-2]) if row.name.endswith(" %") else 0


def table(rows: Sequence[Judged]) -> str:
    """The rows as Markdown, with the paper's figure where it has one."""
    head = ["student", "x teacher", "class", "parameters", "FLOPs", "seeds", "paper, x teacher"]
    lines = [[
        row.label, f"{row.ratio:.2f} ± {row.error:.2f}", f"{row.accuracy:.1%}", f"{row.params - 1:+.1%}",
        f"{row.flops - 1:+.1%}", str(row.seeds), _said(row.paper),
    ] for row in rows]  # fmt: skip
    if not any(line[-1] for line in lines):
        head, lines = head[:-1], [line[:-1] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def _said(paper: float | None) -> str:
    if paper is None:
        return ""
    return f"{paper:.2f}" if isfinite(paper) else f"> {WORST / TEACHER:.0f}"


def published(group: str, name: str) -> float | None:
    """What the paper has of a row over its teacher; infinity where that is above what it tells."""
    operator, _, part = name.partition(", ")
    if group != "Table 4" or operator not in PUBLISHED:
        return None
    fid = PUBLISHED[operator][("50 %", "75 %", "100 %").index(part)]
    return inf if fid is None else fid / TEACHER


if __name__ == "__main__":
    main()
