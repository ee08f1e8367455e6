"""What planning knows of a model, found once: where modules stand, and how often and by what they are called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property

from torch import nn

from surgery.graph import ModelGraph
from surgery.recording.paths import child_path, opened, outers, parent_and_name
from surgery.rewriting.graphs.anchors import Anchors


class Facts:
    """Facts about one traced model.

    Attributes:
        graph: the model.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self._anchors: dict[int, Anchors] = {}

    def module(self, path: str) -> nn.Module:
        """The module at `path`."""
        return self.graph.model.get_submodule(path)

    def places(self, module: nn.Module) -> list[str]:
        """Every path of `module`, those within one parent that has several paths itself counting once."""
        return self._places[id(module)]

    def anchors(self, scope: str) -> Anchors:
        """The nodes of the scope at the path `scope`, which is recorded once for blocks that are alike."""
        graph = self.graph.scopes[scope].graph
        if id(graph) not in self._anchors:
            self._anchors[id(graph)] = Anchors(graph)
        return self._anchors[id(graph)]

    def homes(self, scope: str) -> list[str]:
        """Every path of the module that is traced as the scope at the path `scope`, if it is traced there too."""
        return self._homes[id(self.module(scope))]

    @cached_property
    def _homes(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = defaultdict(list)
        for path, module in self.graph.model.named_modules(remove_duplicate=False):
            if path in self.graph.scopes:
                found[id(module)].append(path)
        return found

    @cached_property
    def _places(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = defaultdict(list)
        holders: set[tuple[int, str]] = set()
        modules = dict(self.graph.model.named_modules(remove_duplicate=False))
        for path, module in modules.items():
            parent, name = parent_and_name(path)
            if path and (id(modules[parent]), name) not in holders:
                holders.add((id(modules[parent]), name))
                found[id(module)].append(path)
        return found

    @cached_property
    def runs(self) -> Counter[str]:
        """How often the forward of each scope runs in one forward of the model."""
        runs = Counter({"": 1})
        for path, scope in self.graph.scopes.items():  # callers before what they call
            for node in scope.graph.find_nodes(op="call_module"):
                inner = opened(self.graph.scopes, path, node)
                if inner is not None:
                    runs[inner] += runs[path]
        return runs

    @cached_property
    def calls(self) -> Counter[str]:
        """How often each module is called."""
        return Counter(used for _, used in self._uses("call_module"))

    @cached_property
    def uses_inside(self) -> dict[str, list[tuple[str, str]]]:
        """For each path the calls of modules and the parameters read at and below it, with the scopes that do so."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for scope, used in (*self._uses("call_module"), *self._uses("get_attr")):
            for outer in outers(used):
                found[outer].append((scope, used))
        return found

    def _uses(self, op: str) -> Iterator[tuple[str, str]]:
        for path, scope in self.graph.scopes.items():
            for node in scope.graph.find_nodes(op=op):
                yield path, child_path(path, node)
