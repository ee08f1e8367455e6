"""Change the depth: join blocks in parallel pairs, drop, duplicate, or share them."""

from __future__ import annotations

from typing import Literal

from torch import nn

from surgery.analysis.outside import Outside
from surgery.analysis.readers import readers_of
from surgery.analysis.streams import Stream
from surgery.errors import AnalysisError
from surgery.operators import ConcatProject, JoinerConfig, JoinerDims
from surgery.recording.state import own_class
from surgery.rewriting.pattern import Pattern
from surgery.rewriting.pattern_forms import block, consecutive
from surgery.rewriting.replacement import Call, Copy, New, Rewiring, Sharing
from surgery.rewriting.rule import Rule
from surgery.rewriting.selection import Selection, given_or_all
from surgery.rewriting.site import Item, Site
from surgery.rules.fields import AnyJoiner


class ParallelPairs(Rule):
    """Gives two consecutive blocks the same input and joins their results, stream by stream.

    Source: "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340), which turns the 28 layers of
    DiT-XL/2 into 14 pairs joined by a linear map of both results.
    """

    kind: Literal["parallel_pairs"] = "parallel_pairs"
    pattern: Pattern = consecutive(block(), 2)
    joiner: AnyJoiner = ConcatProject()

    def check(self, site: Site) -> str | None:
        """Refuse blocks of which one does not go on with the other's streams, and those with other readers, or none."""
        return _unclear(site) or _differ(site) or _apart(site) or _idle(site) or _unfit(site)

    def replacement(self, site: Site) -> Rewiring:
        """The second block on the first one's input, and a joiner for each stream that is read afterwards."""
        streams = [s for s in _streams(site) if any(map(readers_of, site["b"].results(s.items)))]
        both = {s.argument: s.entry("a") for s in _streams(site)}
        names = {s.argument: f"join_{s.argument}" if len(streams) > 1 else "join" for s in streams}
        joins = {
            s.argument: {"x": s.entry("a"), "a": s.result("a"), "b": s.result("parallel")} for s in streams
        }  # fmt: skip
        return Rewiring(
            modules={names[s.argument]: New(operator=self.joiner, dims=JoinerDims(dim=s.shape[-1])) for s in streams},
            calls=(
                Call(name="parallel", module="b", like="b", arguments=both),
                *(Call(name=f"joined_{n}", module=names[n], arguments=joins[n]) for n in joins),
            ),
            results={s.result("b"): f"joined_{s.argument}" for s in streams},
        )


class DropBlocks(Rule):
    """Takes blocks out; what entered them goes on, or what their results were added to."""

    kind: Literal["drop_blocks"] = "drop_blocks"
    pattern: Pattern = block()

    def check(self, site: Site) -> str | None:
        """Refuse a block whose results do not go on with its arguments."""
        try:
            return None if _outside(site) else _unclear(site)
        except AnalysisError as error:
            return str(error)

    def place(self, site: Site) -> Site:
        """The block, and the addition of its result where that is outside of it."""
        outside = _outside(site)
        if outside is None:
            return site
        steps = {f"step_{number}": node for number, node in enumerate(outside.steps)}
        around = {
            name: Item(site.graph, (site.scope, node.name)) for name, node in (*steps.items(), ("sum", outside.sum))
        }
        return Site(site.graph, {"a": site["a"], **around})

    def replacement(self, site: Site) -> Rewiring:
        """Each stream as it entered."""
        outside = _outside(site)
        if outside is not None:
            return Rewiring(results={"sum": f"sum({outside.stream})"})
        return Rewiring(results={s.result("a"): s.entry("a") for s in _streams(site)})


class DuplicateBlocks(Rule):
    """Puts a copy of a block, with its weights, after it."""

    kind: Literal["duplicate_blocks"] = "duplicate_blocks"
    pattern: Pattern = block()

    def check(self, site: Site) -> str | None:
        """Refuse a block whose results do not go on with its arguments."""
        try:
            outside = _outside(site)
        except AnalysisError as error:
            return str(error)
        if outside is not None:
            return f"{site.path} is added to what it reads outside of it; a copy after it would read something else"
        return _unclear(site)

    def replacement(self, site: Site) -> Rewiring:
        """The copy, on what the block gives."""
        streams = _streams(site)
        onward = {s.argument: s.result("a") for s in streams}
        return Rewiring(
            modules={"copy": Copy(of="a")},
            calls=(Call(name="again", module="copy", like="a", arguments=onward),),
            results={s.result("a"): s.result("again") for s in streams},
        )


