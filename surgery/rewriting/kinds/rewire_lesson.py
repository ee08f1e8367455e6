"""What a rewiring learns: its new calls, on the teacher's activations, give what the matched modules gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

from surgery.recording.binding import call_of, named
from surgery.recording.state import own_class
from surgery.rewriting.evaluator import Evaluator
from surgery.rewriting.replacement import Call, Rewiring

Seen = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional and keyword arguments of a call, and its result."""


class CallsLesson:
    """The new calls of the student against the matched modules of the teacher.

    Args:
        teacher, student: the models.
        path: of the edit.
        rewiring: its new calls.
        matched: the paths of the matched modules by name.
        new: the paths of the new modules by name.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, path: str, rewiring: Rewiring, matched: Mapping[str, str],
        new: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.path = path
        self._rewiring = rewiring
        self._old = {name: teacher.get_submodule(at) for name, at in matched.items()}
        self._student = {name: student.get_submodule(at) for name, at in {**matched, **new}.items()}
        self.called = list(self._student.values())
        learn = (*new, *(call.module for call in rewiring.calls), *rewiring.read)
        self.modules = [self._student[name] for name in dict.fromkeys(learn) if name in self._student]
        self._seen: dict[str, Seen] = {}

    def watch(self, hooks: ExitStack, done: Callable[[], None]) -> None:
        """See `Lesson`: the teacher's part has run when all of the matched modules have."""
        for name, module in self._old.items():
            hooks.enter_context(module.register_forward_hook(partial(self._see, name, done), with_kwargs=True))

    def _see(self, name: str, done: Callable[[], None], _: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        self._seen[name] = args, kwargs, out
        if len(self._seen) == len(self._old):
            done()
            self._seen.clear()

    def outcome(self) -> tuple[list[Any], list[Any]]:
        """See `Lesson`."""
        taught = _Activations(self._old, self._seen)
        learnt = _Learnt(self._old, self._seen, self._student)
        learnt.make(self._rewiring.calls)
        results = self._rewiring.results.items()
        return [learnt.of(new) for _, new in results], [taught.of(old) for old, _ in results]


class _Activations(Evaluator):
    """The teacher's own."""

    def __init__(self, modules: Mapping[str, nn.Module], seen: Mapping[str, Seen]) -> None:
        super().__init__()
        self._modules, self._seen = modules, seen

    def result(self, name: str) -> Any:
        """What the teacher's module gave."""
        return self._seen[name][2]

    def arguments(self, name: str) -> dict[str, Any]:
        """What the teacher's module was called with."""
        args, kwargs, _ = self._seen[name]
        return named(own_class(self._modules[name]), args, kwargs)

    def where(self, name: str) -> str:
        """Its class."""
        return type(self._modules[name]).__name__

    def call(self, call: Call, given: dict[str, Any]) -> Any:
        """None: the teacher makes no new calls."""
        raise NotImplementedError


class _Learnt(_Activations):
    """The student's, on what the teacher's modules were called with."""

    def __init__(
        self, modules: Mapping[str, nn.Module], seen: Mapping[str, Seen], student: Mapping[str, nn.Module]
    ) -> None:
        super().__init__(modules, seen)
        self._student = student

    def result(self, name: str) -> Any:
        """A matched module that stays: the student's own, on the teacher's inputs, run once."""
        if name not in self.made:
            args, kwargs, _ = self._seen[name]
            self.made[name] = self._student[name](*args, **kwargs)
        return self.made[name]

    def call(self, call: Call, given: dict[str, Any]) -> Any:
        """What the student's module gives."""
        module = self._student[call.module]
        if call.like is None:
            return module(**given)
        like, positional = own_class(self._modules[call.like]), len(self._seen[call.like][0])
        args, kwargs = call_of(like, {**self.arguments(call.like), **given}, positional)
        return module(*args, **kwargs)
