"""From a graph to the function that runs it.

`torch.fx` writes code for people, types and options included, and takes most of the time of a large rewrite for it; this
writes one plain statement for each node, and hands constants over by reference.
"""

from __future__ import annotations

from typing import Any

from torch import fx

LITERALS = (bool, int, str, type(None), type(Ellipsis))


def emit(graph: fx.Graph) -> tuple[str, dict[str, Any]]:
    """The source of a function `forward(self, ...)`, and its globals.

    Values are let go after their last use, and their variables used again: Python compiles a few variables faster than
    thousands.
    """
    return _Emitter(graph).emit()


class _Emitter:
    """Writes the statements of one graph, and notes which variables are free again."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._globals: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._places: dict[fx.Node, str] = {}
        self._free: list[str] = []

    def emit(self) -> tuple[str, dict[str, Any]]:
        """See `emit`."""
        last = self._last_uses()
        parameters, lines = ["self"], []
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self._places[node] = node.name
                parameters.append(node.name)
            elif _is_inlined(node):
                continue
            elif node.op == "output":
                lines.append(f"    return {self._shown(node.args[0])}")
            else:
                lines.append(self._statement(node, last.get(node, [])))
        return "\n".join([f"def forward({', '.join(parameters)}):", *lines, ""]), self._globals

    def _last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """The nodes whose values each node is the last to use; itself, if nothing uses it."""
        last: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(self._graph.nodes):
            for source in (node, *node.all_input_nodes):
                if source not in seen and not _is_inlined(source):
                    seen.add(source)
                    last.setdefault(node, []).append(source)
        return last

    def _statement(self, node: fx.Node, done: list[fx.Node]) -> str:
        """The line for `node`; its value goes into the variable of one that it is the last to use, the others let go."""
        call = self._call(node)
        ending = [self._places[source] for source in done if source is not node]
        place = ending.pop() if ending else self._free.pop() if self._free else node.name
        self._places[node] = place
        ending += [place] if node in done else []
        self._free += ending
        return f"    {place} = {call}{''.join(f'; {name} = None' for name in ending)}"

    def _call(self, node: fx.Node) -> str:
        """The expression that computes `node`."""
        target = str(node.target)
        if node.op == "get_attr":
            return _attribute(target)
        arguments = [self._shown(arg) for arg in node.args]
        if node.op == "call_method":
            called = f"{arguments.pop(0)}.{target}"
        else:
            called = _attribute(target) if node.op == "call_module" else self._constant(node.target)
        named = [f"{name}={self._shown(value)}" for name, value in node.kwargs.items() if name.isidentifier()]
        odd = {name: value for name, value in node.kwargs.items() if not name.isidentifier()}
        named += [f"**{self._shown(odd)}"] if odd else []
        return f"{called}({', '.join([*arguments, *named])})"

    def _shown(self, value: Any) -> str:
        """`value` as an expression."""
        if isinstance(value, fx.Node):
            return _attribute(str(value.target)) if _is_inlined(value) else self._places[value]
        if type(value) in LITERALS:
            return repr(value)
        if isinstance(value, slice):
            return f"slice({', '.join(map(self._shown, (value.start, value.stop, value.step)))})"
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return f"{self._constant(type(value))}({', '.join(map(self._shown, value))})"
        if isinstance(value, tuple):
            return f"({''.join(f'{self._shown(item)}, ' for item in value)})"
        if isinstance(value, list):
            return f"[{', '.join(map(self._shown, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{self._shown(k)}: {self._shown(v)}' for k, v in value.items())}}}"
        return self._constant(value)

    def _constant(self, value: Any) -> str:
        """The name of a global that is `value`."""
        if id(value) not in self._names:
            name = self._names[id(value)] = f"_constant_{len(self._names)}"
            self._globals[name] = value
        return self._names[id(value)]


def _is_inlined(node: fx.Node) -> bool:
    """Whether `node` is a tensor of the module that is read once, right where it is used."""
    return node.op == "get_attr" and len(node.users) == 1


def _attribute(path: str) -> str:
    """The expression that leads from `self` to the module or tensor at `path`."""
    found = "self"
    for name in path.split("."):
        found = f"{found}.{name}" if name.isidentifier() else f'getattr({found}, "{name}")'
    return found
