"""The first step of a run: what the pipeline gives its denoiser, and what that returns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.errors import SurgeryError, WiringError, in_one_line
from surgery.pipelines.batching import Batching, compare
from surgery.pipelines.drive import Done, Forward, Listener, Step, drive, modules
from surgery.pipelines.tree import Arguments, leaves, moved, prediction, rows_of, tensors_in

COUNT = re.compile(r"num_\w+_per_\w+")
"""Keywords such as num_images_per_prompt."""


ALONE = 1e-2
"""How far a row may be from itself in a forward of its own, relative to the largest output."""


@dataclass(frozen=True)
class Opening:
    """The first step of a run.

    Attributes:
        step: with the calls of the loop alone, not those of text encoders before it.
        outputs: the last output of each model called.
        steps: how many the schedule has.
    """

    step: Step
    outputs: dict[str, Any]
    steps: int

    @property
    def rows(self) -> list[int]:
        """How many predictions each call makes, by call."""
        return [len(prediction(call.output)) for call in self.step.calls]


def whole_schedule(pipeline: Any, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`call` without decoding, over as many steps as the model was trained on, or fewer for solvers that refuse these."""
    known = inspect.signature(pipeline.__call__).parameters
    if "num_inference_steps" not in known:
        raise WiringError(f"{type(pipeline).__name__} takes no num_inference_steps: its schedule cannot be measured")
    trained = int(getattr(pipeline.scheduler.config, "num_train_timesteps", 1000))
    latent = {"output_type": "latent"} if "output_type" in known else {}
    for steps in (trained, trained - 1, trained // 2, trained // 10, trained // 20):
        yield {**call, **latent, "num_inference_steps": steps}


def opening(pipeline: Any, call: Mapping[str, Any]) -> Opening:
    """The first step of `pipeline(**call)`; its denoiser runs for that step alone.

    Raises:
        WiringError: the run ends before its second step.
    """
    listener = _Opening(pipeline)
    drive(pipeline, call, listener)
    if listener.found is None:
        raise WiringError(f"{type(pipeline).__name__} made {len(listener.seen)} steps; two are needed")
    return listener.found


def batching_of(pipeline: Any, call: Mapping[str, Any], one: Opening) -> Batching:
    """Along what the arguments of `one`, which is of one sample, are joined: seen from the same run with two samples."""
    why = "no keyword of the call makes two samples"
    for twice in _twice(pipeline, call):
        try:
            two = opening(pipeline, twice)
        except SurgeryError:
            raise
        except Exception as error:  # whatever a pipeline says to a call that it was not made for
            why = f"it cannot make two samples at once: {in_one_line(error, 200)}"
            continue
        if len(two.step.sample) == 2 * len(one.step.sample) and two.rows == [2 * rows for rows in one.rows]:
            return _merged(
                [compare(a.arguments, b.arguments) for a, b in zip(one.step.calls, two.step.calls, strict=True)]
            )
    return _from_rows(pipeline, one) or Batching({}, frozenset(), (why,))


def _from_rows(pipeline: Any, one: Opening) -> Batching | None:
    """The first dimension of all that has as many items as the forward has rows, if each row alone gives what it gave."""
    call, rows = one.step.calls[-1], one.rows[-1]
    tensors = {path: leaf for path, leaf in leaves(call.arguments).items() if isinstance(leaf, Tensor) and leaf.ndim}
    dims = {path: 0 for path, leaf in tensors.items() if len(leaf) == rows}
    lists = frozenset(path for path, v in call.arguments.items() if isinstance(v, list) and len(v) == rows)
    batching, whole = Batching(dims, lists), rows_of(prediction(call.output), rows)
    if rows == 1:
        return None
    try:
        with torch.no_grad():
            parts = [
                modules(pipeline)[call.model](**moved(part, whole.device))
                for part in batching.split(call.arguments, rows)
            ]
        alone = torch.cat([rows_of(prediction(part), 1) for part in parts])
    except Exception:  # whatever a model says to what is no part
        return None
    close = alone.shape == whole.shape and torch.allclose(alone, whole, rtol=0, atol=ALONE * float(whole.abs().max()))
    return batching if close else None


def _twice(pipeline: Any, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Calls that may make two samples where `call` makes one."""
    for name in inspect.signature(pipeline.__call__).parameters:
        if COUNT.fullmatch(name):
            yield {**call, name: 2}
    doubled: dict[str, Any] = {k: [v, v] for k, v in call.items() if isinstance(v, str) and k.endswith("prompt")}
    doubled |= {k: v * 2 for k, v in call.items() if isinstance(v, list) and len(v) == 1}
    doubled |= {k: torch.cat([v, v]) for k, v in call.items() if isinstance(v, Tensor) and v.ndim and len(v) == 1}
    if doubled:
        yield {**call, **doubled}


def _merged(found: list[Batching]) -> Batching:
    """One batching for all calls of a step; they are calls of one model, so a path has one meaning."""
    dims = {path: dim for batching in found for path, dim in batching.dims.items()}
    odd = [line for batching in found for line in batching.odd]
    odd += [
        f"argument {path} has no single dimension that counts samples"
        for path, dim in dims.items()
        if any(batching.dims.get(path, dim) != dim for batching in found)
    ]
    return Batching(dims, frozenset().union(*(b.lists for b in found)), tuple(dict.fromkeys(odd)))


class _Opening(Listener):
    """Lets the first step happen, then hands its outputs back until the second shows how many calls a step has."""

    def __init__(self, pipeline: Any) -> None:
        self.seen: list[Step] = []
        self.found: Opening | None = None
        self._scheduler, self._outputs = pipeline.scheduler, {}  # type: ignore[var-annotated]

    def forward(self, model: str, forward: Forward, arguments: Arguments) -> Any:
        if not self.seen or model not in self._outputs:
            self._outputs[model] = forward(**arguments)
        return self._outputs[model]

    def step(self, seen: Step, previous: Tensor) -> Tensor:
        self.seen.append(seen)
        if len(self.seen) < 2:
            return previous
        first, calls = self.seen[0], len(seen.calls)
        if not calls:
            raise WiringError("the scheduler makes two steps on one prediction")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors_in(first.model_output)):
            raise WiringError("the denoiser's first output is not finite")
        first.calls = first.calls[-calls:]
        names = {call.model for call in seen.calls}
        outputs = {name: output for name, output in self._outputs.items() if name in names}
        self.found = Opening(first, outputs, len(self._scheduler.timesteps))
        raise Done
