"""From a graph to the function that runs it.

`torch.fx` writes code for people, types and options included, and takes most of the time of a large rewrite for it; this
writes one plain statement for each node, and hands constants over by reference.
"""

from __future__ import annotations

from typing import Any

from torch import fx

LITERALS = (bool, int, str, type(None), type(Ellipsis))


def emit(graph: fx.Graph) -> tuple[str, dict[str, Any]]:
    """The source of a function `forward(self, ...)`, and its globals. Values are let go after their last use."""
    return _Emitter(graph).emit()


class _Emitter:
    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._globals: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def emit(self) -> tuple[str, dict[str, Any]]:
        """See `emit`."""
        last = self._last_uses()
        parameters, lines = ["self"], []
        for node in self._graph.nodes:
            if node.op == "placeholder":
                parameters.append(node.name)
            elif _is_inlined(node):
                continue
            elif node.op == "output":
                lines.append(f"    return {self._shown(node.args[0])}")
            else:
                done = [f"; {name} = None" for name in last.get(node, ())]
                lines.append(f"    {node.name} = {self._call(node)}{''.join(done)}")
        return "\n".join([f"def forward({', '.join(parameters)}):", *lines, ""]), self._globals

    def _last_uses(self) -> dict[fx.Node, list[str]]:
        """The names whose values each node is the last to use; its own, if nothing uses it."""
        last: dict[fx.Node, list[str]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(self._graph.nodes):
            for source in (node, *node.all_input_nodes):
                if source not in seen and not _is_inlined(source):
                    seen.add(source)
                    last.setdefault(node, []).append(source.name)
        return last

    def _call(self, node: fx.Node) -> str:
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
            return _attribute(str(value.target)) if _is_inlined(value) else value.name
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
