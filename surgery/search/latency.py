"""The latency of students from few measurements, each kind of edit being timed once on this machine.

latency(student) = latency(teacher) * (1 + sum over candidates of the share that each adds)

An operator is timed in its place, with the caches and memory that it meets there: in a student in which every second of
the layers that can have it has it, against the teacher, in turns. Each of these is taken to add an equal part. What a
forward runs for the first time slows a small model down, beside an operator that stays as much as instead of it; a search
ends at mixtures as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from surgery.errors import RewriteError
from surgery.evaluate.metrics.latency import latencies_ms
from surgery.files import write_json
from surgery.graph import ModelGraph
from surgery.progress import Progress, SilentProgress
from surgery.rewriting import Edit
from surgery.rewriting.commit import commit
from surgery.search.candidates import Candidate, exclusions


class Latencies:
    """What a forward takes, by what was measured.

    Args:
        graph: of the teacher, whose module has its weights.
        inputs: keywords of its forward, on its device.
        path: the file that measurements are kept in, so that none is made again; None keeps them in memory.
        compiled: whether models are run by `torch.compile`.
        clock: gives seconds.
    """

    def __init__(
        self,
        graph: ModelGraph,
        inputs: Mapping[str, Any],
        path: Path | None = None,
        *,
        compiled: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._graph, self._inputs, self._path = graph, dict(inputs), path
        self._compiled, self._clock = compiled, clock
        self._conditions = {**machine(), "compiled": compiled, "teacher": _structure(graph), "inputs": _sizes(inputs)}
        found = self._read()
        self._shares: dict[str, float] = found.get("shares", {})
        self._teacher: float | None = found.get("teacher_ms")

    @property
    def teacher(self) -> float:
        """The latency of the teacher, in milliseconds."""
        if self._teacher is None:
            (self._teacher,) = self._times([])
            self._write()
        return self._teacher

    def changes(self, candidates: Sequence[Candidate], progress: Progress | None = None) -> list[float]:
        """What each candidate adds, in milliseconds; negative if it makes the model faster.

        Raises:
            SurgeryError: a student cannot be compiled.
        """
        kinds: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            kinds.setdefault(_kind(candidate), []).append(candidate)
        todo = [kind for kind in kinds if kind not in self._shares]
        with (progress or SilentProgress()).stage("latency", total=len(todo)) as bar:
            for kind in todo:
                self._shares[kind] = self._share(kinds[kind])
                self._write()
                bar.advance()
        return [self.teacher * self._shares[_kind(candidate)] for candidate in candidates]

    def _share(self, alike: Sequence[Candidate]) -> float:
        """What one of `alike` adds, as a share of the teacher's latency."""
        apart = set(exclusions(alike))
        compatible: list[int] = []
        for n in range(len(alike)):
            if not any((m, n) in apart for m in compatible):
                compatible.append(n)
        together = compatible[::2]
        try:
            teacher, student = self._times([edit for n in together for edit in alike[n].edits])
        except RewriteError:  # all of them leave no model
            together = together[:1]
            teacher, student = self._times(alike[0].edits)
        return (student / teacher - 1) / len(together)

    def _times(self, edits: Sequence[Edit]) -> list[float]:
        """The latency of the teacher and, if there are edits, of its student, in milliseconds."""
        models = [self._graph.model, *([commit(self._graph, edits, shared=True)] if edits else [])]
        return latencies_ms(models, self._inputs, compiled=self._compiled, clock=self._clock)

    def _read(self) -> dict[str, Any]:
        """What the file holds, if it is of this machine and model, and can be read; it is only a cache."""
        try:
            found = json.loads(self._path.read_text()) if self._path else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("of") == self._conditions else {}

    def _write(self) -> None:
        if self._path is not None:
            content = {"of": self._conditions, "teacher_ms": self._teacher, "shares": self._shares}
            write_json(self._path, content)


def machine() -> dict[str, Any]:
    """What latency depends on besides the model."""
    return {
        "processor": platform.processor() or platform.machine(),
        "host": platform.node(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _kind(candidate: Candidate) -> str:
    """What candidates have in common whose edits take the same time: all but their places."""
    parts = [
        f"{edit.kind} {edit.replaced} {edit.replacement.model_dump_json()} {edit.flops.before} {edit.flops.after}"
        for edit in candidate.edits
    ]
    return f"{candidate.rule.name} {_digest(parts)}"


def _structure(graph: ModelGraph) -> str:
    """A digest of the classes and sizes in a model."""
    parts = [f"{name} {type(module).__qualname__}" for name, module in graph.model.named_modules()]
    parts += [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in graph.model.state_dict().items()]
    return _digest(parts)


def _sizes(inputs: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(tuple(v.shape)) if isinstance(v, torch.Tensor) else repr(v) for name, v in inputs.items()}


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
