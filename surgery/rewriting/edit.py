"""Edits: what a plan consists of and what a student remembers, as plain data."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from surgery.config import Config
from surgery.losses import LossName
from surgery.rewriting.kinds.anchors import Place
from surgery.rewriting.kinds.rewire_graph import Bound
from surgery.rewriting.replacement import AnyReplacement, Copy, Resizing, Rewiring, Sharing


class Change(Config):
    """A count before and after."""

    before: int
    after: int


class Edit(Config):
    """One edit at one site.

    Attributes:
        path: of the module that is replaced, or of all that matched, joined by " + ".
        rule: name of the rule.
        layer: number of its block, None outside of blocks.
        replaced: class of the old module, or of the old modules.
        replacement: what takes the place.
        paths: of the modules that are replaced (several for a module that stands in several places), shared or, by a
            rewiring, taken out.
        place: of a rewiring, the nodes that matched.
        modules: of a rewiring, the paths of the new modules by name; of a resizing, those of the replaced ones.
        loss: of its distillation.
        params, flops: parameters, and floating point operations of the calls on the traced inputs.
        flops_mixing: those of mixing tokens, without projections and featuriser filters, as the paper's table counts.
    """

    path: str
    rule: str
    layer: int | None
    replaced: str
    replacement: AnyReplacement
    paths: tuple[str, ...]
    place: Place | None = None
    modules: dict[str, str] = Field(default={})
    loss: LossName
    params: Change
    flops: Change
    flops_mixing: Change

    @property
    def label(self) -> str:
        """What takes the place, in a word: the class of an operator's config, or the kind of edit."""
        if isinstance(self.replacement, Rewiring | Resizing):
            new = [m for m in self.replacement.modules.values() if not isinstance(m, Copy)]
            return type(new[0].operator).__name__ if new else self.rule
        operator = getattr(self.replacement, "operator", None)
        return type(operator).__name__ if operator is not None else self.rule

    @property
    def unit(self) -> str:
        """The path of the module that is replaced, or that holds all that matched."""
        return self.path.partition(":")[0]

    @property
    def copied(self) -> tuple[str, ...]:
        """Paths of the modules whose structure or weights it copies to other places."""
        if not isinstance(self.replacement, Rewiring) or self.place is None:
            return self.paths if isinstance(self.replacement, Sharing) else ()
        named = [module.of for module in self.replacement.modules.values() if isinstance(module, Copy)]
        return tuple(below(self.place.scope, self.place.nodes[name][0].target) for name in named)

    @property
    def changed(self) -> tuple[str, ...]:
        """Paths of the modules that are not what they were afterwards; of those that share weights, the first one is."""
        if isinstance(self.replacement, Sharing) and not self.replacement.average:
            return self.paths[1:]
        return self.paths if self.place is None else (*self.paths, self.place.scope)

    def bound(self) -> Bound:
        """The rewiring at its place."""
        assert isinstance(self.replacement, Rewiring)
        assert self.place is not None
        scope = f"{self.place.scope}." if self.place.scope else ""
        return Bound(self.replacement, self.place, {n: path.removeprefix(scope) for n, path in self.modules.items()})


def below(path: str, name: str) -> str:
    """The path of what is called `name` in the module at `path`."""
    return f"{path}.{name}" if path else name


def rewired_scopes(edits: Iterable[Edit]) -> dict[str, list[Bound]]:
    """The rewirings among `edits`, by the scope whose graph they change."""
    found: dict[str, list[Bound]] = {}
    for edit in edits:
        if edit.place is not None:
            found.setdefault(edit.place.scope, []).append(edit.bound())
    return found
