"""What an edit does to a model: operators distilled once and kept, and the effect of each on the output and the loss."""

from surgery.sensitivity.effects import Effect, sensitivity
from surgery.sensitivity.grafting import candidates, from_library, grafts, groups_of, put_in
from surgery.sensitivity.library import Graft, GraftLibrary

__all__ = [
    "Effect",
    "Graft",
    "GraftLibrary",
    "candidates",
    "from_library",
    "grafts",
    "groups_of",
    "put_in",
    "sensitivity",
]
