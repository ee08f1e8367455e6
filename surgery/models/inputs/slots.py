"""What a search chooses between: the candidates of each input of a forward."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass

from surgery.models.inputs.makers import Maker
from surgery.models.inputs.sizes import ModelConfig
from surgery.models.inputs.table import LATENTS, TABLE, UNKNOWN, Entry, latents, seldom


@dataclass(frozen=True)
class Slot:
    """Inputs that are chosen together: by name their candidates. None leaves an input out."""

    options: dict[str, list[Maker | None]]

    def __len__(self) -> int:
        return max(len(options) for options in self.options.values())

    def choose(self, rank: int) -> dict[str, Maker]:
        """The makers of the candidates at `rank`, the natural ones being at 0."""
        chosen = {name: options[min(rank, len(options) - 1)] for name, options in self.options.items()}
        return {name: maker for name, maker in chosen.items() if maker}


def is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call must give this parameter."""
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def slots(parameters: Mapping[str, inspect.Parameter], config: ModelConfig, class_name: str) -> list[Slot]:
    """The slots for a forward with these parameters, in their order."""
    found: dict[tuple[str, str, bool, bool], Slot] = {}
    for name, parameter in parameters.items():
        entry = _entry(parameter, config, class_name, set(parameters))
        if entry is None:
            continue
        options: list[Maker | None] = [*entry.makers]
        if not is_required(parameter):
            options = [*options, None] if entry.wanted(config) else [None, *options]
        key = (entry.group, "" if entry.group else name, is_required(parameter), options[0] is None)
        found.setdefault(key, Slot({})).options[name] = options
    return list(found.values())


def is_known(name: str) -> bool:
    """Whether the name of an input says what it is."""
    return any(re.fullmatch(pattern, name) for pattern in (LATENTS, *(entry.pattern for entry in TABLE)))


def _entry(parameter: inspect.Parameter, config: ModelConfig, class_name: str, names: set[str]) -> Entry | None:
    if not is_required(parameter) and parameter.default is not None:
        return None
    if re.fullmatch(LATENTS, parameter.name):
        return latents(config, class_name, names)
    known = next((entry for entry in TABLE if re.fullmatch(entry.pattern, parameter.name)), None)
    may_be_tensor = parameter.annotation is parameter.empty or "Tensor" in str(parameter.annotation)
    if known is None and (is_required(parameter) or may_be_tensor):
        return Entry(parameter.name, UNKNOWN, seldom)
    return known
