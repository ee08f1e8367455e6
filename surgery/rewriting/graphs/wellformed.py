"""Whether a rewiring can be made at a site, as far as that shows without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.errors import RewriteError
from surgery.rewriting.replacement import Copy, New, Rewiring
from surgery.rewriting.site import Site
from surgery.rewriting.values import parse


def require_well_formed(rewiring: Rewiring, site: Site, where: str) -> None:
    """Raise RewriteError if `rewiring` cannot be made at `site`."""
    _require_results(rewiring, where)
    _require_names(rewiring, site.items, where)
    _require_identifiers(rewiring, where)
    _require_order(rewiring, site, where)
    _require_modules(rewiring, site, where)
    _require_use(rewiring, where)
    _require_unchanged(rewiring, site, where)


def _require_results(rewiring: Rewiring, where: str) -> None:
    """Raise RewriteError if what is to be replaced is no result, or not as it is."""
    odd = next((value for value in rewiring.results if parse(value).swapped), None)
    if odd is not None:
        raise RewriteError(f"{where}: {odd} is transposed; name the result itself, and transpose what takes its place")


def _require_names(rewiring: Rewiring, matched: Mapping[str, Any], where: str) -> None:
    """Raise RewriteError if `rewiring` names a node that the pattern does not, or its own names hide one."""
    own = {*rewiring.modules, *(call.name for call in rewiring.calls)}
    hidden = sorted(own & set(matched))
    if hidden:
        raise RewriteError(f"{where}: {hidden[0]!r} is both a matched node and a new name; choose another name")
    values = [v for call in rewiring.calls for v in call.arguments.values()]
    read = [parse(v)[0] for v in (*values, *rewiring.results.values())]
    callees = [call.module for call in rewiring.calls if call.module not in rewiring.modules]
    likes = [call.like for call in rewiring.calls if call.like is not None]
    sources = [s for m in rewiring.modules.values() for s in (m.sources if isinstance(m, New) else (m.of,))]
    old = [parse(value)[0] for value in rewiring.results]
    calls = {call.name for call in rewiring.calls}
    named = [*callees, *likes, *sources, *old, *rewiring.keeps, *(name for name in read if name not in calls)]
    missing = next((name for name in named if name not in matched), None)
    if missing is not None:
        raise RewriteError(f"{where}: no node is called {missing!r}; the pattern names {', '.join(matched)}")


def _require_identifiers(rewiring: Rewiring, where: str) -> None:
    for name in (*rewiring.modules, *(call.name for call in rewiring.calls)):
        if not name.isidentifier():
            raise RewriteError(f"{where}: {name!r} cannot be a name; use letters, digits and underscores")


def _require_order(rewiring: Rewiring, site: Site, where: str) -> None:
    """Calls read what is matched, or made before them."""
    made: set[str] = set()
    for call in rewiring.calls:
        for value in call.arguments.values():
            _require_result(value, site, where)
            name = parse(value)[0]
            if name not in made and name not in site.items:
                raise RewriteError(f"{where}: {call.name} reads {name}, which is not made before it; move it up")
        made.add(call.name)
    for value in rewiring.results.values():
        _require_result(value, site, where)


def _require_result(value: str, site: Site, where: str) -> None:
    name, argument, *_ = parse(value)
    if argument is not None and name not in site.items:
        raise RewriteError(f"{where}: {value} is an argument of a new call; write the value that the call is given")


def _require_unchanged(rewiring: Rewiring, site: Site, where: str) -> None:
    """Raise RewriteError if an argument is read of a module that stays, and changes it in place before."""
    again = {name for call in rewiring.calls for name in (call.module, call.like)} | rewiring.read | set(rewiring.keeps)
    for value in (*(v for call in rewiring.calls for v in call.arguments.values()), *rewiring.results.values()):
        name, argument, *_ = parse(value)
        stays = name in again and name in site.items and site[name].is_module
        if stays and argument in site.graph.changed_in_place(site[name].path):
            raise RewriteError(
                f"{where}: {site[name].path} stays and changes its {argument} in place, which {value} reads"
            )


def _require_modules(rewiring: Rewiring, site: Site, where: str) -> None:
    """What is called again, copied, or a source of weights is a module."""
    for call in rewiring.calls:
        if call.module not in rewiring.modules and not site[call.module].is_module:
            raise RewriteError(f"{where}: {call.name} calls {call.module}, which is no module; call a new one")
        if call.like is not None and not site[call.like].is_module:
            raise RewriteError(
                f"{where}: {call.name} is called like {call.like}, which is no module; name its arguments one by one"
            )
    for new, module in rewiring.modules.items():
        for name in (module.of,) if isinstance(module, Copy) else module.sources:
            if not site[name].is_module:
                raise RewriteError(
                    f"{where}: {new} takes its weights from {name}, which is no module; name another one"
                )


def _require_use(rewiring: Rewiring, where: str) -> None:
    """Nothing is made for nothing."""
    called = {call.module for call in rewiring.calls}
    idle = next((name for name in rewiring.modules if name not in called), None)
    if idle is not None:
        raise RewriteError(f"{where}: nothing calls the new module {idle}; add a Call of it, or leave it out")
    idle = next((call.name for call in rewiring.calls if call.name not in rewiring.read), None)
    if idle is not None:
        raise RewriteError(f"{where}: nothing reads {idle}; name it in results, or leave the call out")
