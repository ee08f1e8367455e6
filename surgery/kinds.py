"""Families of configs that JSON names by a `kind`: a class is known once it is defined, the user's own included."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from surgery.config import Config
from surgery.errors import ConfigError
from surgery.wording import describe, nearest

LIBRARY = "surgery"
MODULE = "import"
"""The key that names the module of a class which is not the library's; no field can be called so."""
UNKNOWN = "unknown_kind"
"""The type of pydantic's error for a kind that is not known."""

_preferred: ContextVar[tuple[type[Kinded], ...]] = ContextVar("preferred", default=())


class Kinded(Config):
    """Base of families of configs, of which each class has a kind: a class that derives from this one is a family.

    A class says `kind: Literal["gate"] = "gate"`, or its kind is its name with that of its module. Of two classes of one
    kind the later one is a ConfigError, unless it is the earlier one defined again, or that is gone.
    """

    known: ClassVar[dict[str, type[Any]]]
    """The classes of the family by their kinds."""

    kind: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Kinded in cls.__bases__:
            cls.known = {}
        elif "kind" not in (own := inspect.get_annotations(cls)):
            name = _name(cls)
            cls.__annotations__ = {**own, "kind": Literal[name]}
            cls.kind = name

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Kinded in cls.__bases__ or inspect.isabstract(cls):
            return
        kind = kind_of(cls)
        other = cls.known.get(kind)
        if other is not None and _name(other) != _name(cls) and not _is_gone(other):
            raise ConfigError([f"{_name(cls)}: the kind {kind!r} is that of {_name(other)}; choose another one"])
        cls.known[kind] = cls

    @classmethod
    def of_kind(cls, kind: object) -> type[Self]:
        """The class of this family that `kind` names; KeyError if none is known."""
        given = (each for each in _preferred.get() if issubclass(each, cls) and kind_of(each) == kind)
        return next(given, None) or cls.known[kind]  # type: ignore[index]

    @classmethod
    def from_data(cls, data: Any) -> Any:
        """What `model_dump(mode="json")` gave, as a config again; what is no mapping stays as it is.

        Raises:
            ValueError: in pydantic's words; the kind is not known, or a value is wrong.
        """
        if not isinstance(data, Mapping):
            return data
        try:
            found = cls.of_kind(data.get("kind"))
        except (KeyError, TypeError):
            raise PydanticCustomError(UNKNOWN, "{text}", {"text": _unknown(data, cls.known)}) from None
        return found.model_validate(data)

    @model_validator(mode="before")
    @classmethod
    def _without_module(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if key != MODULE} if isinstance(data, dict) else data

    @model_serializer(mode="wrap")
    def _with_module(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """In JSON the user's own class names its module, so that whoever cannot read it is told what to import."""
        data: dict[str, Any] = dump(self)
        module = type(self).__module__
        is_own = info.mode == "json" and module.partition(".")[0] != LIBRARY
        return {**data, MODULE: module} if is_own else data


@contextmanager
def preferring(classes: Iterable[type[Kinded]]) -> Iterator[None]:
    """While open, these classes are the ones of their kinds, whatever else is known."""
    token = _preferred.set((*classes, *_preferred.get()))
    try:
        yield
    finally:
        _preferred.reset(token)


def kind_of(kinded: type[Kinded]) -> str:
    """The kind of a class."""
    return str(kinded.model_fields["kind"].default)


def why_not_read_back(config: Kinded) -> str | None:
    """Why JSON does not give an equal config again; None if it does."""
    try:
        again = type(config).from_data(config.model_dump(mode="json"))
    except ValidationError as error:
        return "; ".join(describe(error, type(config)))
    if type(again) is not type(config):
        return f"the kind {config.kind!r} is that of {_name(type(again))} now"
    return None if again == config else f"its JSON gives {again!r}"


def _name(kinded: type) -> str:
    return f"{kinded.__module__}.{kinded.__qualname__}"


def _is_gone(kinded: type) -> bool:
    """Whether the module of a class is not loaded any more, as that of a recipe, or has no such name now."""
    module = sys.modules.get(kinded.__module__)
    return not hasattr(module, kinded.__qualname__.partition(".")[0])


def _unknown(data: Mapping[str, Any], known: Iterable[str]) -> str:
    """What is wrong with a kind, and what to do."""
    if "kind" not in data:
        return "'kind' is missing"
    near, advice = nearest(str(data["kind"]), known), _advice(data.get(MODULE))
    following = f"{near} {advice[0].upper()}{advice[1:]}" if near else f"; {advice}"
    return f"unknown kind {data['kind']!r}{following}"


def _advice(module: object) -> str:
    if not isinstance(module, str):
        return "if it is your own, import the module that defines it"
    if module.startswith("__") or module in sys.modules:  # a script, a recipe, or a module that has changed
        return f"it was defined in {module}; define it first"
    return f"import {module} first, which defines it"
