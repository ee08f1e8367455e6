"""The base of everything that a user configures.

Constructors in a recipe run from the inside out, so the first wrong one would hide the others. While a recipe is being
loaded (`collecting_errors`), a wrong call notes its errors with file and line and gives a stand-in, so that all errors of
a recipe are reported together.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic._internal._model_construction import ModelMetaclass

_collected: ContextVar[tuple[Path, list[str]] | None] = ContextVar("collected", default=None)


class Invalid:
    """Stands for a part of a recipe whose errors are noted already."""


class _Noting(ModelMetaclass):
    """The metaclass of configs: what a wrong call does depends on whether a recipe is being loaded."""

    def __call__(cls: type[BaseModel], *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]  # noqa: N805
        try:
            return ModelMetaclass.__call__(cls, *args, **kwargs)
        except ValidationError as error:
            collected = _collected.get()
            if collected is None:
                raise
            file, lines = collected
            lines += [f"{file}:{_line_in(file)}: {line}" for line in describe(error, cls)]
            return Invalid()


class Config(BaseModel, metaclass=_Noting):
    """A frozen pydantic model that refuses unknown keys: base of each part of a recipe and of operator configs."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@contextmanager
def collecting_errors(file: Path) -> Iterator[list[str]]:
    """While open, wrong constructor calls add to the list given instead of raising.

    Args:
        file: the recipe, whose line is named.
    """
    lines: list[str] = []
    token = _collected.set((file, lines))
    try:
        yield lines
    finally:
        _collected.reset(token)


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each error, e.g. `Distil: unknown key 'stepz', did you mean 'steps'?`."""
    lines = [_describe(each, model) for each in error.errors(include_url=False) if not _is_noted(each)]
    return list(dict.fromkeys(lines))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` if a known word is near, else the known words."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f", did you mean {near[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""


def _is_noted(error: Any) -> bool:
    return isinstance(error["input"], Invalid)


def _describe(error: Any, model: type[BaseModel]) -> str:
    *parents, last = error["loc"] or ("",)
    where = ".".join(map(str, (model.__name__, *parents)))
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {last!r}{did_you_mean(str(last), _fields(model, parents))}"
    if error["type"] == "missing":
        return f"{where}: {last!r} is missing"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should be", "must be")
    name = f"{where}.{last}" if last != "" else where
    return f"{name}: {message}, got {_short(error['input'])}"


def _fields(model: Any, parents: Iterable[Any]) -> list[str]:
    """The fields of the part of `model` that `parents` lead to."""
    for parent in parents:
        field = getattr(model, "model_fields", {}).get(parent)
        model = field.annotation if field is not None else None
    return list(getattr(model, "model_fields", {}))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line_in(file: Path) -> int:
    """The line of the recipe that is being executed."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == str(file):
            return frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return 1
