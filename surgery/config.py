"""The base of everything that a user configures.

Constructors in a recipe run from the inside out, so the first wrong one would hide the others. While a recipe is being
loaded (`collecting_errors`), a wrong call notes its errors with file and line and gives a stand-in, so that all errors of
a recipe are reported together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, dataclass_transform, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from surgery.errors import ConfigError
from surgery.wording import Invalid, describe, positional

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

PathText = Annotated[str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)]
"""A pydantic field for a path, or a name, that is kept as text."""
_collected: ContextVar[tuple[Path, list[str]] | None] = ContextVar("collected", default=None)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class _Noting(ModelMetaclass):
    """The metaclass of configs: a wrong call is noted while a recipe is being loaded, and else a ConfigError.

    As pydantic's own, it tells type checkers that the fields are the keywords of the constructor.
    """

    if not TYPE_CHECKING:  # a type checker would take it for every constructor

        def __call__(cls, *args, **kwargs):  # noqa: N805
            if len(args) == 1 and cls.unnamed and cls.unnamed not in kwargs:
                args, kwargs = (), {cls.unnamed: args[0], **kwargs}
            if args and cls.__init__ is BaseModel.__init__:
                return _note([positional(cls, args)])
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as error:
                wrong = describe(error, cls)
            return _note(wrong)


class Config(BaseModel, metaclass=_Noting):
    """A frozen pydantic model that refuses unknown keys, numbers that are not finite, and True and False for a number.

    It is the base of each part of a recipe and of operator configs.

    Attributes:
        unnamed: the field that is meant by a value without a name, if there is one.

    Raises:
        ConfigError: for wrong values, one line each; while a recipe is being loaded they are collected instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    unnamed: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _mark_truths(cls, values: Any) -> Any:
        numbers = _numbers_of(cls) if isinstance(values, dict) else ()
        return {**values, **{name: _marked(values[name]) for name in numbers if name in values}} if numbers else values


class _Truth:
    """Stands for True or False where a number is asked for: pydantic would take them for 1 and 0, and refuses this."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


def _marked(value: Any) -> Any:
    if isinstance(value, list | tuple):
        marked = [_marked(each) for each in value]
        return value if all(a is b for a, b in zip(marked, value, strict=True)) else marked
    if isinstance(value, dict):
        return {key: _marked(each) for key, each in value.items()}
    return _Truth(value) if isinstance(value, bool) else value


@cache
def _numbers_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields that are numbers, or hold some, and no truth values."""
    types = {name: [*_types_in(field.annotation)] for name, field in model.model_fields.items()}
    return tuple(name for name, found in types.items() if (int in found or float in found) and bool not in found)


def _types_in(annotation: Any) -> Iterator[Any]:
    """The types that a value, or what it holds, may be of; what is called holds none."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from map(type, parts)
    elif origin is Callable or not parts:
        yield annotation
    else:
        yield from (found for part in parts for found in _types_in(part))


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


def place(file: Path, frames: Iterable[tuple[str, int]]) -> str:
    """`file:line` of the first frame that runs the recipe `file` or a module beside it, else `file`.

    Args:
        file: the recipe.
        frames: file name and line each, the innermost first.
    """
    folder = file.parent.resolve()
    for name, line in frames:
        if name == str(file):
            return f"{file}:{line}"
        if Path(name).parent == folder:
            return f"{file.with_name(Path(name).name)}:{line}"
    return str(file)


def _note(wrong: list[str]) -> Invalid:
    """Add the errors of a call to those of the recipe that is being loaded, or raise them."""
    collected = _collected.get()
    if collected is None:
        raise ConfigError(wrong)
    file, lines = collected
    where = place(file, _running())
    lines += [f"{where}: {each}" for each in wrong]
    return Invalid()


def _running() -> Iterator[tuple[str, int]]:
    """File name and line of the frames that are being executed, the innermost first."""
    frame = sys._getframe()
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
