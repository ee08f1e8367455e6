"""What stands in a student where a module was taken out, so that all others keep their names."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn
from typing_extensions import override

from surgery.errors import RewriteError


class Removed(nn.Module):
    """Has no weights and is never called by the student's own forward."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @override
    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises:
            RewriteError: always.
        """
        raise RewriteError(f"{self.path}: was taken out of this model; call the model, not its parts")
