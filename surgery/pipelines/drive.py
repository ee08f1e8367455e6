"""Running a pipeline while watching, or standing in for, its models' forwards and its scheduler's steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgery.pipelines.tree import Arguments, cloned, kept

Forward = Callable[..., Any]


class Done(Exception):
    """Raised by a listener that has seen enough; the run ends there."""


@dataclass
class Call:
    """One forward of one of the pipeline's models.

    Attributes:
        model: name of the component.
        arguments: by the names in its forward's signature, as they were then; on the CPU.
        output: what it returned.
    """

    model: str
    arguments: Arguments
    output: Any


@dataclass
class Step:
    """One call of the scheduler's `step`.

    Attributes:
        timestep, sigma: those of the scheduler; sigma is None for schedulers that keep none.
        sample, model_output: what it was called with.
        scaled: the sample as the scheduler has scaled it for the model before.
        calls: the forwards since the step before.
    """

    timestep: float
    sigma: float | None
    sample: Tensor
    model_output: Any
    scaled: Tensor
    calls: list[Call]


class Listener:
    """What happens at each forward and each step of a run; by default, the pipeline's own code.

    Attributes:
        replaces_latents: whether `step` gives latents of its own at each step. The scheduler then steps on a single
            element, as solvers of higher orders cost more than all else; and what `step` sees is not copied to the CPU.
    """

    replaces_latents = False

    def forward(self, model: str, forward: Forward, arguments: Arguments) -> Any:  # noqa: ARG002
        """The output of `model`; `forward` is its own, and `arguments` may not be changed."""
        return forward(**arguments)

    def step(self, seen: Step, previous: Tensor) -> Tensor:  # noqa: ARG002
        """The latents to go on with; `previous` is what the scheduler gave, or of its shape and dtype only."""
        return previous

    def scale(self, own: Callable[[Tensor], Tensor], sample: Tensor) -> Tensor:
        """What the pipeline goes on with where it asks its scheduler, whose code is `own`, to scale latents."""
        return own(sample)


def drive(pipeline: Any, call: Mapping[str, Any], listener: Listener, seed: int | None = None) -> Any:
    """Run `pipeline(**call)` for `listener` until it raises `Done` or the run ends; `seed` sets torch's own generator.

    Whatever happens, the pipeline, its scheduler, its models, the generators in `call` and torch's own are left as they
    were; so each run starts from the same noise.

    Returns:
        What the pipeline gives; None if the run was ended early.
    """
    with ExitStack() as stack:
        stack.enter_context(_random_state_kept(call))
        stack.enter_context(_attributes_kept(pipeline))
        stack.enter_context(_attributes_kept(pipeline.scheduler))
        if seed is not None:
            torch.manual_seed(seed)
        calls: list[Call] = []
        scaled: list[Tensor] = []
        for name, model in modules(pipeline).items():
            stack.enter_context(_additions_removed(model))
            stack.enter_context(attribute_set(model, "forward", _watched(name, model, listener, calls)))
        pipeline.scheduler.step = _stepping(pipeline.scheduler, listener, calls, scaled)
        if hasattr(pipeline.scheduler, "scale_model_input"):
            pipeline.scheduler.scale_model_input = _scaling(pipeline.scheduler, listener, scaled)
        if hasattr(pipeline, "set_progress_bar_config"):
            pipeline.set_progress_bar_config(disable=True)
        try:
            with torch.no_grad():
                return pipeline(**call)
        except Done:
            return None


def modules(pipeline: Any) -> dict[str, nn.Module]:
    """The components of a pipeline that are modules, by name."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def _watched(name: str, model: nn.Module, listener: Listener, calls: list[Call]) -> Forward:
    forward = model.forward
    signature, copies = inspect.signature(forward), _Copies()

    @functools.wraps(forward)  # pipelines look at the signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        bound = dict(signature.bind(*args, **kwargs).arguments)
        bound |= bound.pop("kwargs", {})
        seen = copies.of(bound)  # before the forward: a pipeline may write into its tensors afterwards
        output = listener.forward(name, forward, bound)
        calls.append(Call(name, seen, output))
        return output

    return watched


