"""Parameters and bytes of a model before and after edits, of which a tensor in several places counts once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

from surgery.recording.paths import outers, parent_and_name
from surgery.rewriting.edit import Change, Edit


def count_weights(model: nn.Module, edits: Sequence[Edit]) -> tuple[Change, Change]:
    """Parameters, and bytes of parameters and buffers."""
    slots = _Slots(model)
    changes = [edit.weights(model) for edit in edits]
    gone = {slots.of(path) for each in changes for path in each.gone}
    parameters = _with_fate(model.named_parameters(remove_duplicate=False), slots, gone)
    buffers = _with_fate(model.named_buffers(remove_duplicate=False), slots, gone)
    copied = [t for each in changes for path in each.copied for t in _tensors(model.get_submodule(path))]
    copies = sum(tensor.numel() for tensor in copied if isinstance(tensor, nn.Parameter))
    new = sum(each.new for each in changes)
    size = max((p.itemsize for p, _ in parameters if p.is_floating_point()), default=4)
    every, staying = [t for t, _ in (*parameters, *buffers)], [t for t, stays in (*parameters, *buffers) if stays]
    return (
        Change(before=sum(p.numel() for p, _ in parameters), after=sum(p.numel() for p, s in parameters if s) + new),
        Change(before=_bytes(every), after=_bytes(staying) + _bytes(copied) + size * (new - copies)),
    )


class _Slots:
    """The places for modules in others, of which one that stands in several places itself has no more."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = {path: id(module) for path, module in model.named_modules(remove_duplicate=False)}

    def of(self, path: str) -> tuple[int, str]:
        """The module around the one at `path`, and the name in it."""
        parent, name = parent_and_name(path)
        return self._modules[parent], name


def _with_fate(
    named: Iterable[tuple[str, Tensor]], slots: _Slots, gone: set[tuple[int, str]]
) -> list[tuple[Tensor, bool]]:
    """Each tensor, and whether it stays in one of its places."""
    found: dict[int, tuple[Tensor, bool]] = {}
    for name, tensor in named:
        _, stays = found.get(id(tensor), (tensor, not gone))
        *modules, _ = outers(name) if not stays else [name]
        found[id(tensor)] = tensor, stays or not any(slots.of(path) in gone for path in modules)
    return list(found.values())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