class ShareBlocks(Rule):
    """Lets consecutive blocks be one and the same module, with the weights of the first or the mean of all."""

    kind: Literal["share_blocks"] = "share_blocks"
    average: bool = False

    def check(self, site: Site) -> str | None:
        """Refuse blocks that are one module already, and those with other weights than the first."""
        if len(site.items) == 1:
            return "one block alone has nothing to share; a count of 2 or more is needed"
        if len({id(item.module) for item in site.items.values()}) == 1:
            return f"{site.first.path} comes several times in a row, so its weights are shared already"
        return _differ(site)

    def replacement(self, site: Site) -> Sharing:  # noqa: ARG002
        """The first block in the places of all."""
        return Sharing(average=self.average)


def parallel_pairs(joiner: JoinerConfig | None = None, *, layers: Selection | None = None) -> ParallelPairs:
    """The rule that joins every two consecutive blocks in a parallel pair: 0 with 1, 2 with 3, ...

    Args:
        joiner: config of what joins them, by default a linear map of both results, as published.
        layers: which blocks may be the first of a pair.
    """
    return ParallelPairs(joiner=joiner or ConcatProject(), layers=given_or_all(layers))


def drop_blocks(*, layers: Selection) -> DropBlocks:
    """The rule that takes out the selected blocks."""
    return DropBlocks(layers=layers)


def duplicate_blocks(*, layers: Selection) -> DuplicateBlocks:
    """The rule that puts a copy after each selected block."""
    return DuplicateBlocks(layers=layers)


def share_blocks(count: int = 2, *, average: bool = False, layers: Selection | None = None) -> ShareBlocks:
    """The rule that gives `count` consecutive blocks the same weights, from each selected block on."""
    return ShareBlocks(pattern=consecutive(block(), count), average=average, layers=given_or_all(layers))


def _streams(site: Site) -> tuple[Stream, ...]:
    return site.graph.streams(site.first.path) or ()


def _outside(site: Site) -> Outside | None:
    """The addition of the block's result to what the block reads, where that is outside of it."""
    return site.graph.outside(site.scope, site.node)


def _unclear(site: Site) -> str | None:
    """Why the streams of one of the blocks are not known."""
    for item in site.items.values():
        if not site.graph.streams(item.path):
            return f"{item.path} has a result that does not go on with one of its arguments"
    return None


def _differ(site: Site) -> str | None:
    """How a block differs from the first one."""
    first = site.first
    for item in site.items.values():
        if item.operator.module_class != first.operator.module_class:
            return f"{item.path} is a {item.operator.module_class}, {first.path} a {first.operator.module_class}"
        if site.graph.streams(item.path) != site.graph.streams(first.path):
            return f"{item.path} has other streams than {first.path}"
        if _weights(item.module) != _weights(first.module):
            return f"{item.path} has other weights than {first.path}"
        if _parts(item.module) != _parts(first.module):
            return f"{item.path} has other operators than {first.path}"
    return None


def _weights(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _parts(module: nn.Module) -> list[tuple[str, type[nn.Module], object]]:
    """What it consists of, operators of the library with their configs: they may have no weights."""
    return [(name, own_class(part), getattr(part, "config", None)) for name, part in module.named_modules()]


def _apart(site: Site) -> str | None:
    """Why the second block does not simply go on with what the first one gives."""
    a, b = site["a"], site["b"]
    for stream in _streams(site):
        value = b.bound[stream.argument]
        if value not in a.results(stream.items):
            return f"{b.path} does not get {stream.argument} straight from {a.path}"
        other = next((user.name for user in readers_of(value) if user is not b.node), None)
        if other is not None:
            return f"what {a.path} gives is also read by {other}"
    return None


def _unfit(site: Site) -> str | None:
    """That a block changes what both are to read, or that a stream's last axis holds no features that could be joined."""
    for stream in _streams(site):
        for item in site.items.values():
            if stream.argument in site.graph.changed_in_place(item.path):
                return f"{item.path} changes its {stream.argument} in place, which the other block is to read as well"
        if (axis := site.graph.feature_axis(site.first.path, stream.argument)) is not None:
            return f"the features of {stream.argument} {stream.shape} are in axis {axis}; a joiner mixes the last one"
    return None


def _idle(site: Site) -> str | None:
    """That nothing reads what the second block gives."""
    b = site["b"]
    read = any(readers_of(node) for stream in _streams(site) for node in b.results(stream.items))
    return None if read else f"nothing reads what {b.path} gives"
