"""Edits: what a plan consists of and what a student remembers, as plain data.

An edit is of one of several kinds. Each kind is a class with a `kind`, which is known once it is defined, and answers for
all that is particular to it; what it has to say is declared here, and nothing outside of its file tells kinds apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, SerializeAsAny
from torch import nn

from surgery.config import Config
from surgery.kinds import Kinded
from surgery.losses import LossName
from surgery.operators.base import OperatorConfig
from surgery.recording.paths import module_part
from surgery.rewriting.application import Application
from surgery.rewriting.graphs.rewired import Bound
from surgery.rewriting.lesson import Lesson
from surgery.rewriting.make import Maker
from surgery.rewriting.replacement import New, Replacement
from surgery.rewriting.site import Site


class Change(Config):
    """A count before and after."""

    before: int
    after: int

    def times(self, runs: int) -> Change:
        """That of `runs` calls."""
        return Change(before=runs * self.before, after=runs * self.after)

    @staticmethod
    def total(changes: Iterable[Change]) -> Change:
        """The sum."""
        listed = list(changes)
        return Change(before=sum(c.before for c in listed), after=sum(c.after for c in listed))


class Skipped(Config):
    """A site that a rule's pattern matched and that it leaves alone."""

    path: str
    rule: str
    layer: int | None
    reason: str


@dataclass(frozen=True)
class Claims:
    """What an edit needs for itself; two edits conflict if these meet.

    Attributes:
        modules: paths of what it replaces, shares or takes out.
        nodes: what it changes in graphs.
        scopes: paths of the modules whose graphs it changes.
        calls: paths of the modules that it is proven with as they are.
        ended: paths of the modules of which it takes a call out.
        resized: paths of the modules that get other sizes.
        whole: paths of the modules that were run as a whole to prove it.
        copied: paths of the modules whose structure or weights it copies to other places.
        changed: paths of the modules that are not what they were afterwards.
    """

    modules: tuple[str, ...] = ()
    nodes: tuple[object, ...] = ()
    scopes: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """What an edit does to the weights of a model.

    Attributes:
        gone: paths of the modules that are not in their places any more.
        copied: paths of the modules of which there is one more.
        new: how many parameters are new, those of copies among them.
    """

    gone: tuple[str, ...]
    copied: tuple[str, ...]
    new: int


class Edit(Kinded, ABC):
    """One edit at one site.

    Attributes:
        path: of the module that is replaced, or of all that matched, joined by " + ".
        rule: name of the rule.
        layer: number of its block, None outside of blocks.
        replaced: class of the old module, or of the old modules.
        replacement: what takes the place.
        loss: of its distillation.
        params, flops: parameters, and floating point operations of the calls on the traced inputs.
        flops_mixing: those of mixing tokens, without projections and featuriser filters, as the paper's table counts.
    """

    made_by: ClassVar[type[Config]]
    """The right-hand side of a rule that edits of this kind are planned for."""

    path: str
    rule: str
    layer: int | None
    replaced: str
    replacement: SerializeAsAny[Config]
    loss: LossName
    params: Change
    flops: Change
    flops_mixing: Change

    @classmethod
    @abstractmethod
    def plan(cls, application: Application, group: Sequence[Site], given: Any) -> Sequence[Self]:
        """The edits of one rule at `group`, the calls of one and the same module, or a single match of anything else.

        Args:
            application: the rule, the model, and what has been planned.
            group: the sites.
            given: what the rule puts at the first of them.

        Raises:
            RewriteError: it does not fit.
        """

    @property
    def unit(self) -> str:
        """The path of the module that is replaced, or that holds all that matched."""
        return module_part(self.path)

    @property
    def label(self) -> str:
        """What takes the place, in a word: the class of an operator's config, or the rule."""
        return type(self.operators[0]).__name__ if self.operators else self.rule

    @property
    @abstractmethod
    def made(self) -> tuple[Replacement | New, ...]:
        """The new operators with their sizes."""

    @property
    def operators(self) -> tuple[OperatorConfig, ...]:
        """The configs of the new operators."""
        return tuple(new.operator for new in self.made)

    @property
    @abstractmethod
    def new(self) -> tuple[str, ...]:
        """The paths, in the student, of the modules with weights that the teacher has not."""

    @property
    def added(self) -> Mapping[str, str]:
        """The paths of the modules that come to where none stood, by the names that the rule gives them."""
        return {}

    @property
    def rewired(self) -> Bound | None:
        """What becomes of the graph of a scope."""
        return None

    @property
    @abstractmethod
    def claims(self) -> Claims:
        """What may meet another edit's."""

    @abstractmethod
    def weights(self, model: nn.Module) -> Weights:
        """What it does to the weights of `model`, the teacher."""

    @abstractmethod
    def make(self, maker: Maker) -> dict[str, nn.Module]:
        """What it puts into the student, by path.

        Raises:
            RewriteError: a module that it needs is not there, or cannot be inherited from.
        """

    @abstractmethod
    def lessons(self, teacher: nn.Module, student: nn.Module) -> list[Lesson]:
        """What its new modules are to learn in distillation; none, if it has no new weights."""


AnyEdit = Annotated[SerializeAsAny[Edit], BeforeValidator(Edit.from_data)]
"""A pydantic field for an edit of any kind."""


def new_paths(edits: Iterable[Edit]) -> list[str]:
    """The paths, in the student, of the modules with weights that the teacher has not."""
    return [path for edit in edits for path in edit.new]


def rewired_scopes(edits: Iterable[Edit]) -> dict[str, list[Bound]]:
    """What `edits` do to graphs, by the path of the scope."""
    found: dict[str, list[Bound]] = {}
    for bound in (edit.rewired for edit in edits):
        if bound is not None:
            found.setdefault(bound.place.scope, []).append(bound)
    return found
