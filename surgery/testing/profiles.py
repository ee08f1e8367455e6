"""How many examples a law is tried on: the hypothesis profiles "ci" and "nightly"."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

VARIABLE = "HYPOTHESIS_PROFILE"
_SLOW = (HealthCheck.too_slow, HealthCheck.filter_too_much)  # models are built and traced; few rules fit all of them

# Random models are small, so a failing one is shown as it is: to shrink it takes minutes.
_UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)

# The same examples each time, so that a test of unchanged code cannot begin to fail; new ones are the nightly's to find.
settings.register_profile(
    "ci",
    settings(
        max_examples=10, deadline=None, suppress_health_check=_SLOW, phases=_UNSHRUNK, derandomize=True, database=None
    ),
)
settings.register_profile("nightly", settings(max_examples=1000, deadline=None, suppress_health_check=_SLOW))


def chosen() -> str:
    """The profile that the environment variable HYPOTHESIS_PROFILE names; "ci" if it is not set."""
    return os.environ.get(VARIABLE, "ci")
