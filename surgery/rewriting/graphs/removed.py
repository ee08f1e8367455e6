"""What stands in a student where a module was taken out, so that all others keep their names."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn
from typing_extensions import override

from surgery.errors import RewriteError

FACTS = (bool, int, float, str, type(None))


class Removed(nn.Module):
    """Has no weights and is never called by the student's own forward.

    It keeps the numbers and words that were attributes of the module, as the modules around it may read them.
    """

    def __init__(self, path: str, old: nn.Module) -> None:
        super().__init__()
        self._path = path
        facts = {name: value for name, value in vars(old).items() if isinstance(value, FACTS) and name[0] != "_"}
        for name, value in facts.items():
            setattr(self, name, value)

    @override
    def __getattr__(self, name: str) -> Any:
        """Parts and tensors went with the module: LoRA, quantisers and `fuse_projections` of diffusers ask for them.

        Raises:
            AttributeError: there is nothing called `name`.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(f"{self._path}: was taken out of this model, so it has no {name}") from None

    @override
    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises:
            RewriteError: always.
        """
        raise RewriteError(f"{self._path}: was taken out of this model; call the model, not its parts")
