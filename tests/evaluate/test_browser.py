"""The pages as a browser shows them: all of it there, nothing cut, nothing fetched; without one, what can be read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from surgery.cli import main
from surgery.operators import Blend, LinearAttention, NeighbourhoodAttention
from surgery.statistics.show import COLUMNS, write_analysis
from tests.evaluate.browser import BROWSER, Page, browser

WIDTHS = {"desktop": (1280, "screen"), "phone": (390, "screen"), "A4": (688, "print")}
"""In CSS pixels; A4 less margins of 14 mm."""

CUT = """
[...document.querySelectorAll('main *')].filter(e => !e.closest('.drawing svg') && !e.closest('details:not([open])')
  && (e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
      || e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX != 'visible' && !e.matches('.drawing')))
  .map(e => e.outerHTML.slice(0, 80))
"""
BLEND = Blend(parts=(NeighbourhoodAttention(window=5), LinearAttention(features="learned", depthwise=3, axes=2)))
"""An operator of many words."""
PICTURES = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"
ENLARGED = """
[...document.querySelectorAll('.grids img')].map(e => e.getBoundingClientRect())
  .filter(r => r.width > 0.6 * Math.min(innerWidth, innerHeight))
  .map(r => [r.left < innerWidth / 2, r.top >= 0 && r.bottom <= innerHeight, document.elementFromPoint(
     r.left + r.width / 2, r.top + r.height / 2)?.tagName])
"""


@pytest.fixture(scope="module")
def pages(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    metrics = json.loads((trained_run / "metrics.json").read_text())
    wide = folder / f"finetune.target=teacher,{'rules.0.operator.window=5,' * 3}seed=0"  # as a sweep names its runs
    wide.mkdir()
    for file in ("recipe.json", "losses.json", "graph.svg"):
        (wide / file).write_text((trained_run / file).read_text())
    plan = json.loads((trained_run / "plan.json").read_text())
    plan["edits"][0]["replacement"]["operator"] = BLEND.model_dump(mode="json")
    plan["edits"][1]["path"] = "single_transformer_blocks.10.attn." + "a" * 40
    (wide / "plan.json").write_text(json.dumps(plan))
    for stage in metrics["stages"]:  # more columns than any run has
        stage.update({f"metric_{n}": 1000.5 for n in range(4)})
    metrics["columns"].update({f"metric_{n}": {"title": f"a rather long title {n}"} for n in range(4)})
    (wide / "metrics.json").write_text(json.dumps(metrics))
    assert main(["report", str(wide)]) == 0
    assert main(["compare", str(trained_run), str(wide), "--out", str(folder / "comparison.html")]) == 0
    layers = [{"layer": n, "path": f"blocks.{n}", **dict.fromkeys(COLUMNS, n / 7), "operators": []} for n in range(3)]
    write_analysis({"model": "m" * 60, "driven_by": "a pipeline", "layers": layers}, folder)
    return {
        "report": trained_run / "report.html",
        "wide report": wide / "report.html",
        "comparison": folder / "comparison.html",
        "analysis": folder / "analysis.html",
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if BROWSER is None:
        pytest.skip("no Chromium on PATH")
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


NAMES = ("report", "wide report", "comparison", "analysis")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_on_desk_phone_and_paper(page, pages, name):
    page.complaints.clear()
    for where, (width, media) in WIDTHS.items():
        page.open(pages[name], width, media=media, scheme="dark" if where == "phone" else "light")
        assert page.ask(CUT) == [], where
        shown = page.ask(PICTURES)
        assert all(shown), where
        assert len(shown) >= (2 if name in ("report", "comparison") else 0)
    assert page.complaints == []


def test_what_is_too_wide_is_seen(page, tmp_path):
    (tmp_path / "wide.html").write_text("<main><p style='width:2000px'>x</p></main>")
    page.open(tmp_path / "wide.html", 390)
    assert len(page.ask(CUT)) == 1


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_a_sample_is_enlarged_beside_the_teacher_by_mouse_and_by_keyboard(page, pages, size):
    page.open(pages["report"], *size)
    page.click("#samples-finetuned button")
    first, second = page.ask(ENLARGED)
    is_beside = size[0] > size[1]
    assert first == [True, True, "IMG"]
    assert second == [not is_beside, True, "IMG"]
    page.press("Escape", 27)
    assert page.ask("document.querySelectorAll(':popover-open').length") == 0
    page.ask("document.querySelector('#samples-rewritten button').focus()")
    page.press("Enter", 13, "\r")
    assert page.ask("document.querySelector(':popover-open').id") == "samples-rewritten"
    page.press("Escape", 27)
    assert page.ask("document.activeElement.closest('figure').id") == "samples-rewritten"


def test_colours_follow_the_scheme_and_paper_is_white(page, pages):
    def brightness(media, scheme):
        page.open(pages["report"], 800, media=media, scheme=scheme)
        return page.ask("Number(getComputedStyle(document.querySelector('h1')).color.match(/\\d+/)[0])")

    assert brightness("screen", "light") < 60
    assert brightness("screen", "dark") > 200
    assert brightness("print", "dark") < 60


class Content(HTMLParser):
    """Ids, and where the page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.sources: list[str] = []
        self.targets: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids.update(filter(None, [given.get("id")]))
        self.sources += [given[name] for name in ("src", "href", "xlink:href", "data", "srcset") if name in given]
        self.targets += [given[name] for name in ("popovertarget", "for") if name in given]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_whole_in_itself(pages, name):
    text = pages[name].read_text()
    content = Content(text)
    assert all(source.startswith(("data:", "#")) for source in content.sources)
    assert all(count == 1 for count in content.ids.values())
    assert set(content.targets) <= set(content.ids)
    assert not content.tags & {"script", "iframe", "object"}
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "url(" not in text
