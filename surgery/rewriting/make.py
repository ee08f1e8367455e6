"""Making the new modules of a student: fresh, on the right device, in the right dtype, with the weights they inherit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surgery.errors import RewriteError
from surgery.recording.own_modes import OwnDraws
from surgery.recording.parameters import first_floating
from surgery.rewriting.replacement import New, Replacement


class Maker:
    """Makes new modules for a student; each draws its random weights from its own stream.

    Args:
        student: where they will go; not changed.
        seed: of the random weights; None leaves out what is inherited, for weights that will be loaded.
    """

    def __init__(self, student: nn.Module, seed: int | None) -> None:
        self._student = student
        self._seed = seed
        self._like: dict[str, Tensor] = {}

    @property
    def inherits(self) -> bool:
        """Whether new modules take over weights."""
        return self._seed is not None

    def at(self, path: str) -> nn.Module:
        """The module at `path`.

        Raises:
            RewriteError: there is none.
        """
        try:
            return self._student.get_submodule(path)
        except AttributeError:
            raise RewriteError(f"{path}: {type(self._student).__name__} has no such module") from None

    def like_in(self, path: str) -> Tensor:
        """A parameter of the module at `path`, found once: a module with many children is slow to search."""
        if path not in self._like:
            self._like[path] = like(self.at(path))
        return self._like[path]

    def initialised(
        self, where: str, path: str, new: Replacement | New, sources: Sequence[nn.Module], like: Tensor
    ) -> nn.Module:
        """A new module on the device and in the dtype of `like`, in the mode of what it inherits from.

        Args:
            where: names the edit in messages.
            path: where it will stand, which its random weights depend on.
            new: what it is.
            sources: the modules that it inherits from.
            like: a tensor.

        Raises:
            RewriteError: it cannot inherit from them.
        """
        with OwnDraws(_stream(self._seed or 0, path)):
            return self._initialised(where, new, sources, like)

    def _initialised(self, where: str, new: Replacement | New, sources: Sequence[nn.Module], like: Tensor) -> nn.Module:
        """See `initialised`."""
        module = new.build()
        device = like.device if self.inherits else None  # tables keep their values until weights are loaded
        if any((p.device, p.dtype) != (like.device, like.dtype) for p in (*module.parameters(), *module.buffers())):
            module = module.to(device=device, dtype=like.dtype)
        if self.inherits and sources:
            try:
                with torch.no_grad():
                    module.inherit(*sources, policy=new.inherit)  # type: ignore[operator]
            except Exception as error:
                raise RewriteError(f"{where}: cannot initialise {new.operator.kind}: {error}") from error
        return module.train(sources[0].training if sources else self._student.training)


def like(module: nn.Module) -> Tensor:
    """A floating-point tensor that tells the device and dtype of `module`."""
    near = first_floating(module)
    return torch.empty(0) if near is None else near


def _stream(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:8], "little") >> 1
