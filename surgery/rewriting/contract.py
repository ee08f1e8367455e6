"""The shape contract: what is new is run on the meta device, at several sizes, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils import _pytree as pytree

from surgery.errors import RewriteError
from surgery.recording.cost import FlopCounter, cost_of
from surgery.recording.scope import unbind
from surgery.recording.skeleton import skeleton
from surgery.recording.state import own_class
from surgery.rewriting.replacement import Call, Copy, New, Replacement, Resizing, Rewiring, parse
from surgery.rewriting.site import Site, traced

Resize = Callable[[Any], Any]


class Cost(NamedTuple):
    """Parameters, and floating point operations of one call: all, and those of mixing alone."""

    params: int
    flops: int
    flops_mixing: int


class Contract:
    """Checks replacements; equal ones at places of equal sizes are run once."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def check(self, site: Site, replacement: Replacement) -> Cost:
        """Run the replacement in the place of the module at `site`, at the traced sizes and at others.

        Raises:
            RewriteError: it fails, or gives another shape or dtype than the module that it replaces.
        """
        new = self._build(site, replacement)
        call = (*site.arguments, site.result)
        for resize in _sizes(site.operator.in_shape, replacement.operator.takes_any_length):
            args, kwargs, expected = resize(call)
            result, _ = self._result(site.path, replacement, new, args, kwargs)
            _require_alike(site.path, result, expected, replacement.operator.kind)
        cost: Cost = self._result(site.path, replacement, new, *site.arguments)[1]
        return cost

    def check_rewiring(self, site: Site, rewiring: Rewiring) -> Cost:
        """Run the new calls on what the matched nodes read; their results must be like those that they replace.

        Returns:
            What the new modules have, and what all new calls cost.

        Raises:
            RewriteError: a call fails, or a result has another shape or dtype than what it replaces.
        """
        key = ("rewiring", rewiring.model_dump_json(), _kinds(site), _dtype(self.near(site)))
        cost: Cost = self._once(key, lambda: self._run(site, rewiring))
        return cost

    def _run(self, site: Site, rewiring: Rewiring) -> Cost:
        costs: list[Cost] = []
        operators = [new.operator for new in rewiring.modules.values() if isinstance(new, New)]
        tokens = _tokens(site)
        given = [_traced_value(site, value) for call in rewiring.calls for value in call.arguments.values()
                 if parse(value)[0] in site.items]  # fmt: skip
        # How long a mask is with more tokens is not known.
        masked = any(_is_mask(leaf, tokens) for leaf in pytree.tree_leaves(given))
        any_length = all(operator.takes_any_length for operator in operators) and not masked
        for number, resize in enumerate(_sizes(tokens, any_length)):
            run = _Run(self, site, rewiring, resize)
            for old, new in rewiring.results.items():
                _require_alike(site.path, run.value(new), resize(_traced_value(site, old)), f"{new} for {old}")
            costs = costs if number else run.costs
        return Cost(*map(sum, zip(*costs, strict=True))) if costs else Cost(0, 0, 0)

    def check_resizing(self, site: Site, paths: Mapping[str, str], resizing: Resizing) -> tuple[Cost, Cost]:
        """Run the module around `site` with the new modules, at the traced sizes and at others.

        Args:
            site: what matched.
            paths: of the modules, by the names that `resizing` gives them.
            resizing: its new modules.

        Returns:
            What that module costs before and after.

        Raises:
            RewriteError: it fails, or its result has another shape or dtype than before.
        """
        unit = site.unit
        below = {name: path.removeprefix(f"{unit}.") for name, path in paths.items()}
        recording = site.graph.scopes[unit].recordings[0]
        around = tuple(map(str, map(_kind, recording.in_leaves)))
        key = ("resizing", resizing.model_dump_json(), _kinds(site), tuple(below.items()), around)
        costs: tuple[Cost, Cost] = self._once(key, lambda: self._resized(site, unit, below, resizing))
        return costs

    def _resized(self, site: Site, unit: str, below: Mapping[str, str], resizing: Resizing) -> tuple[Cost, Cost]:
        module = site.graph.model.get_submodule(unit)
        old, new = skeleton(module), skeleton(module)
        for name, made in resizing.modules.items():
            like = _first_floating(module.get_submodule(below[name]))
            parent, _, last = below[name].rpartition(".")
            new.get_submodule(parent).register_module(last, _built(site.path, made, like))
        recording = site.graph.scopes[unit].recordings[0]
        arguments = pytree.tree_unflatten(recording.in_leaves, recording.in_spec)
        words = ", ".join(dict.fromkeys(made.operator.kind for made in resizing.modules.values()))
        costs: list[tuple[Cost, Cost]] = []
        for resize in _sizes(site.operator.in_shape):
            args, kwargs = unbind(own_class(module), resize(arguments), len(arguments))
            try:
                before = _Counted(site.path, type(module).__name__, old, args, kwargs)
            except RewriteError:
                if not costs:
                    raise
                continue  # other arguments, such as rotary embeddings, are still those of the traced size
            after = _Counted(site.path, words, new, args, kwargs)
            _require_alike(site.path, after.result, before.result, words)
            costs.append((before.cost, after.cost))
        return costs[0]

    def result_of(self, path: str, new: New, like: nn.Parameter | None, args: Any, kwargs: Any) -> tuple[Any, Cost]:
        """What the new module gives, and what it costs."""
        module = self._once(("built", new, _dtype(like)), lambda: _built(path, new, like))
        result: tuple[Any, Cost] = self._result(path, new, module, args, kwargs)
        return result

    def near(self, site: Site) -> nn.Parameter | None:
        """A parameter that tells the dtype of what is around `site`."""
        matched = (_first_floating(item.module) for item in site.items.values() if item.is_module)
        scope = site.graph.model.get_submodule(site.scope)
        around = self._once(("near", site.scope), lambda: _first_floating(scope))
        return next((p for p in matched if p is not None), around)

    def _build(self, site: Site, replacement: Replacement) -> nn.Module:
        like = _first_floating(site.module)
        module: nn.Module = self._once(
            ("built", replacement, _dtype(like)), lambda: _built(site.path, replacement, like)
        )
        return module

    def _result(self, path: str, new: Replacement | New, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the new module gives, and what that costs."""

        def run() -> tuple[Any, Cost]:
            with FlopCounter() as counter:
                result = _called(path, new.operator.kind, module, args, kwargs)
            flops, mixing = cost_of(module, (args, kwargs), counter.total)
            return result, Cost(sum(p.numel() for p in module.parameters()), flops, mixing or 0)

        return self._once(("run", id(module), str(pytree.tree_map(_kind, (args, kwargs)))), run)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


class _Run:
    """The new calls of a rewiring, run at one size."""

    def __init__(self, contract: Contract, site: Site, rewiring: Rewiring, resize: Resize) -> None:
        self._contract, self._site, self._rewiring, self._resize = contract, site, rewiring, resize
        self._results: dict[str, Any] = {}
        self.costs: list[Cost] = []
        for call in rewiring.calls:
            self._results[call.name] = self._call(call)

    def value(self, value: str) -> Any:
        """A matched or new value."""
        name, argument, items = parse(value)
        if argument is not None or name not in self._results:
            return self._resize(_traced_value(self._site, value))
        return _items(self._results[name], items, value, self._site.path)

    def _call(self, call: Call) -> Any:
        given = {name: self.value(value) for name, value in call.arguments.items()}
        new = self._rewiring.modules.get(call.module)
        if isinstance(new, New):
            args, given = self._like(call, given)
            like = self._contract.near(self._site)
            result, cost = self._contract.result_of(self._site.path, new, like, args, given)
            self.costs.append(cost)
            return result
        return self._again(call, new.of if isinstance(new, Copy) else call.module, given, isinstance(new, Copy))

    def _again(self, call: Call, name: str, given: dict[str, Any], is_copy: bool) -> Any:
        """What a module that is there already, or a copy of it, gives; run only if its arguments are of other kinds."""
        item = self._site[name]
        self.costs.append(Cost(item.part.params * is_copy, item.part.flops, item.part.flops_mixing))
        bound = {key: self._resize(traced(value)) for key, value in item.bound.items()}
        if call.like == name and all(_same(value, bound.get(key)) for key, value in given.items()):
            return self._resize(item.node.meta["val"])
        args, kwargs = self._like(call, given)
        return _called(item.path, item.part.module_class, skeleton(item.module), args, kwargs)

    def _like(self, call: Call, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if call.like is None:
            return (), given
        item = self._site[call.like]
        bound = {key: self._resize(traced(value)) for key, value in item.bound.items()}
        return (), {**bound, **given}


class _Counted:
    """A module's result on the meta device, and what it costs."""

    def __init__(self, path: str, kind: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        with FlopCounter() as counter:
            self.result = _called(path, kind, module, args, kwargs)
        self.cost = Cost(sum(p.numel() for p in module.parameters()), counter.total, 0)


def _traced_value(site: Site, value: str) -> Any:
    """What a matched value was when the model was traced."""
    name, argument, items = parse(value)
    item = site[name]
    if argument is not None and argument not in item.bound:
        known = ", ".join(item.bound) or "none"
        raise RewriteError(f"{item.path} has no argument {argument!r}; it has {known}")
    found = traced(item.bound[argument]) if argument is not None else item.result
    return _items(found, items, value, item.path)


def _items(found: Any, items: Sequence[int | str], value: str, path: str) -> Any:
    """What `items`, which `value` is written with, lead to in a result."""
    for each in items:
        try:
            if isinstance(found, torch.Tensor) and not isinstance(each, int):
                raise TypeError
            found = found[each]
        except (LookupError, TypeError):
            raise RewriteError(
                f"{path}: its result has no item {each!r}, as {value} says; it is {_words(found)}"
            ) from None
    return found


def _tokens(site: Site) -> tuple[int, ...]:
    """Batch and tokens of the first matched node whose input has both."""
    shapes = (item.part.in_shape for item in site.items.values())
    return next((shape for shape in shapes if len(shape) >= 3), ())


def _sizes(tokens: tuple[int, ...], any_length: bool = True) -> Iterator[Resize]:
    """The traced sizes, and others: more samples and, if they are taken, four times as many tokens, and a single one.

    `tokens` is (B, N, D) or, of heads, (B, H, N, K).
    """
    yield lambda values: values
    if len(tokens) in (3, 4):
        batch, length = tokens[0], tokens[-2]
        lengths = ((batch, 4 * length), (batch, 1)) if any_length else ()
        for to in ((batch + 2, length), *lengths):
            yield partial(_resized, tokens=tokens, to=to)


def _resized(values: Any, tokens: tuple[int, ...], to: tuple[int, int]) -> Any:
    """Meta tensors like `tokens` but for the width, at another batch size and token count.

    Of heads, keys of another number keep it.
    """
    heads = tokens[1:-2]

    def resized(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dim() < len(tokens) - (not heads):
            return value
        if heads and value.shape[0] == tokens[0]:
            length = to[1] if value.shape[-2] == tokens[-2] and not _is_mask(value, tokens) else value.shape[-2]
            return value.new_empty((to[0], *value.shape[1:-2], length, value.shape[-1]))
        if not heads and tuple(value.shape[:2]) == tokens[:2]:
            return value.new_empty((*to, *value.shape[2:]))
        return value

    return pytree.tree_map(resized, values)


def _is_mask(value: Any, tokens: tuple[int, ...]) -> bool:
    """Whether `value`, beside heads (B, H, N, K), is none such."""
    if not isinstance(value, torch.Tensor) or len(tokens) != 4:
        return False
    return value.dtype == torch.bool or (*value.shape[1:-2], value.shape[-1]) != (*tokens[1:-2], tokens[-1])


def _built(path: str, new: Replacement | New, like: nn.Parameter | None) -> nn.Module:
    try:
        with torch.device("meta"):
            module = new.build()
    except Exception as error:
        raise RewriteError(f"{path}: {new.operator.kind} cannot be built: {_line(error)}") from error
    return module if like is None else module.to(like.dtype)


def _called(path: str, kind: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
    try:
        with torch.no_grad():
            return module(*args, **kwargs)
    except Exception as error:
        tensors = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        shape = _shape(tensors[0]) if tensors else "none"
        raise RewriteError(f"{path}: {kind} fails on tokens {shape}: {_line(error)}") from error


def _require_alike(path: str, result: Any, expected: Any, what: str) -> None:
    if _same(result, expected):
        return
    raise RewriteError(
        f"{path}: {what} gives {_words(result)} where {_words(expected)} is needed; "
        "choose an operator that keeps the shape, or adapt the rule's check"
    )


def _kinds(site: Site) -> Hashable:
    """What is known of the matched nodes that a check depends on: their modules, arguments and results."""
    return tuple(
        (item.part.module_class, item.part.params, item.part.flops, _told(item.bound), _told(item.result))
        for item in site.items.values()
    )


def _told(value: Any) -> Hashable:
    """A node or value by what a check can tell of it; `pytree` would take most of the time of a plan."""
    if isinstance(value, fx.Node):
        value = value.meta.get("val")  # a dtype or device that is read has none
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype
    if isinstance(value, tuple | list):
        return tuple(map(_told, value))
    if isinstance(value, dict):
        return tuple((key, _told(item)) for key, item in value.items())
    if isinstance(value, BlockMask):  # its text is made of its values
        return value.seq_lengths, value.BLOCK_SIZE
    return value if isinstance(value, int | float | str | None) else repr(value)


def _first_floating(module: nn.Module) -> nn.Parameter | None:
    return next((p for p in module.parameters() if p.is_floating_point()), None)


def _same(a: Any, b: Any) -> bool:
    return bool(pytree.tree_map(_kind, a) == pytree.tree_map(_kind, b))


def _kind(value: Any) -> Any:
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value


def _dtype(like: nn.Parameter | None) -> torch.dtype | None:
    return None if like is None else like.dtype


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _words(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_words, value))})"
    if not isinstance(value, torch.Tensor):
        return "None" if value is None else f"a {type(value).__name__}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
