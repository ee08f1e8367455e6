"""What is said of a wrong value of a config: pydantic's errors in plain words, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

LISTED = 12
"""More known words than this are not listed in an error."""
SHOWN = 60
"""More characters than this of a wrong value are not shown."""
VALUE = 40
"""The same of a value that is compared with another one."""
LIST_ERRORS = {"list_type", "tuple_type", "sequence_str"}
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
    """One line for each error, e.g. `Distil: unknown key 'stepz', did you mean 'steps'?`."""
    errors = [each for each in error.errors(include_url=False) if not _is_noted(each)]
    words = {each["loc"][0]: _options(errors, each["loc"][0]) for each in errors if each["type"] == "literal_error"}
    return list(dict.fromkeys(_describe(each, model, words) for each in errors))


def positional(model: type[BaseModel], value: object) -> str:
    """The line for `value` given to a config without a name."""
    named = [name for name in model.model_fields if name != "kind"]
    example = f", e.g. {named[0]}={_short(value)}" if named and not isinstance(value, Invalid) else ""
    return f"{model.__name__}: takes named values only{example}"


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
    """The keys whose values differ, and both values: `seed (1 there, 2 here)`; nothing if none does."""

    def shown(value: Any) -> str:
        text = "none" if value is None else str(value)
        return text if len(text) <= VALUE else f"{text[: VALUE - 3]}..."

    keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    return ", ".join(f"{key} ({shown(found.get(key))} there, {shown(wanted.get(key))} here)" for key in keys)


def _is_noted(error: Any) -> bool:
    return isinstance(error["input"], Invalid)


def _options(errors: Iterable[Any], field: Any) -> list[str]:
    """The words that a field may be, whichever alternatives of it name them."""
    own = [each for each in errors if each["loc"][:1] == (field,) and each["type"] == "literal_error"]
    return [word.strip("'") for each in own for word in re.split(", | or ", each["ctx"]["expected"])]


def _describe(error: Any, model: type[BaseModel], options: Mapping[Any, list[str]]) -> str:
    *parents, last = error["loc"] or ("",)
    if error["type"] == "literal_error":
        field, given = error["loc"][0], error["input"]
        near = nearest(given, options[field]) if isinstance(given, str) else ""
        return f"{model.__name__}.{field}: must be one of {', '.join(options[field])}, got {_short(given)}{near}"
    where = ".".join(map(str, (model.__name__, *parents)))
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {last!r}{did_you_mean(str(last), _fields(model, parents))}"
    if error["type"] == "missing":
        return f"{where}: {last!r} is missing"
    name = f"{where}.{last}" if last != "" else where
    if error["type"] == "unknown_kind":
        return f"{name}: {error['msg']}"
    if error["type"] == "union_tag_invalid" and isinstance(error["input"], dict):
        tags = re.findall(r"'(\w+)'", error["ctx"]["expected_tags"])
        return f"{name}: unknown kind {error['ctx']['tag']!r}{nearest(error['ctx']['tag'], tags)}"
    return f"{name}: {_demand(error, model)}, got {_short(error['input'])}"


def _demand(error: Any, model: type[BaseModel]) -> str:
    """What a value must be, without pydantic's idiom."""
    if error["type"] == "model_type":
        name = error["ctx"]["class_name"]
        return f"must be {'an' if name[0] in 'AEIOU' else 'a'} {name}"
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
        field = getattr(model, "model_fields", {}).get(parent)
        model = field.annotation if field is not None else None
    return list(getattr(model, "model_fields", {}))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
