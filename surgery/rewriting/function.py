"""A function as a field of a config: JSON names it by module and name, and it is found there again, never imported."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from operator import attrgetter
from types import CodeType, FunctionType
from typing import Any

from pydantic import BeforeValidator, PlainSerializer


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called, to read."""
    return str(getattr(function, "__qualname__", None) or function)


def _to_json(function: Callable[..., Any]) -> str:
    """`module:name`; with a digest of its code after it, if no module has the function by that name."""
    if not isinstance(function, FunctionType):
        return repr(function)
    where = f"{function.__module__}:{function.__qualname__}"
    return where if _found(where) is function else f"{where}#{_digest(function)}"


def _from_json(value: Any) -> Any:
    """The function that `_to_json` named."""
    if not isinstance(value, str):
        return value
    module, _, name = value.partition(":")
    if not name.replace(".", "_").isidentifier():
        raise ValueError("a function that is not at the top of a module cannot be read back; put it there")
    found = _found(value)
    if found is None:
        raise ValueError(f"is not there; import {module} first, which defined {name}")
    return found


def _found(where: str) -> Any:
    """What has the name `module:name` now, in the modules that are imported; None if nothing has."""
    module, _, name = where.partition(":")
    try:
        return attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
        return None


def _digest(function: FunctionType) -> str:
    """What tells functions without a name of their own apart: their code, and the values that they close over."""
    values = [cell.cell_contents for cell in function.__closure__ or ()]
    content = (_parts(function.__code__), function.__defaults__, function.__kwdefaults__, values)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def _parts(code: CodeType) -> tuple[Any, ...]:
    """The code without file and lines, in the same words in every process."""
    return (code.co_code, code.co_names, [_constant(each) for each in code.co_consts])


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _parts(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value


AS_FUNCTION = (BeforeValidator(_from_json), PlainSerializer(_to_json, return_type=str))
"""Of an `Annotated` callable: what makes it a field that JSON names."""
