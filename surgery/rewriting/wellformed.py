"""Whether what a rule gives for a site can be made there, as far as that shows without running anything."""

from __future__ import annotations

from typing import Any

from surgery.errors import RewriteError
from surgery.rewriting.blame import blaming
from surgery.rewriting.replacement import Copy, Replacement, Resizing, Rewiring, Sharing, parse, require_names
from surgery.rewriting.rule import Rule
from surgery.rewriting.site import Site

Given = Replacement | Rewiring | Resizing | Sharing


def check_of(rule: Rule, site: Site) -> str | None:
    """What `rule` says against `site`.

    Raises:
        RewriteError: that is neither a reason nor None, or the check fails.
    """
    with blaming(f"{rule.name} at {site.path}"):
        reason: Any = rule.check(site)
    if reason is None or (isinstance(reason, str) and reason):
        return reason
    raise RewriteError(f"{rule.name} at {site.path}: its check gives {reason!r}; return a reason in words, or None")


def replacement_of(rule: Rule, site: Site) -> Given:
    """What `rule` puts at `site`.

    Raises:
        RewriteError: that is no right-hand side, or it fails.
    """
    with blaming(f"{rule.name} at {site.path}"):
        given: Any = rule.replacement(site)
    if isinstance(given, Given):
        return given
    raise RewriteError(
        f"{rule.name} at {site.path}: its replacement gives a {type(given).__name__}; "
        "return a Replacement, a Rewiring, a Resizing or a Sharing"
    )


def require_well_formed(rewiring: Rewiring, site: Site, where: str) -> None:
    """Raise RewriteError if `rewiring` cannot be made at `site`."""
    require_names(rewiring, site.items, where)
    _require_identifiers(rewiring, where)
    _require_order(rewiring, site, where)
    _require_modules(rewiring, site, where)
    _require_use(rewiring, where)


def require_modules(resizing: Resizing, site: Site, where: str) -> None:
    """Raise RewriteError if `resizing` names something at `site` that is no module."""
    for name, new in resizing.modules.items():
        for each in (name, *new.sources):
            if each not in site.items:
                raise RewriteError(f"{where}: no node is called {each!r}; the pattern names {', '.join(site.items)}")
            if not site[each].is_module:
                raise RewriteError(f"{where}: {each} is no module, so it has no place for another; name modules only")


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
    name, argument, _ = parse(value)
    if argument is not None and name not in site.items:
        raise RewriteError(f"{where}: {value} is an argument of a new call; write the value that the call is given")


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
