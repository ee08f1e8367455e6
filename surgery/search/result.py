"""What a search found: the content of `search.json`."""

from __future__ import annotations

from surgery.config import Config
from surgery.evaluate.results import Column

Value = int | float | None


class Limited(Config):
    """A limit of the budget, in milliseconds or as a count: the most that a student may cost, and the teacher's cost."""

    limit: float
    teacher: float


class Option(Config):
    """A candidate.

    Attributes:
        key: number of the rule in the recipe and of the layer, "0-3".
        rule: its name.
        layer: None outside of blocks.
        paths: what its edits change.
        harm: how much worse the model predicts, see `surgery.search.harm`.
        change: what it adds to each cost.
    """

    key: str
    rule: str
    layer: int | None
    paths: tuple[str, ...]
    harm: float
    change: dict[str, float]


class Judged(Config):
    """A set of the shortlist.

    Attributes:
        why: how it was found.
        candidates: by their keys.
        harm: the sum of theirs.
        cost: of the student, as predicted.
        metrics: of the student after its short finetuning.
    """

    why: str
    candidates: tuple[str, ...]
    harm: float
    cost: dict[str, float]
    metrics: dict[str, Value]


class SearchResult(Config):
    """What a search found.

    Attributes:
        recipe: its name.
        model: the teacher.
        budget: by cost.
        candidates: in the order of rules and layers.
        frontier: what the first limited cost is and the least harm at which it can be had, from the smallest cost on.
        metric: the name of the one that the shortlist is judged by.
        columns: how each metric is shown, by name.
        teacher: the teacher's metrics.
        shortlist: in the order of their estimates.
        chosen: which of these is the best by the metric.
    """

    recipe: str
    model: str
    budget: dict[str, Limited]
    candidates: tuple[Option, ...]
    frontier: tuple[tuple[float, float], ...]
    metric: str
    columns: dict[str, Column]
    teacher: dict[str, Value]
    shortlist: tuple[Judged, ...]
    chosen: int

    @property
    def best(self) -> Judged:
        """The set that the written recipe makes."""
        return self.shortlist[self.chosen]
