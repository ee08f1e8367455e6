"""Residual additions around a block: x + block(x) in the forward that calls it, maybe scaled on either side."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from surgery.analysis.readers import readers_of
from surgery.analysis.roles.primitives import bare, has_weights, inputs_of
from surgery.analysis.roles.structure import Residual, Structure
from surgery.recording.paths import child_path


@dataclass(frozen=True)
class Outside:
    """The residual addition of a block.

    Attributes:
        steps: what is done to the block's result before it is added, in execution order.
        sum: the addition.
        stream: which of its arguments goes on without the block.
    """

    steps: tuple[fx.Node, ...]
    sum: fx.Node
    stream: int


def find_outside(structure: Structure, scope: str, call: fx.Node) -> Outside | None:
    """The addition of what `call`, in the scope at that path, gives to the stream that it reads; None if there is none.

    A block with a residual addition of its own has none outside.
    """
    if child_path(scope, call) in structure.blocks:
        return None
    steps, node = list[fx.Node](), call
    while len(readers := readers_of(node)) == 1:
        (reader,) = readers
        residual = structure.residuals.get((scope, reader))
        if residual is not None and residual.branch is node:
            is_around = _reads_stream(structure, scope, call, residual) and not reader.kwargs
            return Outside(tuple(steps), reader, reader.args.index(residual.stream)) if is_around else None
        if has_weights(reader):
            return None
        steps.append(reader)
        node = reader
    return None


def _reads_stream(structure: Structure, scope: str, call: fx.Node, residual: Residual) -> bool:
    """Whether `call` reads what `residual` adds to, be that scaled or not."""
    origins = set(structure.origins(scope, residual.stream))
    return any(node in origins for source in inputs_of(call) for node in bare(source))
