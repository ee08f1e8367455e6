"""The base of everything that a user configures.

Constructors in a recipe run from the inside out, so the first wrong one would hide the others. While a recipe is being
loaded (`collecting_errors`), a wrong call notes its errors with file and line and gives a stand-in, so that all errors of
a recipe are reported together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from surgery.errors import ConfigError
from surgery.wording import Invalid, describe, positional

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

_collected: ContextVar[tuple[Path, list[str]] | None] = ContextVar("collected", default=None)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class _Noting(ModelMetaclass):
    """The metaclass of configs: a wrong call is noted while a recipe is being loaded, and else a ConfigError.

    As pydantic's own, it tells type checkers that the fields are the keywords of the constructor.
    """

    if not TYPE_CHECKING:  # a type checker would take it for every constructor

        def __call__(cls, *args, **kwargs):  # noqa: N805
            if args and cls.__init__ is BaseModel.__init__:
                return _note([positional(cls, args[0])])
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as error:
                wrong = describe(error, cls)
            return _note(wrong)


class Config(BaseModel, metaclass=_Noting):
    """A frozen pydantic model that refuses unknown keys and numbers that are not finite.

    It is the base of each part of a recipe and of operator configs.

    Raises:
        ConfigError: for wrong values, one line each; while a recipe is being loaded they are collected instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
