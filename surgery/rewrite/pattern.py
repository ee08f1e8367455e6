"""Patterns: data that describes where a rule may apply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from surgery.config import Config
from surgery.graph import ModelGraph
from surgery.graph.roles import Role, calls, find_operators
from surgery.graph.view import child_path
from surgery.rewrite.site import Site


class OperatorPattern(Config):
    """Matches one operator that is a module by its role and, if given, by the name of the module's class."""

    kind: Literal["operator"] = "operator"
    role: Role
    module_class: str | None = None

    def matches(self, graph: ModelGraph) -> Iterator[Site]:
        """The sites in execution order."""
        callers = {child_path(scope, node): (scope, node) for scope, node in calls(graph.scopes, "")}
        for operator in find_operators(graph.scopes):
            wanted = operator.role == self.role and self.module_class in (None, operator.module_class)
            if wanted and operator.path in callers:
                yield Site(graph, operator, *callers[operator.path])

    def __str__(self) -> str:
        named = f" of class {self.module_class}" if self.module_class else ""
        return f"{self.role.replace('_', '-')}{named}"
