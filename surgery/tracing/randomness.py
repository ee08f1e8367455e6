"""Random numbers that a graph cannot draw: those of Python, of NumPy, and of generators that the forward holds itself."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch

from surgery.errors import TraceError

INSTEAD = "let it draw from PyTorch's own, pass the generator as an argument, or declare the module a leaf"
GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)

STATES: dict[str, Callable[[], Hashable]] = {
    "Python's random": random.getstate,
    "numpy.random": lambda: _hashable(np.random.get_state(legacy=True)),
}
"""The states of the generators of Python and NumPy that all share."""

SEEDING = ("manual_seed", "seed", "set_rng_state")
"""Functions of PyTorch that set the generator that all share."""

_SEED = random.Random.seed
ENTROPY = ((os, "urandom"), (random, "_urandom"), (random.Random, "seed"))
"""Where Python and NumPy get random numbers from if no seed is given; `secrets` and `uuid` as well."""


def _hashable(state: Any) -> Hashable:
    """The state of NumPy's generator, which is an array and some numbers."""
    return (state[1].tobytes(), *state[2:])


@contextmanager
def drawing_nothing(name: str) -> Iterator[None]:
    """Raise TraceError if what runs inside, a forward of the class `name`, draws from generators that all share."""
    before = {source: state() for source, state in STATES.items()}
    yield
    for source, state in STATES.items():
        if state() != before[source]:
            raise TraceError(f"the forward of {name} draws or seeds random numbers by {source}; {INSTEAD}")


@contextmanager
def seeding_refused(is_recorded: Callable[[], bool]) -> Iterator[None]:
    """While this context is open, model code, which runs if `is_recorded` says so, cannot seed PyTorch's generator.

    Nor can it draw from the system.
    """
    with ExitStack() as stack:
        for owner, name in (*product((torch, torch.random), SEEDING), *ENTROPY):
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, _refusing(getattr(owner, name), is_recorded)))
        yield


def _refusing(function: Callable[..., Any], is_recorded: Callable[[], bool]) -> Callable[..., Any]:
    """`function`, which model code is not to call; `random.Random.seed` only without a seed."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_recorded() and not (function is _SEED and {*args[1:], *kwargs.values()} - {None}):
            raise TraceError(f"the forward {_deed(function)}, which no graph does; {INSTEAD}")
        return function(*args, **kwargs)

    return call


def _deed(function: Callable[..., Any]) -> str:
    if function.__name__ in SEEDING and function is not _SEED:
        return f"calls torch.{function.__name__}"
    return "draws random numbers from the system, as generators without a seed do"


def refuse_generators(given: list[Any], *values: Any) -> None:
    """Raise TraceError if a generator among `values` is none of those `given` to the forward."""
    own = [value for value in values if isinstance(value, torch.Generator)]
    if any(all(generator is not each for each in given) for generator in own):
        raise TraceError(f"the forward draws random numbers from a generator of its own; {INSTEAD}")
