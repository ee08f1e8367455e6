"""The kinds of edits, one file each: what an edit of a kind is, how it is planned, tried, made and distilled."""

from surgery.rewriting.kinds.resize import Resize
from surgery.rewriting.kinds.rewire import Rewire
from surgery.rewriting.kinds.share import Share
from surgery.rewriting.kinds.swap import Swap

__all__ = ["Resize", "Rewire", "Share", "Swap"]
