"""What is said of a wrong value of a config: pydantic's errors in plain words, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

LISTED = 12
"""More known words than this are not listed in an error."""
SHOWN = 60
"""More characters than this of a wrong value are not shown."""
VALUE = 40
"""The same of a value that is compared with another one."""
DIGEST = re.compile("[0-9a-f]{64}")
"""They say nothing to a person."""
LIST_ERRORS = {"list_type", "tuple_type", "sequence_str"}
UNFIT = "unfit"
"""The type of an error that says what is wrong with a value without having to show it."""
SAYING_ALL = {"unknown_kind", UNFIT}
OF_THEIR_OWN = {"extra_forbidden", "missing", "union_tag_invalid", "value_error", *SAYING_ALL}
"""Types of errors that say more than of which type a value must be."""
UNION_ERRORS = {"model_attributes_type", "union_tag_invalid", "union_tag_not_found"}


class Invalid:
    """Stands for a part of a recipe whose errors are noted already; what is made from it is invalid too."""

    def __getattr__(self, name: str) -> Invalid:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> Invalid:
        """What an invalid function or method gives."""
        return self


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each place that is wrong, e.g. `Distil: unknown key 'stepz', did you mean 'steps'?`.

    Where a value may be of several types, pydantic names each type that it is not: these errors are one line, and none
    where one of the types was entered and something inside it is wrong.
    """
    places: dict[tuple[Any, ...], list[Any]] = {}
    for each in error.errors(include_url=False):
        if not _is_noted(each):
            places.setdefault(tuple(_place(model, each["loc"])), []).append(each)
    entered = {
        place
        for place, errors in places.items()
        if any(len(each["loc"]) > len(place) for each in errors) and any(_lies_in(other, place) for other in places)
    }
    return [_describe(place, errors, model) for place, errors in places.items() if place not in entered]


def positional(model: type[BaseModel], values: tuple[object, ...]) -> str:
    """The line for `values` given to a config without names: the field that the first one, or all of them, may be of."""
    first = values[0]
    known = {} if isinstance(first, Invalid) else {n: f for n, f in model.model_fields.items() if n != "kind"}
    found = ((name, each) for name, field in known.items() for each in (first, values) if _may_be(field, each))
    name, value = next(found, (next(iter(known), None), ...))
    example = f", e.g. {name}={'...' if value is ... else _short(value)}" if name else ""
    return f"{model.__name__}: takes named values only{example}"


def _may_be(field: FieldInfo, value: object) -> bool:
    """Whether `value` is one for `field`."""
    annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        TypeAdapter(annotation).validate_python(value, strict=isinstance(value, bool) or None)
    except Exception:  # as a validator may raise any
        return False
    return True


