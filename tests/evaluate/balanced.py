"""A reader of HTML and SVG that asks for balanced tags."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import ClassVar


class Balanced(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    void: ClassVar = {"meta", "link", "img", "br", "wbr", "path", "circle"}

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag
