"""A student shares the memory of its teacher's weights until it learns others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from surgery.errors import RewriteError
from surgery.parallel.whole import is_divided
from surgery.recording.copying import place


def set_apart(parameters: Mapping[str, nn.Parameter], teacher: nn.Module) -> None:
    """Give what is to be trained memory of its own, where it holds the teacher's; the part of a divided one is its own.

    Args:
        parameters: of the student, by name.
        teacher: stays as it is.

    Raises:
        RewriteError: one is the teacher's own parameter.
    """
    parameters = {name: parameter for name, parameter in parameters.items() if not is_divided(parameter)}
    own = {id(parameter) for parameter in teacher.parameters()}
    taken = {place(parameter) for parameter in teacher.parameters() if not is_divided(parameter)}
    for name, parameter in parameters.items():
        if id(parameter) in own:
            raise RewriteError(f"{name} is a parameter of the teacher: copy the weights of a new operator")
        if place(parameter) in taken:
            parameter.data = parameter.data.clone()
