"""What graphs of FlexAttention call: functions made as the graph runs, and masks made from block indices."""

from __future__ import annotations

from types import CellType, FunctionType
from typing import Any

from torch.nn.attention.flex_attention import BlockMask


class Closure:
    """Makes a function from the values that it closes over.

    Args:
        function: a plain Python function; its code is kept, the values in its cells are not.
    """

    def __init__(self, function: FunctionType) -> None:
        self._code = function.__code__
        self._globals = function.__globals__
        self._defaults = function.__defaults__
        self.__module__ = function.__module__
        self.__name__ = f"{function.__name__}_{function.__code__.co_firstlineno}"

    def __call__(self, *values: Any) -> FunctionType:
        """The function over `values`."""
        cells = tuple(CellType(value) for value in values)
        return FunctionType(self._code, self._globals, self._code.co_name, self._defaults, cells)


def closed_over(function: FunctionType) -> tuple[Any, ...]:
    """The values in the cells of `function`, in the order in which `Closure` takes them."""
    return tuple(cell.cell_contents for cell in function.__closure__ or ())


def block_mask_from_kv_blocks(*args: Any, **kwargs: Any) -> BlockMask:
    """`BlockMask.from_kv_blocks`, which as a bound method has no name that generated code could call it by."""
    return BlockMask.from_kv_blocks(*args, **kwargs)