def nearest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` if a known word is near, in whichever case, else nothing."""
    spelled = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word.lower(), spelled, n=1, cutoff=0.5)
    return f", did you mean {spelled[near[0]]!r}?" if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Like `nearest`; the known words, if none of them is near and there are few."""
    known = list(known)
    listed = f"; there are {', '.join(known)}" if 0 < len(known) <= LISTED else ""
    return nearest(word, known) or listed


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The keys whose values differ, and both values unless they are digests: `images, seed (1 there, 2 here)`."""

    def shown(key: str) -> str:
        values = ["none" if each.get(key) is None else str(each[key]) for each in (found, wanted)]
        if all(DIGEST.fullmatch(value) for value in values):
            return key
        there, here = (value if len(value) <= VALUE else f"{value[: VALUE - 3]}..." for value in values)
        return f"{key} ({there} there, {here} here)"

    keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    return ", ".join(map(shown, keys))


def _is_noted(error: Any) -> bool:
    return isinstance(error["input"], Invalid)


def _lies_in(place: tuple[Any, ...], outer: tuple[Any, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _place(annotation: Any, where: Sequence[Any]) -> Iterator[Any]:
    """The keys and numbers in `where`, without the names that pydantic has for the alternatives of a type."""
    if not where:
        return
    first, *rest = where
    types = _alternatives(annotation)
    named = next((each for each in types if len(types) > 1 and _is_named(each, str(first))), None)
    if named is not None:
        yield from _place(named, rest)
        return
    yield first
    part = types[0] if len(types) == 1 else None
    if isinstance(part, type) and issubclass(part, BaseModel):
        yield from _place(_annotation(part, first), rest)
    else:
        inner = get_args(part)
        yield from _place(inner[-1 if get_origin(part) is dict else 0] if inner else None, rest)


def _is_named(alternative: Any, text: str) -> bool:
    name = (get_origin(alternative) or alternative).__name__
    return re.search(rf"\b{name}\b", text, re.IGNORECASE) is not None


def _annotation(model: type[BaseModel], field: Any) -> Any:
    return model.model_fields[field].annotation if field in model.model_fields else None


def _alternatives(annotation: Any) -> list[Any]:
    """The types that a value may be of, None left out."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return [found for each in get_args(annotation) for found in _alternatives(each)]
    return [] if annotation in (None, NoneType) else [annotation]


def _describe(place: tuple[Any, ...], errors: Sequence[Any], model: type[BaseModel]) -> str:
    *parents, last = place or ("",)
    where = ".".join(map(str, (model.__name__, *parents)))
    name = f"{where}.{last}" if last != "" else where
    error = next((each for each in errors if each["type"] in OF_THEIR_OWN), errors[0])
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {last!r}{did_you_mean(str(last), _fields(model, parents))}"
    if error["type"] == "missing":
        return f"{where}: {last!r} is missing"
    if error["type"] in SAYING_ALL:
        return f"{name}: {error['msg']}"
    if error["type"] == "union_tag_invalid" and isinstance(error["input"], dict):
        tags = re.findall(r"'(\w+)'", error["ctx"]["expected_tags"])
        return f"{name}: unknown kind {error['ctx']['tag']!r}{nearest(error['ctx']['tag'], tags)}"
    if error["type"] == "value_error" and not place:  # of several fields, whose values it names itself
        return f"{name}: {_demand(error, model)}"
    if len(place) > 1 and error["type"] == "model_type" and _are(error["input"], error["ctx"]["class_name"]):
        return f"{name}: {_demand(error, model)}, not a list of them; put a * before it: {place[-2]}=[*...]"
    given, words = error["input"], _options(errors)
    alternatives = [error] if error["type"] == "value_error" else [e for e in errors if e["type"] != "literal_error"]
    demands = [f"must be one of {', '.join(words)}"] if words else []
    first, *others = dict.fromkeys([*demands, *(_demand(each, model) for each in alternatives)])
    demand = ", or ".join([first, *(each.removeprefix("must be ") for each in others)])
    return f"{name}: {demand}, got {_short(given)}{nearest(given, words) if isinstance(given, str) else ''}"


def _are(values: Any, name: str) -> bool:
    """Whether `values` are some whose class, or one that it derives from, has that name."""
    is_list = isinstance(values, list | tuple) and len(values) > 0
    return is_list and all(name in (cls.__name__ for cls in type(each).__mro__) for each in values)


def _options(errors: Iterable[Any]) -> list[str]:
    """The words that a value may be, whichever alternatives name them."""
    named = [each["ctx"]["expected"] for each in errors if each["type"] == "literal_error"]
    return [word.strip("'") for each in named for word in re.split(", | or ", each)]


def _demand(error: Any, model: type[BaseModel]) -> str:
    """What a value must be, without pydantic's idiom."""
    if error["type"] == "model_type":
        name = error["ctx"]["class_name"]
        return f"must be {'an' if name[0] in 'AEIOU' else 'a'} {name}"
    if error["type"] == "path_type":
        return "must be the path of a file"
    if error["type"] in LIST_ERRORS or error.get("ctx", {}).get("class") == "Sequence":
        return "must be a list"
    field = model.model_fields.get(error["loc"][0]) if len(error["loc"]) == 1 else None
    if error["type"] in UNION_ERRORS and field is not None:
        return f"must be one of {', '.join(each.__name__ for each in get_args(field.annotation))}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should be", "must be")
    return re.sub(r", (unable to parse|got a number) .*", "", str(message))


def _fields(model: Any, parents: Iterable[Any]) -> list[str]:
    """The fields of the part of `model` that `parents` lead to."""
    for parent in parents:
        parts = _alternatives(_annotation(model, parent)) if hasattr(model, "model_fields") else []
        model = next((part for part in parts if hasattr(part, "model_fields")), None)
    return [name for name in getattr(model, "model_fields", {}) if name != "kind"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
