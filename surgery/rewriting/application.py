"""A rule that is being applied to a model: what the kinds of edits plan with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

from torch import nn

from surgery.errors import RewriteError
from surgery.rewriting.blame import blaming
from surgery.rewriting.facts import Facts
from surgery.rewriting.rule import Rule
from surgery.rewriting.site import Site
from surgery.rewriting.trial import Trial


class Application:
    """One rule and all of its matches.

    Attributes:
        rule: the rule.
        sites: its matches, in execution order.
        facts: what is known of the model.
        trial: runs what is new.
        ended: how many calls of each module the edits planned so far take out.
    """

    def __init__(self, rule: Rule, facts: Facts, trial: Trial, sites: Sequence[Site]) -> None:
        self.rule, self.facts, self.trial, self.sites = rule, facts, trial, sites
        self.ended: Counter[str] = Counter()
        self._calls: dict[int, list[Site]] = defaultdict(list)
        self._done: set[Hashable] = set()
        for site in sites:
            if len(site.items) == 1 and site.first.is_module:
                self._calls[id(site.module)].append(site)

    def calls(self, module: nn.Module) -> list[Site]:
        """The matches that are calls of `module`, and nothing else."""
        return self._calls[id(module)]

    def is_first(self, edited: Hashable) -> bool:
        """Whether no edit of `edited` was planned yet; from now on one is."""
        known = len(self._done)
        self._done.add(edited)
        return len(self._done) > known

    def where(self, site: Site) -> str:
        """Rule and site, as messages begin."""
        return f"{self.rule.name} at {site.path}"

    def refusal(self, site: Site) -> str | None:
        """What the rule says against `site`.

        Raises:
            RewriteError: that is neither a reason nor None, or the rule's check fails.
        """
        with blaming(self.where(site)):
            reason: Any = self.rule.check(site)
        if reason is None or (isinstance(reason, str) and reason):
            return reason
        raise RewriteError(f"{self.where(site)}: its check gives {reason!r}; return a reason in words, or None")

    def replacement(self, site: Site) -> Any:
        """What the rule puts at `site`.

        Raises:
            RewriteError: the rule's own code fails.
        """
        with blaming(self.where(site)):
            return self.rule.replacement(site)
