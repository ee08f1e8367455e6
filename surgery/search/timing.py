"""How long calls take on this machine, each kind of call measured once and kept in a file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from surgery.config import Config
from surgery.errors import SurgeryError
from surgery.evaluate.metrics.latency import synchronise
from surgery.files import write_atomically

SAMPLES, WARMUP = 15, 3
"""Timed samples of a call, of which the median counts, and calls before them."""
SHORTEST = 2e-3
"""Seconds of a sample: calls that take less are repeated within it, as a clock does not resolve them."""


@dataclass(frozen=True)
class Timed:
    """A call whose time is asked for.

    Attributes:
        words: what it is, to read.
        function: what is called; a module, or a function of its arguments alone.
        args, kwargs: with real tensors.
    """

    words: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """A digest of all that its time depends on besides the machine: structure and sizes, not values."""
        parts = [*_structure(self.function), *map(_size, pytree.tree_leaves((self.args, dict(self.kwargs))))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


class Timings:
    """The times of calls by their kind, in milliseconds.

    Args:
        path: the file that they are kept in, so that what is there is not measured again; None keeps them in memory.
        compiled: whether calls are compiled first.
        clock: gives seconds.
    """

    def __init__(
        self, path: Path | None = None, *, compiled: bool = False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._path, self._compiled, self._clock = path, compiled, clock
        self._known = self._read()

    def of(self, call: Timed) -> float:
        """How long `call` takes, in milliseconds; measured if no call of its kind was.

        Raises:
            SurgeryError: it fails.
        """
        key = f"{call.key}{'-compiled' if self._compiled else ''}"
        if key not in self._known:
            self._known[key] = {"call": call.words, "ms": self._measured(call)}
            self._write()
        return float(self._known[key]["ms"])

    @torch.inference_mode()
    def _measured(self, call: Timed) -> float:
        function = torch.compile(call.function) if self._compiled else call.function
        try:
            return 1000 * self._median(lambda: function(*call.args, **call.kwargs))
        except Exception as error:  # whatever a user's module or the compiler says
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise SurgeryError(f"{call.words} cannot be timed alone: {reason}; limit FLOPs instead") from error

    def _median(self, run: Callable[[], Any]) -> float:
        for _ in range(WARMUP):
            run()
        repeats = max(1, round(SHORTEST / max(self._seconds(run, 1), 1e-7)))
        return statistics.median(self._seconds(run, repeats) for _ in range(SAMPLES))

    def _seconds(self, run: Callable[[], Any], repeats: int) -> float:
        start = self._clock()
        for _ in range(repeats):
            run()
        synchronise()
        return (self._clock() - start) / repeats

    def _read(self) -> dict[str, Any]:
        """What the file holds, if it is of this machine and can be read; it is only a cache."""
        try:
            found = json.loads(self._path.read_text()) if self._path else {}
        except (OSError, ValueError):
            return {}
        return found["calls"] if isinstance(found, dict) and found.get("machine") == _machine() else {}

    def _write(self) -> None:
        if self._path is not None:
            content = {"machine": _machine(), "calls": self._known}
            write_atomically(self._path, json.dumps(content, indent=2).encode() + b"\n")


def _machine() -> dict[str, Any]:
    """What times depend on besides the call."""
    return {
        "processor": platform.processor() or platform.machine(),
        "host": platform.node(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _structure(function: Callable[..., Any]) -> Iterator[str]:
    """A module's classes, options and sizes of weights; a function's name."""
    if not isinstance(function, nn.Module):
        yield f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
        return
    for name, module in function.named_modules():
        config = getattr(module, "config", None)
        options = config.model_dump_json() if isinstance(config, Config) else ""
        yield f"{name} {type(module).__module__}.{type(module).__qualname__} {module.extra_repr()} {options}"
    yield from (f"{name} {_size(tensor)}" for name, tensor in function.state_dict().items())


def _size(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype} {value.device.type}" if isinstance(value, torch.Tensor) else repr(value)


def total(timings: Timings, calls: Sequence[tuple[Timed, int]]) -> float:
    """The time of calls, each made so many times, in milliseconds."""
    return sum(count * timings.of(call) for call, count in calls)
