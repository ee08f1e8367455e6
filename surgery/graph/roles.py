from __future__ import annotations
from dataclasses import dataclass
Role=str
class Operator: ...
def find_operators(scopes): return []
