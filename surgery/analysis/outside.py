"""Residual additions around a block: x + block(x) in the forward that calls it, maybe scaled on either side."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from surgery.analysis.readers import readers_of
from surgery.analysis.roles.primitives import bare, has_weights, inputs_of, shape_of, tensors
from surgery.analysis.roles.structure import Residual, Structure
from surgery.errors import AnalysisError
from surgery.recording.paths import child_path


@dataclass(frozen=True)
class Outside:
    """The residual addition of a block.

    Attributes:
        steps: what is computed from the block's result before it is added.
        sum: the addition.
        stream: which of its arguments goes on without the block.
    """

    steps: tuple[fx.Node, ...]
    sum: fx.Node
    stream: int


def find_outside(structure: Structure, scope: str, call: fx.Node) -> Outside | None:
    """The addition of what `call`, in the scope at that path, gives to the stream that it reads; None if there is none.

    A block with a residual addition of its own has none outside.

    Raises:
        AnalysisError: there is one, but something else reads what the block gives, too; or there is none, and something
            else reads what the block reads, in a way that is not understood.
    """
    if child_path(scope, call) in structure.blocks:
        return None
    for (path, node), residual in structure.residuals.items():
        if path == scope and (scope, call) in residual.sublayer and _reads_stream(structure, scope, call, residual):
            return Outside(_steps(call, node), node, node.args.index(residual.stream))
    for source in inputs_of(call):
        others = (user for user in readers_of(source) if user is not call and tensors(user))
        if shape_of(source) == shape_of(call) and (other := next(others, None)):
            raise AnalysisError(
                f"{call.target} has no residual addition, and what it reads is read by {other.name} too"
            )
    return None


def _steps(call: fx.Node, last: fx.Node) -> tuple[fx.Node, ...]:
    """All that is computed from what `call` gives, up to its addition by `last`."""
    found, waiting = list[fx.Node](), [call]
    while waiting:
        for reader in readers_of(waiting.pop()):
            if reader is last or reader in found:
                continue
            if reader.op == "output" or has_weights(reader):
                raise AnalysisError(
                    f"{call.target} is added to what it reads outside of it, and read by {reader.name} too"
                )
            found.append(reader)
            waiting.append(reader)
    return tuple(found)


def _reads_stream(structure: Structure, scope: str, call: fx.Node, residual: Residual) -> bool:
    """Whether `call` reads what `residual` adds to, be that scaled or not."""
    origins = set(structure.origins(scope, residual.stream))
    return any(node in origins for source in inputs_of(call) for node in bare(source))
