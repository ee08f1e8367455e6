"""Runs the Python file of a recipe; whatever is wrong with it becomes one line that names file and line."""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from pydantic import ValidationError

from surgery.config import collecting_errors, place
from surgery.errors import RecipeError, SurgeryError
from surgery.wording import did_you_mean, nearest

NAME = "__recipe__"
"""What a recipe's own `__name__` is."""


def run_file(path: Path) -> dict[str, Any]:
    """The globals of the recipe file at `path` after it has run.

    Modules in its folder can be imported meanwhile; afterwards `sys.path` and `sys.modules` are as if it had not run,
    so that two recipes may each have a `common.py` of their own.

    Raises:
        RecipeError: with a line for each thing that is wrong.
    """
    code = _compile(path, _read(path))
    module = ModuleType(NAME)
    module.__file__ = str(path)
    with collecting_errors(path) as lines, _importing(module, path.parent.resolve()):
        try:
            exec(code, vars(module))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a class that a recipe made, or took from elsewhere, need be no Exception
            failure = _failure(path, error, vars(module))
            # A slip that follows from a value that is noted already is no news.
            if not (lines and "'Invalid'" in failure):
                lines.append(failure)
    if lines:
        raise RecipeError("\n".join(dict.fromkeys(lines)))
    return vars(module)


def _read(path: Path) -> str:
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder; name a Python file that defines `recipe`")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise RecipeError(f"{path}: no such file{did_you_mean(path.name, beside)}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _compile(path: Path, source: str) -> Any:
    try:
        return compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise RecipeError(f"{path}:{line}: {getattr(error, 'msg', error)}") from None
    except (RecursionError, MemoryError):
        raise RecipeError(f"{path}: is nested too deeply to be compiled") from None


@contextmanager
def _importing(module: ModuleType, folder: Path) -> Iterator[None]:
    """Makes `module` and the modules in `folder` importable: classes look up their annotations in `sys.modules`."""
    before, path = dict(sys.modules), list(sys.path)
    sys.modules[NAME] = module
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        sys.modules.pop(NAME, None)
        fresh = {name for name in sys.modules if name not in before}
        local = {name for name in fresh if "." not in name and _lies_in(sys.modules[name], folder)}
        for name in fresh:
            if name.partition(".")[0] in local:
                del sys.modules[name]


def _lies_in(module: ModuleType, folder: Path) -> bool:
    """Whether a module is `folder`'s x.py, or its package x."""
    file = Path(getattr(module, "__file__", None) or "")
    return folder == (file.parent.parent if file.name == "__init__.py" else file.parent)


def _failure(path: Path, error: BaseException, namespace: Mapping[str, Any]) -> str:
    """One line for an exception that a recipe raised, at the recipe's own line."""
    frames = [(frame.filename, frame.lineno or 1) for frame in traceback.extract_tb(error.__traceback__)]
    where = place(path, reversed(frames))
    if isinstance(error, SyntaxError) and error.filename:
        where, text = f"{error.filename}:{error.lineno or 1}", error.msg
    elif isinstance(error, SystemExit):
        text = "the recipe ends the program; leave out the call of exit"
    else:
        text = _words(path, error, namespace)
    return f"{where}: {' '.join(text.split())}"


def _words(path: Path, error: BaseException, namespace: Mapping[str, Any]) -> str:
    """What an exception says, with what was probably meant."""
    text = str(error)
    if isinstance(error, SurgeryError):
        return text
    if isinstance(error, ValidationError):
        return "; ".join(f"{error.title}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    wrong = re.match(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'", text)
    if isinstance(error, TypeError) and wrong:
        return f"{wrong[1]}: unknown key {wrong[2]!r}{_near_parameter(wrong[1], wrong[2], error.__traceback__)}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"no module {error.name!r}{_near_module(error.name, path.parent)}"
    missing = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", text)
    if isinstance(error, ImportError) and missing:
        there = vars(sys.modules[missing[2]]) if missing[2] in sys.modules else {}
        return f"{missing[2]!r} has no {missing[1]!r}{nearest(missing[1], there)}"
    if isinstance(error, NameError) and error.name:
        return f"{error.name!r} is not defined{nearest(error.name, namespace)}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _near_parameter(function: str, word: str, step: TracebackType | None) -> str:
    """What the function called `function`, found where the call was made, would have taken."""
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    values = list(step.tb_frame.f_globals.values()) if step else []
    inside = [vars(value).get(function) for value in values if isinstance(value, ModuleType)]
    for value in [*values, *inside]:
        if inspect.isroutine(value) and value.__name__ == function:
            return did_you_mean(word, inspect.signature(value).parameters)
    return ""


def _near_module(name: str, folder: Path) -> str:
    """The module that was probably meant: of the same package, or beside the recipe."""
    package, _, last = name.rpartition(".")
    if package:
        parent = sys.modules.get(package)
        return nearest(last, (found.name for found in pkgutil.iter_modules(getattr(parent, "__path__", []))))
    beside = [found.name for found in pkgutil.iter_modules([str(folder)])]
    return nearest(name, [*beside, "surgery"]) or "; install it, or put it beside the recipe"
