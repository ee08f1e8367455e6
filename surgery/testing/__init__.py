"""For the author of a rule: `check_rule` tests it by the laws of rewriting, on random models.

def test_my_rule():
    check_rule(my_rule())
"""

try:
    import hypothesis as _  # noqa: F401
except ImportError:
    raise ImportError("surgery.testing needs hypothesis; pip install 'surgery[testing]'") from None

from surgery.testing.case import Case
from surgery.testing.check import check_rule
from surgery.testing.strategies import cases, models, patterns, patterns_in, rule_sets, rules
from surgery.testing.transformers import BlockSpec, ModelSpec, build, inputs

__all__ = [
    "BlockSpec",
    "Case",
    "ModelSpec",
    "build",
    "cases",
    "check_rule",
    "inputs",
    "models",
    "patterns",
    "patterns_in",
    "rule_sets",
    "rules",
]
