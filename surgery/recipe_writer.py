"""A recipe as the Python that a person would have written: rules by their functions, and nothing that is a default."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

import surgery.recipe
import surgery.rewriting
import surgery.rules
from surgery.config import Config
from surgery.kinds import LIBRARY
from surgery.recipe import Recipe
from surgery.recipe_loader import NAME
from surgery.rewriting.function import name_of
from surgery.rewriting.rule import Rule

WIDTH = 100
"""Longer calls have a line for each argument."""

Names = dict[str, str]
"""What is to be imported: the name, and the module that has it."""


def written(recipe: Recipe) -> str:
    """`recipe` as a Python file.

    Run, it gives an equal recipe again, unless the recipe has classes or functions that no module can be asked for; a
    comment names these.
    """
    names: Names = {}
    call = _value(recipe, names, len("recipe = "))
    lines: list[str] = []
    lost: list[str] = []
    for module in sorted(set(names.values())):
        listed = ", ".join(sorted(name for name, where in names.items() if where == module))
        (lost if module in ("__main__", NAME) else lines).append(f"from {module} import {listed}")
    lost = [f"# {line.rpartition(' import ')[2]}: of the file that this recipe was written in" for line in lost]
    return "\n".join([*lines, *lost, "", f"recipe = {call}", ""])


def expression(value: Any) -> str:
    """A part of a recipe as Python on one line, without the imports that it needs."""
    return " ".join(_value(value, {}, -sys.maxsize).split())


def _value(value: Any, names: Names, used: int) -> str:
    """`value` as an expression that begins in column `used`; what it needs is added to `names`."""
    if isinstance(value, Rule):
        return _rule(value, names, used)
    if isinstance(value, Config):
        return _selection(value, names) or _config(value, names, used)
    if isinstance(value, Mapping):
        items = [f"{quoted(key)}: {_value(each, names, used + 4)}" for key, each in value.items()]
        return _folded("{", items, "}", used)
    if isinstance(value, tuple | list):
        return _folded("[", [_value(each, names, used + 4) for each in value], "]", used)
    if isinstance(value, bool | int | float | None):
        return repr(value)
    if callable(value):
        names[name_of(value)] = getattr(value, "__module__", NAME)
        return name_of(value)
    return quoted(str(value))  # text and paths


def quoted(text: str) -> str:
    """The text as it stands in Python, in double quotes unless it holds some."""
    plain = repr(text)
    return plain if '"' in plain else f'"{plain[1:-1]}"'


def _config(config: Config, names: Names, used: int) -> str:
    """The call of a class, with the fields that are not as they are by default."""
    kind = type(config)
    names[kind.__name__] = _home(kind.__name__, kind)
    fields = {name: getattr(config, name) for name in kind.model_fields if name != "kind"}
    defaults = {name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()}
    given = {name: value for name, value in fields.items() if value != defaults[name]}
    if "seed" in fields and kind is Recipe:
        given["seed"] = fields["seed"]
    return _call(kind.__name__, given, names, used)


def _rule(rule: Rule, names: Names, used: int) -> str:
    """The call of the function that makes the rule, if one does; else that of its class."""
    for function, arguments in _makers(rule):
        names[function.__name__] = surgery.rules.__name__
        return _call(function.__name__, arguments, names, used, positional=_first(function))
    return _config(rule, names, used)


def _makers(rule: Rule) -> Iterator[tuple[Callable[..., Rule], dict[str, Any]]]:
    """The library's function of the rule's kind with the arguments that give an equal rule, as few as possible."""
    function = getattr(surgery.rules, rule.kind, None)
    if function is None:
        return
    parameters = signature(function).parameters
    every = {name: getattr(rule, name, getattr(rule.pattern, name, None)) for name in parameters}
    needed = {
        name: value
        for name, value in every.items()
        if parameters[name].default is Parameter.empty
        or (name in type(rule).model_fields and value != _bare(rule, name))
    }
    for arguments in (needed, every):
        if all(value is not None for value in arguments.values()) and function(**arguments) == rule:
            yield function, arguments


def _bare(rule: Rule, name: str) -> Any:
    return type(rule).model_fields[name].get_default(call_default_factory=True)


def _first(function: Callable[..., Any]) -> str | None:
    """The parameter that is given without its name."""
    first = next(iter(signature(function).parameters.values()))
    return first.name if first.kind is Parameter.POSITIONAL_OR_KEYWORD else None


def _selection(config: Config, names: Names) -> str | None:
    """A selection as it is written, `every(2) & ~indices(1)`; None if `config` is none."""
    if not hasattr(config, "select"):
        return None
    for function in _functions(config):
        _value(function, names, 0)
    text = str(config)
    for word in ("all_layers", "every", "three_of_four", "indices", "where", "top"):
        if f"{word}(" in text:
            names[word] = surgery.rewriting.__name__
    return text.removeprefix("(").removesuffix(")") if text.startswith("(") else text


def _functions(config: Config) -> Iterator[Callable[..., Any]]:
    """Those that a selection asks."""
    for _, value in config:
        if isinstance(value, Config):
            yield from _functions(value)
        elif callable(value):
            yield value


def _call(name: str, arguments: Mapping[str, Any], names: Names, used: int, positional: str | None = None) -> str:
    written = []
    for key, value in arguments.items():
        head = "" if key == positional else f"{key}="
        written.append(head + _value(value, names, used + 4 + len(head)))
    return _folded(f"{name}(", written, ")", used)


def _folded(start: str, parts: list[str], end: str, used: int) -> str:
    """The parts on one line if that is short enough, else on a line each."""
    line = start + ", ".join(parts) + end
    if used + len(line) <= WIDTH and "\n" not in line:
        return line
    indented = "".join(f"    {part},\n".replace("\n", "\n    ").removesuffix("    ") for part in parts)
    return f"{start}\n{indented}{end}"


def _home(name: str, value: type) -> str:
    """The module to import `name` from: the outermost one of the library that has it, else its own."""
    if value.__module__.partition(".")[0] != LIBRARY:
        return value.__module__
    parts = value.__module__.split(".")
    packages = [".".join(parts[:length]) for length in range(2, len(parts) + 1)]
    known = (sys.modules[package] for package in (surgery.recipe.__name__, *packages))
    return next(module.__name__ for module in known if getattr(module, name, None) is value)
