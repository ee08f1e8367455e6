"""Figures of an analysis by their names, in the selections of a recipe: `top("locality", 12)`."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from surgery.config import Config
from surgery.errors import MatchError
from surgery.rewriting.site import Site
from surgery.wording import did_you_mean


class Figure(Config):
    """A figure of a site: that of its operator, or else of its layer. See `surgery analyze` for what there is.

    Attributes:
        figure: its name.
        least: whether the smallest count as the largest.
    """

    figure: str
    least: bool = False

    def __call__(self, site: Site) -> float:
        """The figure of `site`; its negative if the least count.

        Raises:
            MatchError: the graph has no figures, or not this one here.
        """
        number = figure_of(site, self.figure)
        return -number if self.least else number

    def __str__(self) -> str:
        return repr(self.figure)


class Between(Config):
    """That a figure of a site is larger, or smaller, than a number.

    Attributes:
        figure: its name, see `Figure`.
        above, below: what it must be larger and smaller than; None asks for nothing.
    """

    figure: str
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError(f"say how large {self.figure!r} is to be, with above= or below=")
        return self

    def __call__(self, site: Site) -> bool:
        """Whether it holds of `site`; raises as `Figure`."""
        number = figure_of(site, self.figure)
        return (self.above is None or number > self.above) and (self.below is None or number < self.below)

    def __str__(self) -> str:
        bounds = {"above": self.above, "below": self.below}
        return ", ".join([repr(self.figure), *(f"{n}={b:g}" for n, b in bounds.items() if b is not None)])


def figure_of(site: Site, name: str) -> float:
    """The figure `name` of the operator at `site`, or else of the block that it is or stands in.

    Raises:
        MatchError: the graph has no figures, or not this one here.
    """
    known = site.graph.figures
    blocks = {number: path for path, number in site.graph.layers.items()}
    places = [site.first.path, blocks.get(site.first.layer if site.first.layer is not None else -1, "")]
    found = next((known[place][name] for place in places if name in known.get(place, {})), None)
    if found is not None:
        return found
    if not known:
        raise MatchError(
            f"{name!r} of {site.path} is a figure of an analysis, and this graph has none; plan a recipe, or set "
            "graph.figures"
        )
    names = sorted({each for figures in known.values() for each in figures})
    raise MatchError(f"{site.path} has no figure {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
