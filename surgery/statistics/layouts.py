"""Which grid the tokens of an attention lie on: told from the model's arguments, and from what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import LINEARS, inputs_of, is_module, name_of, shape_of
from surgery.recording.torch_private import ConvBase
from surgery.statistics.attention import Layout

Grid = tuple[int, ...]
COLUMNS = range(2, 5)
"""Of a tensor of positions, one row a token."""
JOINS = {"cat", "concat", "concatenate"}


class Layouts:
    """The layouts of attentions in one traced forward.

    What tells the grid most plainly counts: a tensor of positions; what a convolution over latents gives; latents, in
    patches as large as the number of tokens asks for; the numbers of frames, rows and columns. If it tells several grids
    of as many tokens, none is taken.

    Args:
        flow: of the traced model.
        arguments: of its forward.
    """

    def __init__(self, flow: Flow, arguments: Mapping[str, Any]) -> None:
        leaves = pytree.tree_leaves(dict(arguments))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        convolved = [shape_of(node) for _, node in flow.order if _is_convolution(node)]
        self._flow = flow
        self._told = [
            {grid for tensor in tensors if (grid := _listed(tensor))},
            {grid for shape in convolved for grid in _trailing(shape)},
            {grid for tensor in tensors if tensor.is_floating_point() for grid in _patches(tuple(tensor.shape))},
            set(_runs(leaves)),
        ]

    def of(self, query: ScopedNode, tokens: int) -> Layout | None:
        """That of the `tokens` that attend to each other, whose queries are at `query`; text may come before or after."""
        grid = self._grid(tokens)
        if grid is not None:
            return Layout(grid)
        for pieces in self._joined(query, tokens):
            grids = [self._grid(piece) for piece in pieces]
            if sum(grid is not None for grid in grids) == 1:
                number = next(n for n, grid in enumerate(grids) if grid is not None)
                return Layout(grids[number] or (), sum(pieces[:number]))
        return None

    def _grid(self, tokens: int) -> Grid | None:
        """The grid of so many tokens."""
        fitting = next(filter(None, ({g for g in told if math.prod(g) == tokens} for told in self._told)), set[Grid]())
        return fitting.pop() if len(fitting) == 1 else None

    def _joined(self, query: ScopedNode, tokens: int) -> Iterator[list[int]]:
        """The numbers of tokens of what is joined to `tokens`, the nearest above `query` first."""
        for _, node in self._flow.walk([query]):
            pieces = [shape_of(piece) for piece in inputs_of(node)] if name_of(node) in JOINS else []
            for axis in range(len(shape_of(node)) - 1):  # the last one is that of features
                sizes = [shape[axis] for shape in pieces]
                if shape_of(node)[axis] == tokens == sum(sizes) and len(sizes) > 1:
                    yield sizes


def _is_convolution(node: fx.Node) -> bool:
    return is_module(node, (ConvBase,)) or name_of(node) in LINEARS - {"linear", "conv1d"}


def _trailing(shape: tuple[int, ...]) -> Iterator[Grid]:
    """Of (B, C, rows, columns) or (B, C, frames, rows, columns) the grid, and that of one frame."""
    yield from _of_two_axes([shape[2:], shape[3:]] if len(shape) in (4, 5) else [])


def _patches(shape: tuple[int, ...]) -> Iterator[Grid]:
    """Grids that (B, C, rows, columns) or (B, C, frames, rows, columns), or frames first, may be cut into."""
    if len(shape) not in (4, 5):
        return
    *_, height, width = shape
    pictures = [(height // n, width // n) for n in range(1, min(height, width) + 1) if not (height % n or width % n)]
    counts = {count // n for count in shape[1:-2] for n in range(1, count + 1) if not count % n}
    videos = [(count, *picture) for picture in pictures for count in counts] if len(shape) == 5 else []
    yield from _of_two_axes([*pictures, *videos])


def _listed(tensor: Tensor) -> Grid | None:
    """The grid that the rows of `tensor`, (N, axes) or (B, N, axes), are the positions in, in raster order."""
    rows = tensor if tensor.ndim == 2 else tensor[0] if tensor.ndim == 3 and len(tensor) else None
    if rows is None or rows.shape[1] not in COLUMNS or tensor.is_meta or tensor.is_complex():
        return None
    columns = [column.unique(return_inverse=True) for column in rows.T]
    sizes = tuple(len(values) for values, _ in columns)
    number = rows.new_zeros(len(rows)).long()
    for size, (_, places) in zip(sizes, columns, strict=True):
        number = number * size + places
    in_order = math.prod(sizes) == len(rows) and bool((number.diff() == 1).all())
    return next(iter(_of_two_axes([tuple(s for s in sizes if s > 1)])), None) if in_order else None


def _runs(leaves: list[Any]) -> Iterator[Grid]:
    """Two or three whole numbers in a row."""
    for size in (2, 3):
        for start in range(len(leaves) - size + 1):
            run = leaves[start : start + size]
            if all(type(number) is int and number > 0 for number in run):
                yield from _of_two_axes([tuple(run)])


def _of_two_axes(grids: Iterable[Grid]) -> Iterator[Grid]:
    """Those with rows and columns, without axes of one place."""
    for grid in grids:
        kept = tuple(size for size in grid if size > 1)
        if len(kept) in (2, 3):
            yield kept
