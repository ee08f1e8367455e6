"""Distilling an edit of several modules: what is new learns what the old modules made of the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

from torch import nn

from surgery.recording.binding import binder, unbind
from surgery.recording.state import own_class
from surgery.rewriting import Edit, Resizing, Rewiring
from surgery.rewriting.edit import below
from surgery.rewriting.replacement import Call, parse


def can_be_distilled(edit: Edit) -> bool:
    """Whether `edit` resizes modules, or rewires calls of modules only, which can be seen from outside."""
    anchors = [] if edit.place is None else [a for group in edit.place.nodes.values() for a in group]
    only_modules = all(anchor.op == "call_module" for anchor in anchors)
    return isinstance(edit.replacement, Resizing) or (isinstance(edit.replacement, Rewiring) and only_modules)


def region_of(teacher: nn.Module, student: nn.Module, edit: Edit) -> Region:
    """The parts of both models that `edit` is about; see `can_be_distilled`."""
    kind = ResizedRegion if isinstance(edit.replacement, Resizing) else RewiredRegion
    return kind(teacher, student, edit)


class Region(Protocol):
    """What an edit of several modules is in the teacher and in the student."""

    @property
    def modules(self) -> list[nn.Module]:
        """What learns."""

    def watch(self, hooks: ExitStack, done: Callable[[], None]) -> None:
        """While `hooks` is open, call `done` each time that the teacher has run its part."""

    def outcome(self) -> tuple[Any, Any]:
        """The new results on what the teacher's part has just been called with, and the old ones."""


class ResizedRegion:
    """The module around those that were replaced by others of other sizes, in both models."""

    def __init__(self, teacher: nn.Module, student: nn.Module, edit: Edit) -> None:
        self._teacher, self._student = teacher.get_submodule(edit.unit), student.get_submodule(edit.unit)
        self.modules = [student.get_submodule(path) for path in edit.paths]

    def watch(self, hooks: ExitStack, done: Callable[[], None]) -> None:
        """See `Region`."""

        def see(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            self._seen = args, kwargs, out
            done()

        hooks.enter_context(self._teacher.register_forward_hook(see, with_kwargs=True))

    def outcome(self) -> tuple[Any, Any]:
        """See `Region`."""
        args, kwargs, out = self._seen
        return self._student(*args, **kwargs), out


class RewiredRegion:
    """The matched modules of the teacher, and the new calls of the student."""

    def __init__(self, teacher: nn.Module, student: nn.Module, edit: Edit) -> None:
        assert isinstance(edit.replacement, Rewiring)
        assert edit.place is not None
        self._rewiring = edit.replacement
        self._edit, self._teacher, self._student = edit, teacher, student
        self._paths = {name: below(edit.place.scope, group[0].target) for name, group in edit.place.nodes.items()}
        self._seen: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {}
        self._made: dict[str, Any] = {}

    @property
    def modules(self) -> list[nn.Module]:
        """The new modules, and those that the new calls call again."""
        again = [self._paths[call.module] for call in self._rewiring.calls if call.module in self._paths]
        kept = [self._paths[name] for name in self._rewiring.read if name in self._paths]
        return [self._student.get_submodule(path) for path in (*self._edit.modules.values(), *again, *kept)]

    def watch(self, hooks: ExitStack, done: Callable[[], None]) -> None:
        """See `Region`: the teacher's part has run when all of the matched modules have."""
        for name, path in self._paths.items():
            hook = partial(self._see, name, done)
            hooks.enter_context(self._teacher.get_submodule(path).register_forward_hook(hook, with_kwargs=True))

    def _see(self, name: str, done: Callable[[], None], _: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        self._seen[name] = args, kwargs, out
        if len(self._seen) == len(self._paths):
            done()
            self._seen.clear()
            self._made.clear()

    def outcome(self) -> tuple[list[Any], list[Any]]:
        """See `Region`."""
        for call in self._rewiring.calls:
            self._made[call.name] = self._call(call)
        results = self._rewiring.results.items()
        return [self._value(new) for _, new in results], [self._taught(old) for old, _ in results]

    def _taught(self, value: str) -> Any:
        name, _, items = parse(value)
        return _item(self._seen[name][2], items)

    def _value(self, value: str) -> Any:
        name, argument, items = parse(value)
        if argument is not None:
            return _item(self._bound(name)[argument], items)
        if name not in self._made:  # a matched module that stays: the student's own, on the teacher's inputs
            args, kwargs, _ = self._seen[name]
            self._made[name] = self._student.get_submodule(self._paths[name])(*args, **kwargs)
        return _item(self._made[name], items)

    def _call(self, call: Call) -> Any:
        path = self._edit.modules.get(call.module) or self._paths[call.module]
        given = {name: self._value(value) for name, value in call.arguments.items()}
        if call.like is None:
            return self._student.get_submodule(path)(**given)
        cls = own_class(self._teacher.get_submodule(self._paths[call.like]))
        args, kwargs = unbind(cls, {**self._bound(call.like), **given}, len(self._seen[call.like][0]))
        return self._student.get_submodule(path)(*args, **kwargs)

    def _bound(self, name: str) -> dict[str, Any]:
        args, kwargs, _ = self._seen[name]
        return binder(own_class(self._teacher.get_submodule(self._paths[name])))(*args, **kwargs)


def _item(value: Any, items: Sequence[int | str]) -> Any:
    for item in items:
        value = value[item]
    return value
