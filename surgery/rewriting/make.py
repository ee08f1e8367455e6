"""Making the new modules of edits, with what they inherit."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surgery.errors import RewriteError
from surgery.rewriting.edit import Edit
from surgery.rewriting.removed import Removed
from surgery.rewriting.replacement import Copy, New, Replacement, Resizing, Rewiring, Sharing


class Maker:
    """Makes new modules for a student; each draws its random weights from its own stream.

    Args:
        student: where they will go; not changed.
        seed: of the random weights; None leaves out what is inherited, for weights that will be loaded.
    """

    def __init__(self, student: nn.Module, seed: int | None) -> None:
        self._student = student
        self._seed = seed
        self._around: dict[str, Tensor] = {}

    def make(self, edit: Edit) -> dict[str, nn.Module]:
        """What `edit` puts into the student, by path.

        Raises:
            RewriteError: a module that it needs is not there, or cannot be inherited from.
        """
        replacement = edit.replacement
        if isinstance(replacement, Replacement):
            old = self._at(edit.paths[0])
            new = self._initialised(edit, edit.paths[0], replacement, [old], _like(old))
            return dict.fromkeys(edit.paths, new)
        if isinstance(replacement, Sharing):
            return self._shared(edit.paths, replacement.average and self._seed is not None)
        if isinstance(replacement, Resizing):
            return self._resized(edit, replacement)
        made = {path: self._wired(edit, replacement, name, path) for name, path in edit.modules.items()}
        return made | {path: Removed(path, self._at(path)) for path in edit.paths}

    def _resized(self, edit: Edit, resizing: Resizing) -> dict[str, nn.Module]:
        """A new module in every place of each old one."""
        old = {name: self._at(path) for name, path in edit.modules.items()}
        places = {path: self._at(path) for path in edit.paths}
        made: dict[str, nn.Module] = {}
        for name, new in resizing.modules.items():
            sources = [old[source] for source in new.sources]
            module = self._initialised(edit, edit.modules[name], new, sources, _like(old[name]))
            made |= {path: module for path, each in places.items() if each is old[name]}
        return made

    def _wired(self, edit: Edit, rewiring: Rewiring, name: str, path: str) -> nn.Module:
        """The new module called `name`, which goes to `path`."""
        new = rewiring.modules[name]
        if isinstance(new, Copy):
            return copy.deepcopy(self._matched(edit, name, new.of))
        sources = [self._matched(edit, name, of) for of in new.sources]
        return self._initialised(edit, path, new, sources, _like(sources[0]) if sources else self._like_around(edit))

    def _matched(self, edit: Edit, name: str, of: str) -> nn.Module:
        """The module that the matched node `of` calls."""
        assert edit.place is not None
        anchor = edit.place.nodes[of][0]
        if anchor.op != "call_module":
            raise RewriteError(f"{edit.path}: {name} is initialised from {of}, which is no module")
        return self._at(f"{edit.place.scope}.{anchor.target}".removeprefix("."))

    def _at(self, path: str) -> nn.Module:
        try:
            return self._student.get_submodule(path)
        except AttributeError:
            raise RewriteError(f"{path}: {type(self._student).__name__} has no such module") from None

    def _like_around(self, edit: Edit) -> Tensor:
        """A parameter of the scope that is rewired, found once: a module with many children is slow to search."""
        assert edit.place is not None
        scope = edit.place.scope
        if scope not in self._around:
            self._around[scope] = _like(self._at(scope))
        return self._around[scope]

    def _initialised(
        self, edit: Edit, path: str, new: Replacement | New, sources: Sequence[nn.Module], like: Tensor
    ) -> nn.Module:
        """A new module on the device and in the dtype of `like`, in the mode of what it inherits from."""
        torch.default_generator.manual_seed(_stream(self._seed or 0, path))  # torch.manual_seed takes a millisecond
        module = new.build()
        device = None if self._seed is None else like.device  # tables keep their values until weights are loaded
        if any((p.device, p.dtype) != (like.device, like.dtype) for p in (*module.parameters(), *module.buffers())):
            module = module.to(device=device, dtype=like.dtype)
        if self._seed is not None and sources:
            try:
                with torch.no_grad():
                    module.inherit(*sources, policy=new.inherit)  # type: ignore[operator]
            except Exception as error:
                raise RewriteError(f"{edit.path}: cannot initialise {new.operator.kind}: {error}") from error
        return module.train(sources[0].training if sources else self._student.training)

    def _shared(self, paths: Sequence[str], average: bool) -> dict[str, nn.Module]:
        """The first module in the places of all; with the mean of their weights, if wanted."""
        modules = list(dict.fromkeys(self._at(path) for path in paths))
        if not average:
            return dict.fromkeys(paths[1:], modules[0])
        mean = copy.deepcopy(modules[0])
        states = [module.state_dict() for module in modules]
        with torch.no_grad():
            for name, tensor in mean.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(torch.stack([state[name] for state in states]).mean(0))
        return dict.fromkeys(paths, mean)


def _like(module: nn.Module) -> Tensor:
    return next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))


def _stream(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:8], "little") >> 1
