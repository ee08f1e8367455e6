"""Share: several modules become one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import nn

from surgery.errors import RewriteError
from surgery.recording.paths import outers
from surgery.rewriting.application import Application
from surgery.rewriting.edit import Change, Claims, Edit, Weights
from surgery.rewriting.lesson import Lesson, ModuleLesson
from surgery.rewriting.make import Maker
from surgery.rewriting.replacement import Sharing
from surgery.rewriting.site import Item, Site


class Share(Edit):
    """Modules of one structure share their weights from now on.

    Attributes:
        paths: of the modules; the first one takes the places of all.
    """

    made_by = Sharing

    kind: Literal["share"] = "share"
    replacement: Sharing
    paths: tuple[str, ...]

    @classmethod
    def plan(cls, application: Application, group: Sequence[Site], given: Sharing) -> list[Self]:
        """One, of all modules that matched."""
        site, facts = group[0], application.facts
        items = [item for item in site.items.values() if item.is_module]
        _require_one_structure(site, items)
        counts = {id(p): p.numel() for item in items for p in item.module.parameters()}  # once, if shared already
        flops = facts.runs[site.scope] * sum(item.part.flops for item in items)
        mixing = facts.runs[site.scope] * sum(item.part.flops_mixing for item in items)
        return [
            cls(
                path=site.path,
                rule=application.rule.name,
                layer=site.first.layer,
                replaced=site.operator.module_class,
                replacement=given,
                paths=tuple(dict.fromkeys(path for item in items for path in facts.places(item.module))),
                loss=application.rule.loss,
                params=Change(before=sum(counts.values()), after=site.operator.params),
                flops=Change(before=flops, after=flops),
                flops_mixing=Change(before=mixing, after=mixing),
            )
        ]

    @property
    def made(self) -> tuple[()]:
        """None: no operator is new."""
        return ()

    @property
    def new(self) -> tuple[str, ...]:
        """None: all weights are the teacher's, or means of such."""
        return ()

    @property
    def claims(self) -> Claims:
        """The modules; the scopes around them, which call all of them by the name of the first; and what is copied."""
        around = dict.fromkeys(scope for path in self.paths for scope in ("", *outers(path)[:-1]))
        return Claims(modules=self.paths, scopes=tuple(around), copied=self.paths, changed=self._changed)

    @property
    def _changed(self) -> tuple[str, ...]:
        """The modules that are not what they were: all but the first, or all, if their weights are averaged."""
        return self.paths if self.replacement.average else self.paths[1:]

    def weights(self, model: nn.Module) -> Weights:  # noqa: ARG002
        """All but one of the modules go; their mean, if wanted, is one more."""
        averaged = self.replacement.average
        return Weights(
            gone=self._changed,
            copied=self.paths[:1] if averaged else (),
            new=self.params.after if averaged else 0,
        )

    def make(self, maker: Maker) -> dict[str, nn.Module]:
        """The first module in the places of all; with the mean of their weights, if wanted."""
        modules = list(dict.fromkeys(map(maker.at, self.paths)))
        if self.replacement.average:
            mean = _mean(modules) if maker.inherits else copy.deepcopy(modules[0])
            return dict.fromkeys(self.paths, mean)
        return dict.fromkeys(self.paths[1:], modules[0])

    def lessons(self, teacher: nn.Module, student: nn.Module) -> list[Lesson]:
        """To give what the old one gave in each place."""
        return [ModuleLesson(teacher, student, path) for path in self.paths]


def _require_one_structure(site: Site, items: Sequence[Item]) -> None:
    """Raise RewriteError if the modules are fewer than two, or have other weights than the first."""
    shapes = [{n: tuple(p.shape) for n, p in item.module.state_dict().items()} for item in items]
    odd = next((item.path for item, shape in zip(items, shapes, strict=True) if shape != shapes[0]), None)
    if odd is not None or len({id(item.module) for item in items}) < 2:
        raise RewriteError(f"{site.path}: {odd or 'one module alone'} cannot share the weights of the first")


def _mean(modules: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first one with the mean of the weights of all."""
    mean = copy.deepcopy(modules[0])
    states = [module.state_dict() for module in modules]
    with torch.no_grad():
        for name, tensor in mean.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([state[name] for state in states]).mean(0))
    return mean
