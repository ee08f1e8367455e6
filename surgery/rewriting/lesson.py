"""What new modules learn in distillation: to make of the teacher's activations what the old ones made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Protocol

from torch import nn

from surgery.errors import RewriteError


class Lesson(Protocol):
    """What is to be learnt at one place.

    Attributes:
        path: of the place; names the loss.
        modules: those of the student that learn.
        called: those of the student that are called for the outcome.
    """

    path: str
    modules: list[nn.Module]
    called: list[nn.Module]

    def watch(self, hooks: ExitStack, done: Callable[[], None]) -> None:
        """While `hooks` is open, call `done` each time that the teacher has run its part."""

    def outcome(self) -> tuple[Any, Any]:
        """The new results on what the teacher's part has just been called with, and the old ones."""


class ModuleLesson:
    """The module at `path` of the student learns what the teacher's module there gives.

    Args:
        teacher, student: the models.
        path: of the module in both.
        learning: paths of the modules in the student that learn; by default all of it.

    Raises:
        RewriteError: one of the models has no such module.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, path: str, learning: Iterable[str] | None = None
    ) -> None:
        self.path = path
        self._teacher, self._student = _submodule(teacher, path, "teacher"), _submodule(student, path, "student")
        self.called = [self._student]
        self.modules = [self._student] if learning is None else [_submodule(student, p, "student") for p in learning]

    def watch(self, hooks: ExitStack, done: Callable[[], None]) -> None:
        """See `Lesson`."""

        def see(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            self._seen = args, kwargs, out
            done()
            del self._seen

        hooks.enter_context(self._teacher.register_forward_hook(see, with_kwargs=True))

    def outcome(self) -> tuple[Any, Any]:
        """See `Lesson`."""
        args, kwargs, out = self._seen
        return self._student(*args, **kwargs), out


def _submodule(model: nn.Module, path: str, role: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise RewriteError(
            f"site {path} does not exist in the {role}, a {type(model).__name__}: check the path"
        ) from error
