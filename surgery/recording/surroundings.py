"""What a function reads of the Python around it: globals, free functions and what these read, defaults, closures.

Of functions that come with a package only which they are counts, as nobody changes what they read.
"""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from surgery.recording.describe import PLAIN, Describer, Description
from surgery.recording.weak_cache import weakly_cached

STANDS_FOR = "_surgery_stands_for"
"""Names, in a function that takes the place of another one while a model is recorded, that other one."""

FUNCTIONS = (FunctionType, functools._lru_cache_wrapper)

PATCHED = {"int", "float"}
"""Names that modules have only while a model is recorded."""


class Global(NamedTuple):
    """A global variable, or an attribute of a class or a module of the user's that is one.

    Attributes:
        module: name of the module of Python.
        names: of the variable, and of the attribute.
    """

    module: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.module, *self.names))

    def describe(self) -> Description:
        """What it is now."""
        value: Any = sys.modules.get(self.module)
        for name in self.names:
            value = vars(value).get(name, _NOTHING)
            if value is _NOTHING:
                return ("missing",)
        return _describe(value)


_NOTHING = object()


def original(value: Any) -> Any:
    """The function that `value` stands for while a model is recorded; all else as it is."""
    return getattr(value, STANDS_FOR, value) if isinstance(value, FunctionType) else value


def describe_function(value: Any) -> Description:
    """A function by which it is and, if it is the user's, what it carries with it."""
    function = original(value)
    is_own = isinstance(function, FunctionType) and _is_own(function.__globals__)
    return (function, *map(_describe, _inside(function))) if is_own else (function,)


class _AroundDescriber(Describer):
    """Describes what is found around a function."""

    def describe(self, value: Any, depth: int = 0) -> Description:
        return describe_function(value) if isinstance(value, FUNCTIONS) else super().describe(value, depth)

    def other(self, value: Any, depth: int) -> Description:
        return super().other(value, depth) if _is_data(value) else (type(value),)


_describe = _AroundDescriber().describe


def surroundings(function: FunctionType) -> dict[Global, Description]:
    """What `function`, and the functions of the user's that it reads, depend on, as it is now."""
    found: dict[Global, Description] = {}
    stack, seen = [function], {function}
    while stack:
        for each in _globals(stack.pop()):
            if each not in found:
                found[each] = each.describe()
            new = [
                value for value in _functions(vars(sys.modules[each.module]).get(each.names[0])) if value not in seen
            ]
            seen.update(new)
            stack += new
    return found


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions of the user's that `value`, maybe one of them, runs: decorated ones run others."""
    while value is not None:
        value = original(value)
        if isinstance(value, FunctionType) and _is_own(value.__globals__):
            yield value
        value = getattr(value, "__wrapped__", None) if isinstance(value, FUNCTIONS) else None


@weakly_cached
def _globals(function: FunctionType) -> tuple[Global, ...]:
    """The globals that the code of `function` names and that can be changed to some effect."""
    space, module = function.__globals__, function.__globals__.get("__name__", "")
    if vars(sys.modules.get(module, sys)) is not space:
        return ()
    names = [names for names in _chains(function.__code__) if names[0] in space and names[0] not in PATCHED]
    return tuple(Global(module, found) for found in dict.fromkeys(_variable(space, each) for each in names) if found)


def _variable(space: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Of a global and the attribute that is read of it, what is data or a function; () if nothing is."""
    value = space[names[0]]
    if isinstance(value, type | ModuleType):
        is_own = _is_own(vars(value)) if isinstance(value, ModuleType) else _is_own_class(value)
        is_read = is_own and len(names) > 1 and _counts(vars(value).get(names[1]))
        return names if is_read else ()
    return names[:1] if _counts(value) else ()


def _counts(value: Any) -> bool:
    return isinstance(value, FUNCTIONS) or (not isinstance(value, type) and _is_data(value))


def _chains(code: CodeType) -> Iterator[tuple[str, ...]]:
    """The globals that `code` names, with the attribute that it reads of each, if it does."""
    last: str | None = None
    for step in dis.get_instructions(code):
        is_attribute = step.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR") and last is not None
        if last is not None:
            yield (last, step.argval) if is_attribute else (last,)
        last = step.argval if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL") else None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _chains(constant)


def _inside(function: FunctionType) -> Iterator[Any]:
    """What a function carries with it: attributes, defaults, and the variables of the function that it was made in."""
    yield {name: value for name, value in vars(function).items() if _is_data(value)}
    yield [value for value in function.__defaults__ or () if _is_data(value)]
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not set yet
            continue
        if _is_data(value):
            yield value


def _is_data(value: Any) -> bool:
    """Whether `value` is a constant, a container, or an object of the user's."""
    if isinstance(value, (*FUNCTIONS, type)):
        return False
    if isinstance(value, (*PLAIN, list, tuple, dict, set, frozenset)):
        return True
    return _is_own_class(type(value))


def _is_own_class(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    return module is not None and _is_own(vars(module))


_ROOTS = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_own(space: dict[str, Any]) -> bool:
    """Whether the module of Python with the globals `space` is the user's, and not of an installed package."""
    file = space.get("__file__")
    name = space.get("__name__", "").partition(".")[0]
    return name not in sys.builtin_module_names and not (file or "").startswith(_ROOTS) and name != "surgery"
