"""Swap: one module gives way to a new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from torch import nn

from surgery.errors import RewriteError
from surgery.recording.parameters import first_floating
from surgery.rewriting.application import Application
from surgery.rewriting.edit import Change, Claims, Edit, Weights
from surgery.rewriting.lesson import Lesson, ModuleLesson
from surgery.rewriting.make import Maker, like
from surgery.rewriting.other_sizes import ToSize, at_each_size
from surgery.rewriting.replacement import Replacement
from surgery.rewriting.site import Site
from surgery.rewriting.trial import Cost, Trial, require_alike


class Swap(Edit):
    """A module is replaced by a new operator.

    Attributes:
        paths: of the module, which may stand in several places.
    """

    made_by = Replacement

    kind: Literal["swap"] = "swap"
    replacement: Replacement
    paths: tuple[str, ...]

    @classmethod
    def plan(cls, application: Application, group: Sequence[Site], given: Replacement) -> list[Self]:
        """One for the module wherever it is called; one for each of its places, if these are to be apart."""
        rule, facts, site = application.rule, application.facts, group[0]
        if not site.first.is_module:
            raise RewriteError(
                f"{site.path}: {rule.name} replaces a module, and this is none; "
                "let its check refuse such sites, or give a Rewiring"
            )
        if not application.is_first(site.module):
            return []
        group = application.calls(site.module)
        _require_everywhere(application, site, group)
        calls = [(each, _tried(application.trial, each, given)) for each in group]
        places = facts.places(site.module)
        if rule.shared == "apart" and len(group) > len(places):
            raise RewriteError(
                f"{site.path}: is called {len(group)} times but stands in {len(places)} place(s), so it cannot be taken "
                'apart; use shared="together"'
            )
        if rule.shared == "apart" and len(places) > 1:
            return [cls._at(application, given, (path,), calls[:1], n) for n, path in enumerate(places)]
        return [cls._at(application, given, tuple(places), calls, 0)]

    @classmethod
    def _at(
        cls,
        application: Application,
        replacement: Replacement,
        paths: tuple[str, ...],
        calls: Sequence[tuple[Site, Cost]],
        number: int,
    ) -> Self:
        """The edit at `paths`; of places apart, the one of that `number`, as the old module counts once."""
        site, new = calls[0]
        old, runs = site.operator, application.facts.runs
        return cls(
            path=paths[0] if number else site.path,
            rule=application.rule.name,
            layer=old.layer,
            replaced=old.module_class,
            replacement=replacement,
            paths=paths,
            loss=application.rule.loss,
            params=Change(before=0 if number else old.params, after=new.params),
            flops=Change.total(
                Change(before=each.node.meta["flops"], after=cost.flops).times(runs[each.scope]) for each, cost in calls
            ),
            flops_mixing=Change.total(
                Change(before=old.flops_mixing, after=cost.flops_mixing).times(runs[each.scope]) for each, cost in calls
            ),
        )

    @property
    def made(self) -> tuple[Replacement]:
        """The one that takes the place."""
        return (self.replacement,)

    @property
    def new(self) -> tuple[str, ...]:
        """Its first path: all are one module."""
        return self.paths[:1]

    @property
    def claims(self) -> Claims:
        """The module."""
        return Claims(modules=self.paths, changed=self.paths)

    def weights(self, model: nn.Module) -> Weights:  # noqa: ARG002
        """Those of the old module go, those of the new one come."""
        return Weights(gone=self.paths, copied=(), new=self.params.after)

    def make(self, maker: Maker) -> dict[str, nn.Module]:
        """The new module, in all places."""
        old = maker.at(self.paths[0])
        new = maker.initialised(self.path, self.paths[0], self.replacement, [old], like(old))
        return dict.fromkeys(self.paths, new)

    def lessons(self, teacher: nn.Module, student: nn.Module) -> list[Lesson]:
        """To give what the old module gives."""
        return [ModuleLesson(teacher, student, self.paths[0])]


def _require_everywhere(application: Application, site: Site, calls: Sequence[Site]) -> None:
    """Raise RewriteError if the rule does not fit another call of the module at `site`."""
    for other in calls:
        if reason := application.refusal(other):
            raise RewriteError(
                f"{site.path}: is also {other.path}, where {application.rule.name} does not fit: {reason}"
            )


def _tried(trial: Trial, site: Site, replacement: Replacement) -> Cost:
    """What the new module costs at `site`, where it is run at the traced sizes and at others.

    Raises:
        RewriteError: it fails, or gives another shape or dtype than the module that it replaces.
    """
    new = trial.module(site.path, replacement, first_floating(site.module))

    def run(resize: ToSize) -> Cost:
        args, kwargs, expected = resize((*site.arguments, site.result))
        result, cost = trial.run(site.path, replacement, new, args, kwargs)
        require_alike(site.path, result, expected, replacement.operator.kind)
        return cost

    return at_each_size(site.operator.in_shape, run, replacement.operator.takes_any_length)[0]