class _Copies:
    """Copies of arguments on the CPU; a tensor that is passed again unchanged is copied once: the same object then."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[Tensor, int, Tensor]] = {}

    def of(self, arguments: Arguments) -> Arguments:
        copies: dict[int, tuple[Tensor, int, Tensor]] = {}

        def copy(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            old = self._last.get(id(leaf))
            if old is None or old[0] is not leaf or old[1] != leaf._version:
                old = (leaf, leaf._version, kept(leaf))
            copies[id(leaf)] = old
            return old[2]

        copied: Arguments = torch.utils._pytree.tree_map(copy, arguments)
        self._last = copies
        return copied


def _stepping(scheduler: Any, listener: Listener, calls: list[Call], scaled: list[Tensor]) -> Forward:
    step = scheduler.step
    signature = inspect.signature(step)

    @functools.wraps(step)  # pipelines look at the signature
    def stepping(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        timestep = float(torch.as_tensor(given["timestep"]).flatten()[0])
        sample, output = given["sample"], given["model_output"]
        seen = Step(timestep, None, sample, output, scaled[-1] if scaled else sample, list(calls))
        calls.clear()
        scaled.clear()
        if listener.replaces_latents:
            given["sample"], given["model_output"] = _corners(sample, output)
        else:
            seen.sample, seen.model_output, seen.scaled = kept((sample, output, seen.scaled))
        out = step(*bound.args, **bound.kwargs)
        seen.sigma = _sigma_before(scheduler)
        previous = out[0] if isinstance(out, tuple) else out.prev_sample
        if given["sample"].shape != seen.sample.shape:
            previous = previous.expand(seen.sample.shape)
        previous = listener.step(seen, previous)
        if isinstance(out, tuple):
            return (previous, *out[1:])
        out.prev_sample = previous
        return out

    return stepping


def _scaling(scheduler: Any, listener: Listener, scaled: list[Tensor]) -> Forward:
    scale = scheduler.scale_model_input

    @functools.wraps(scale)
    def scaling(sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = listener.scale(lambda each: scale(each, *args, **kwargs), sample)
        scaled.append(given)
        return given

    return scaling


def _corners(sample: Tensor, output: Any) -> tuple[Tensor, Any]:
    """One element of each, with as many dimensions; all of both where they differ in shape."""
    if not isinstance(output, Tensor) or output.shape != sample.shape:
        return cloned(sample), cloned(output)
    corner = (slice(1),) * sample.ndim
    return sample[corner].clone(), output[corner].clone()


def _sigma_before(scheduler: Any) -> float | None:
    """The sigma of the step just made."""
    index, sigmas = getattr(scheduler, "step_index", None), getattr(scheduler, "sigmas", None)
    return None if index is None or sigmas is None else float(sigmas[index - 1])


@contextmanager
def attribute_set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Shadow an attribute on `owner` itself."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)


@contextmanager
def _attributes_kept(owner: Any) -> Iterator[None]:
    """Put the attributes of `owner` back at the end, lists and dicts with the items that they had."""
    before = {k: v.copy() if type(v) in (list, dict) else v for k, v in vars(owner).items()}
    try:
        yield
    finally:
        vars(owner).clear()
        vars(owner).update(before)


@contextmanager
def _additions_removed(owner: Any) -> Iterator[None]:
    """Remove at the end the attributes that `owner` got, such as the registry of a cache."""
    before = set(vars(owner))
    try:
        yield
    finally:
        for name in vars(owner).keys() - before:
            delattr(owner, name)


@contextmanager
def _random_state_kept(call: Mapping[str, Any]) -> Iterator[None]:
    given = call.get("generator")
    generators = given if isinstance(given, list) else [given] if given is not None else []
    states = [generator.get_state() for generator in generators]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
