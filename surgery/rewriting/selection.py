"""Which of the sites that a pattern matched a rule applies to: `every(2) & ~indices(1)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from surgery.config import Config
from surgery.errors import ConfigError, MatchError
from surgery.rewriting.blame import asked, number
from surgery.rewriting.figures import Between, Figure
from surgery.rewriting.function import AS_FUNCTION, name_of
from surgery.rewriting.site import Site

Predicate = Annotated[Callable[[Site], bool], *AS_FUNCTION]
Metric = Annotated[Callable[[Site], float], *AS_FUNCTION]


class _Selection(Config, ABC):
    """Base of selections; `&`, `|` and `~` compose them."""

    @abstractmethod
    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths of the chosen ones of `sites`, all of one graph.

        Raises:
            MatchError: a layer is named that the model does not have.
        """

    def figures(self) -> set[str]:
        """The names of the figures of an analysis that it asks for."""
        parts = (value for _, value in self if isinstance(value, _Selection))
        return set[str]().union(*(part.figures() for part in parts))

    def __bool__(self) -> bool:
        """Refused: `every(2) and not indices(1)` would silently mean one of both."""
        how = "write & for and, | for or, ~ for not, and `is None` to ask whether there is one"
        raise ConfigError([f"a selection is neither true nor false: {how}"])

    def __and__(self, other: _Selection) -> Both:
        return Both(left=self, right=other)  # type: ignore[arg-type]  # any subclass is in the union

    def __or__(self, other: _Selection) -> Either:
        return Either(left=self, right=other)  # type: ignore[arg-type]

    def __invert__(self) -> Not:
        return Not(inner=self)  # type: ignore[arg-type]


class AllLayers(_Selection):
    """Every site, those outside of blocks too."""

    kind: Literal["all"] = "all"

    def select(self, sites: Sequence[Site]) -> set[str]:
        """All paths."""
        return {site.path for site in sites}

    def __str__(self) -> str:
        return "all_layers()"


class Every(_Selection):
    """The last of each group of `n` layers, or the one `first`; layers of the model, or those that `of` chooses from."""

    kind: Literal["every"] = "every"
    n: PositiveInt
    first: NonNegativeInt | None = None
    of: Selection | None = None

    @model_validator(mode="after")
    def _is_in_the_group(self) -> Self:
        if self.first is not None and self.first >= self.n:
            raise ValueError(f"first must be less than n, got first={self.first}, n={self.n}")
        return self

    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths in every n-th layer."""
        layers = numbers = {site.path: site.first.layer for site in sites if site.first.layer is not None}
        if self.of is not None:
            layers = {path: layers[path] for path in layers.keys() & self.of.select(sites)}
            counted = sorted(set(layers.values()))
            numbers = {path: counted.index(layer) for path, layer in layers.items()}
        place = self.n - 1 if self.first is None else self.first
        return {path for path, number in numbers.items() if number % self.n == place}

    def __str__(self) -> str:
        first = "" if self.first is None else f", first={self.first}"
        return f"every({self.n}{first}{'' if self.of is None else f', of={self.of}'})"


class ThreeOfFour(_Selection):
    """All but the first of each group of four layers: the paper's 75 %, which contains `every(2)`."""

    kind: Literal["three_of_four"] = "three_of_four"

    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths in layers 1, 2, 3, 5, 6, 7, ..."""
        return {s.path for s in sites if s.first.layer is not None and s.first.layer % 4}

    def __str__(self) -> str:
        return "three_of_four()"


class Indices(_Selection):
    """The layers listed."""

    kind: Literal["indices"] = "indices"
    layers: tuple[int, ...] = Field(min_length=1)

    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths in these layers; MatchError if the model has no such layer."""
        there = set(sites[0].graph.layers.values()) if sites else set(self.layers)
        missing = sorted(set(self.layers) - there)
        if missing:
            known = f"0 to {max(there)}" if there else "none"
            raise MatchError(f"{self}: no such layer: {', '.join(map(str, missing))}; the model's layers are {known}")
        return {site.path for site in sites if site.first.layer in self.layers}

    def __str__(self) -> str:
        return f"indices({', '.join(map(str, self.layers))})"


