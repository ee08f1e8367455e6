"""Random numbers that a graph cannot draw: those of Python, of NumPy, and of generators that the forward holds itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from surgery.errors import TraceError
from surgery.tracing.leaves import leaves

INSTEAD = "let it draw from PyTorch's own, pass the generator as an argument, or declare the module a leaf"
GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)

STATES: dict[str, Callable[[], Any]] = {
    "Python's random": random.getstate,
    "numpy.random": lambda: (*np.random.get_state()[2:], np.random.get_state()[1].tobytes()),
    "torch.manual_seed": lambda: torch.get_rng_state().numpy().tobytes(),
}
"""The states of generators that all share; nothing is drawn from PyTorch's own on the meta device, so it was seeded."""


@contextmanager
def drawing_nothing(name: str, draws: bool) -> Iterator[None]:
    """Raise TraceError if what runs inside, a forward of the class `name`, draws from generators that all share.

    Args:
        draws: whether it may draw from PyTorch's own, as a recording with values does.
    """
    before = {source: state() for source, state in STATES.items()}
    yield
    for source, state in STATES.items():
        if state() != before[source] and not (draws and source == "torch.manual_seed"):
            raise TraceError(f"the forward of {name} draws or seeds random numbers by {source}; {INSTEAD}")


def refuse_generators(given: list[Any], *values: Any) -> None:
    """Raise TraceError if a generator among `values` is none of those `given` to the forward."""
    own = [v for v in leaves(values) if isinstance(v, torch.Generator)]
    if any(all(generator is not each for each in given) for generator in own):
        raise TraceError(f"the forward draws random numbers from a generator of its own; {INSTEAD}")
