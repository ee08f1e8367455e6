"""What a module's forward returns, as its caller follows it: values lose the frame that they were made in."""

from __future__ import annotations

from typing import Any

import torch

from surgery.recording.objects import Followed, is_object, made
from surgery.recording.torch_private import pytree
from surgery.tracing.frame import Frame
from surgery.tracing.sizes import Number, concrete
from surgery.tracing.stand_ins import stand_in


def handed_back(result: Any, outer: dict[int, Any], caller: Frame | None) -> Any:
    """`result` for the frame of the caller, if there is one; `outer` are the caller's own values by inner id."""

    def fresh(value: Any) -> Any:
        if id(value) in outer:
            return outer[id(value)]
        if isinstance(value, torch.Size):
            return torch.Size(map(fresh, value))
        if isinstance(value, Followed):
            return stand_in(value, caller) if caller else value
        if is_object(value):
            return made(type(value), pytree.tree_map(fresh, vars(value)))
        return caller.track(value.value) if isinstance(value, Number) and caller else concrete(value)

    return pytree.tree_map(fresh, result)
