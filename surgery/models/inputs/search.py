"""Looks for inputs that a forward runs on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from surgery.errors import TraceError
from surgery.models.inputs.makers import Given, Maker, Noise
from surgery.models.inputs.probe import META, Probe, WidthError, unarithmetic
from surgery.models.inputs.sizes import ModelConfig, candidate_sizes
from surgery.models.inputs.slots import is_known, is_required, slots
from surgery.models.inputs.widths import MARKS, solve
from surgery.recording.binding import forward_signature
from surgery.recording.own_modes import OwnDraws
from surgery.recording.parameters import first_floating
from surgery.rewriting.commit import skeleton_before

TRIALS, STEPS = 500, 150_000  # of forwards and of the torch functions in them, after which a search gives up
TORCH, OWN = str(Path(torch.__file__).parent), str(Path(__file__).parents[2])
FINISHED = 1 << 60
DONE = (FINISHED, 0)

Choice = tuple[int, ...]
Progress = tuple[int, ...]


def example_inputs(model: nn.Module, batch: int = 1) -> dict[str, Any]:
    """Keyword arguments of one forward call of a diffusers transformer, on the model's device and in its dtype.

    Latents are noise of the model's own size where its config gives one, text is random tokens. What the inputs look
    like is told by their names, by the config and by what runs: candidates are tried on a copy of the model on the
    meta device, which has no weights.

    Raises:
        TraceError: no candidate runs.
    """
    parameter = first_floating(model)
    like = torch.empty(0) if parameter is None else parameter
    with unarithmetic(), OwnDraws():
        found = Search(model, batch, like.dtype).find()
    return {name: pytree.tree_map(lambda leaf: _real(leaf, like), value) for name, value in found.items()}


def _real(leaf: Any, like: torch.Tensor) -> Any:
    if isinstance(leaf, Noise):
        leaf = torch.randn(leaf.shape)
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return leaf.to(device=like.device, dtype=like.dtype if leaf.is_floating_point() else leaf.dtype)


class Search:
    """Looks for inputs that the forward of `model` runs on, starting from the most natural ones.

    A choice is a rank for the sizes and one for each slot. From the choice that came furthest so far, one rank is
    changed at a time, or two where that does not help, until the forward comes further.
    """

    def __init__(self, model: nn.Module, batch: int, dtype: torch.dtype) -> None:
        self._class_name = type(model).__name__
        self._config: ModelConfig = getattr(model, "config", {})
        self._parameters = forward_signature(type(model)).parameters
        self._sizes = candidate_sizes(self._config, self._class_name, batch)
        self._slots = slots(self._parameters, self._config, self._class_name)
        self._counts = [len(self._sizes), *map(len, self._slots)]
        self._marks = dict(zip(self._parameters, itertools.cycle(MARKS), strict=False))
        self._twin = skeleton_before(model)  # whose own code runs, as far as the inputs let it
        self._dtype = dtype
        self._steps = 0
        self.trials = 0

    def find(self) -> dict[str, Any]:
        """The inputs, with `Noise` for random tensors.

        Raises:
            TraceError: there are none.
        """
        choice = (0,) * len(self._counts)
        progress, inputs = self._try(choice)
        first = self._slots_of(self._open(inputs))
        while progress != DONE:
            for other in self._changes(choice, first):
                further, found = self._try(other)
                if further > progress:
                    changed = {i for i, rank in enumerate(other) if rank != choice[i]}
                    choice, progress, inputs, first = other, further, found, changed | self._slots_of(self._open(found))
                    break
            else:
                if progress[0] != FINISHED:
                    self._give_up()
                return inputs
        return inputs

    def _slots_of(self, names: set[str]) -> set[int]:
        return {i for i, slot in enumerate(self._slots, 1) if names & slot.options.keys()}

    def _changes(self, choice: Choice, first: set[int]) -> Iterator[Choice]:
        """Choices that differ from `choice` in one rank, then in two, the natural ones first.

        Ranks that are known to matter come `first`.
        """
        ones = [(i, rank) for i, count in enumerate(self._counts) for rank in range(count) if rank != choice[i]]
        ones.sort(key=lambda change: (change[0] not in first, change[1]))
        twos = [(a, b) for a, b in itertools.combinations(ones, 2) if a[0] != b[0]]
        twos.sort(key=lambda pair: pair[0][1] + pair[1][1])
        for changes in itertools.chain(((one,) for one in ones), twos):
            if self.trials >= TRIALS or self._steps >= STEPS:
                return
            other = list(choice)
            for i, rank in changes:
                other[i] = rank
            yield tuple(other)

    def _try(self, choice: Choice) -> tuple[Progress, dict[str, Any]]:
        """How far the forward comes on the inputs of `choice`, and these, with the widths that it asked for."""
        makers = {
            n: m for slot, rank in zip(self._slots, choice[1:], strict=True) for n, m in slot.choose(rank).items()
        }
        widths: dict[str, int] = {}
        while True:
            self.trials += 1
            try:
                inputs = self._made(makers, choice[0], widths)
                self._run(inputs)
            except WidthError as error:
                pairs = error.pairs
                if error.is_guess:
                    # Such a size is as likely to be one of tokens, of a layout that is not right yet.
                    pairs = [(g, e) for g, e in pairs if e not in vars(self._sizes[choice[0]]).values()]
                told = solve(pairs, {n: m for n, m in self._marks.items() if n in makers and n not in widths})
                if not told:
                    return _place(error.__traceback__), {}
                widths |= told
            except Exception as error:  # a model may fail in any way on inputs that it is not made for
                return _place(error.__traceback__), {}
            else:
                return (FINISHED, -len(self._open(inputs))), inputs

    def _made(self, makers: dict[str, Maker], rank: int, widths: dict[str, int]) -> dict[str, Any]:
        sizes = self._sizes[rank]
        given = {n: Given(self._config, sizes, widths.get(n, self._marks[n])) for n in makers}
        return {name: makers[name](given[name]) for name in self._parameters if name in makers}

    def _run(self, inputs: dict[str, Any]) -> None:
        stand_ins = pytree.tree_map(self._stand_in, inputs)
        with Probe() as probe:
            try:
                self._twin(**stand_ins)
            finally:
                self._steps += probe.steps

    def _stand_in(self, leaf: Any) -> Any:
        if isinstance(leaf, Noise):
            return torch.empty(leaf.shape, dtype=self._dtype, device=META)
        is_float = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.to(self._dtype) if is_float else leaf

    def _open(self, inputs: dict[str, Any]) -> set[str]:
        """The inputs of whose width no layer has told anything: they are not used, or not as they are meant."""

        def is_open(name: str, leaf: Any) -> bool:
            return isinstance(leaf, Noise) and self._marks[name] in leaf.shape

        return {n for n, value in inputs.items() if any(is_open(n, leaf) for leaf in pytree.tree_leaves(value))}

    def _give_up(self) -> None:
        required = [name for name, parameter in self._parameters.items() if is_required(parameter)]
        names = [name for name in required if not is_known(name)] or required
        raise TraceError(
            f"{self._class_name}: cannot make up {', '.join(names)}; "
            "give the inputs yourself: surgery.trace(model, inputs)"
        )


def _place(trace: TracebackType | None) -> Progress:
    """Where in the model's code a forward has failed: the line in its own code, in what that calls, and so on."""
    lines = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith((TORCH, OWN)):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return tuple(lines)