class Where(_Selection):
    """The sites of which a function holds, or a figure of an analysis lies between two numbers.

    JSON names a function; only one at the top of a module is read back.
    """

    kind: Literal["where"] = "where"
    predicate: Between | Predicate

    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths of which the function holds."""
        return {site.path for site in sites if asked(f"{self} at {site.path}", self.predicate, site, bool)}

    def figures(self) -> set[str]:
        """See `_Selection`."""
        return {self.predicate.figure} if isinstance(self.predicate, Between) else set()

    def __str__(self) -> str:
        return f"where({_shown(self.predicate)})"


class Top(_Selection):
    """The `n` sites with the largest numbers by a function or an analysis, of equal ones the earlier; see `Where`."""

    kind: Literal["top"] = "top"
    n: PositiveInt
    metric: Figure | Metric

    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths of the first `n` by the metric."""
        ranked = sorted(
            sites, key=lambda site: asked(f"{self} at {site.path}", self.metric, site, number), reverse=True
        )
        return {site.path for site in ranked[: self.n]}

    def figures(self) -> set[str]:
        """See `_Selection`."""
        return {self.metric.figure} if isinstance(self.metric, Figure) else set()

    def __str__(self) -> str:
        least = ", least=True" if isinstance(self.metric, Figure) and self.metric.least else ""
        return f"top({_shown(self.metric)}, {self.n}{least})"


class Both(_Selection):
    """What two selections have in common."""

    kind: Literal["and"] = "and"
    left: Selection
    right: Selection

    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths that both choose."""
        return self.left.select(sites) & self.right.select(sites)

    def __str__(self) -> str:
        return f"({self.left} & {self.right})"


class Either(_Selection):
    """What one of two selections chooses, or both."""

    kind: Literal["or"] = "or"
    left: Selection
    right: Selection

    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths that one chooses."""
        return self.left.select(sites) | self.right.select(sites)

    def __str__(self) -> str:
        return f"({self.left} | {self.right})"


class Not(_Selection):
    """What a selection leaves."""

    kind: Literal["not"] = "not"
    inner: Selection

    def select(self, sites: Sequence[Site]) -> set[str]:
        """The paths that it does not choose."""
        return {site.path for site in sites} - self.inner.select(sites)

    def __str__(self) -> str:
        return f"~{self.inner}"


def _no_python_value(value: Any) -> Any:
    """Refuse what `and`, `or` and `not` give, and lists of numbers, saying how selections are written."""
    if isinstance(value, bool | int | list | tuple):
        raise ValueError("must be a selection such as every(2) or indices(0, 3), composed by &, | and ~")
    return value


Selection = Annotated[
    AllLayers | Every | ThreeOfFour | Indices | Where | Top | Both | Either | Not,
    Field(discriminator="kind"),
    BeforeValidator(_no_python_value),
]

for _composed in (Every, Both, Either, Not):
    _composed.model_rebuild()


def all_layers() -> AllLayers:
    """Select every site."""
    return AllLayers()


def given_or_all(layers: Selection | None) -> Selection:
    """`layers`; every site if they are None."""
    return all_layers() if layers is None else layers


def every(n: int, first: int | None = None, of: Selection | None = None) -> Every:
    """Select the last of each group of `n` layers (every second layer for n = 2: layers 1, 3, 5, ...).

    Args:
        n: layers of a group.
        first: the first layer to select, less than n; by default n - 1.
        of: the layers that are counted, by default all of the model: `every(2, of=~indices(0))`.
    """
    return Every(n=n, first=first, of=of)


def three_of_four() -> ThreeOfFour:
    """Select three of each group of four layers, the paper's 75 %: layers 1, 2, 3, 5, 6, 7, ..."""
    return ThreeOfFour()


def indices(*layers: int) -> Indices:
    """Select the layers with these numbers, counted from 0 in execution order."""
    return Indices(layers=layers)


def where(predicate: Predicate | str, *, above: float | None = None, below: float | None = None) -> Where:
    """Select the sites of which `predicate` holds, e.g. `where(lambda site: site.operator.params > 10**6)`.

    Args:
        predicate: a function of a site; or the name of a figure of an analysis, as in `where("locality", above=0.5)`.
        above, below: what that is to be larger and smaller than.
    """
    if isinstance(predicate, str):
        return Where(predicate=Between(figure=predicate, above=above, below=below))
    if above is not None or below is not None:
        raise ConfigError(["where: above= and below= are for the name of a figure, not for a function"])
    return Where(predicate=predicate)


def top(metric: Metric | str, n: int, *, least: bool = False) -> Top:
    """Select the `n` sites with the largest `metric`, e.g. `top(lambda site: site.operator.flops, 4)`.

    Args:
        metric: a function of a site; or the name of a figure of an analysis, as in `top("locality", 12)`.
        n: how many.
        least: take those with the smallest figure.
    """
    if isinstance(metric, str):
        return Top(n=n, metric=Figure(figure=metric, least=least))
    if least:
        raise ConfigError(["top: least= is for the name of a figure; let a function give the negative"])
    return Top(n=n, metric=metric)


def _shown(asked: Any) -> str:
    return str(asked) if isinstance(asked, Figure | Between) else name_of(asked)
