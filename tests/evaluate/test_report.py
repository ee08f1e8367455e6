"""The report shows what it is given, lets nothing through as markup, and copes with gaps."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.evaluate.report import Report, count, render_report, verdict
from surgery.evaluate.report.layers import layers_of
from surgery.evaluate.report.losses import losses_of
from surgery.evaluate.report.stages import samples_of
from surgery.evaluate.report.words import figure, headline
from surgery.evaluate.results import Column, Metrics, StageMetrics
from tests.evaluate.balanced import Balanced

NAMES = ("teacher", "rewritten", "distilled", "finetuned")
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a & b", "</style>", "\ud800"]


COLUMNS = {
    "frechet": Column(title="Frechet distance"),
    "accuracy": Column(title="class accuracy", unit="share", better="higher"),
}


def results(stages, recipe="r"):
    return Metrics(stages=tuple(stages), seed=0, recipe=recipe, columns=COLUMNS)


def stage(name, frechet=2.0, flops=100, params=10):
    figures = {"params": params, "flops": flops, "latency_ms": 1.0, "seconds": 2.0}
    return StageMetrics(stage=name, frechet=frechet, accuracy=0.9, **figures)


def report(text="x", stages=NAMES, losses=True):
    change = {"before": 20_000, "after": 10_000}
    edit = {
        "path": text,
        "rule": text,
        "layer": 1,
        "replaced": text,
        "operator": text,
        "loss": "l1",
        "params": change,
        "flops": change,
    }
    record = {"stage": "distil", "step": 1, "loss": 0.5, "sites": {text: 0.5}, "validation": None}
    return Report(
        title=text,
        metrics=results([stage(name) for name in stages], text),
        losses=[record, record | {"step": 2}] if losses else [],
        grids=dict.fromkeys(stages, b"png"),
        edits=[edit],
        skipped=[{"path": text, "rule": text, "layer": 0, "reason": text}],
        graph_svg="<svg></svg>",
        recipe={text: text},
        source=text,
        origins=[{"started": text, "command": text, "device": text, "threads": 1, "versions": {text: text}}],
        loading=text,
        analysis=[{"layer": 0, "locality": 0.5}, {"layer": 1, "locality": 0.25, "path": text}],
        status=text,
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=30))
def test_nothing_given_becomes_markup(text):
    page = Balanced()
    page.feed(render_report(report(text)))
    assert not page.open
    plain = Balanced()
    plain.feed(render_report(report("x")))
    tags, expected = ([tag for tag, _ in shown.seen if tag != "wbr"] for shown in (page, plain))  # after parentheses
    assert tags == expected
    assert all(not name.startswith("on") for _, attrs in page.seen for name in attrs)


@given(st.sets(st.sampled_from(NAMES)), st.booleans())
def test_any_stage_may_be_missing(stages, losses):
    ordered = [name for name in NAMES if name in stages]
    page = render_report(report(stages=ordered, losses=losses))
    for name in NAMES:
        assert (f"samples of the model: {name}" in page) == (name in stages)


def test_the_page_fetches_nothing_and_is_deterministic():
    page = render_report(report())
    assert page == render_report(report())
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_the_verdict_compares_the_last_stage_with_the_teacher():
    stages = (stage("teacher", 2.0), stage("rewritten", 80.0, 90, 12), stage("finetuned", 2.2, 90, 12))
    words = verdict(results(stages))
    assert words == (
        "The finetuned student has a Frechet distance of 2.20, 1.10 times the teacher’s 2.00, with 20.0\u00a0% more "
        "parameters and 10.0\u00a0% fewer FLOPs. Before any training it had 80.00, 40 times the teacher’s."
    )


@given(*[st.integers(0, 10**12)] * 4)
def test_fewer_and_more_are_never_confused(params, flops, new_params, new_flops):
    stages = (stage("teacher", 2.0, flops, params), stage("distilled", 2.0, new_flops, new_params))
    words = verdict(results(stages))
    assert words.count("fewer") == (new_params < params) + (new_flops < flops)
    assert words.count("more") == (new_params > params) + (new_flops > flops)
    assert ("as many" in words) == (new_params == params or new_flops == flops)


def test_the_stages_say_how_they_were_measured_and_how_they_differ():
    stages = (stage("teacher", flops=1000), stage("rewritten", flops=900))
    recipe = {"evaluate": {"samples": 1000, "steps": 25}}
    page = render_report(replace(report(), metrics=results(stages), recipe=recipe))
    assert "1,000 samples of 25 steps" in page
    assert "900<br><small>−10.0\u00a0%</small>" in page
    assert page.count("<small>+0.0") == 0


@pytest.mark.parametrize("name", ["distilled", "finetuned"])
def test_samples_of_a_stage_without_steps_say_so(name):
    shown = results([stage(each).model_copy(update={"seconds": 2.0 * (each != name)}) for each in NAMES])
    captions = dict(re.findall(r"<b>(\w+)</b>.*?<small>(.*?)</small>", samples_of(shown, dict.fromkeys(NAMES, b"png"))))
    assert [each for each, words in captions.items() if words == "no steps: as before it"] == [name.capitalize()]
    assert captions["Teacher"] == "the pretrained model"


def test_sections_without_content_are_left_out():
    empty = Report("t", results([]), [], {}, [], [], "", {})
    assert "<section>" not in render_report(empty)
    assert render_report(report()).count("<section>") == 8


UNITS = {"": "0.50", "share": "50.0\u00a0%", "count": "0", "ms": "0.50 ms", "bits": "0.50 bits"}


@given(st.dictionaries(st.sampled_from(["fid", "kid", "x y"]), st.sampled_from(list(UNITS)), min_size=1))
def test_any_metric_is_shown_with_its_title_and_unit(units):
    columns = {name: Column(title=f"the {name}", unit=unit, better="higher") for name, unit in units.items()}
    values = dict.fromkeys(units, 0.5)
    stages = [StageMetrics(stage=name, seconds=1.0, params=10, flops=100, **values) for name in NAMES]
    metrics = Metrics(stages=stages, seed=0, recipe="r", columns=columns)
    page = render_report(replace(report(), metrics=metrics))
    for name, unit in units.items():
        assert f'<span title="higher is better">The {name}</span>' in page
        assert len(re.findall(f'<td class="n"[^>]*>{UNITS[unit]}</td>', page)) >= len(NAMES)
    first = next(iter(units))
    assert f"The finetuned student has a the {first} of {UNITS[units[first]]}, 1.00 times" in page
    assert page.count("× teacher</th>") == 1
    stages_table = page.partition("</table>")[0]
    assert stages_table.count("<td") == len(re.findall(r"<th\b", stages_table)) * len(NAMES)


def test_a_figure_that_there_is_not_is_shown_as_none():
    stages = [stage("teacher", None), stage("finetuned", 1.5)]
    page = render_report(replace(report(), metrics=results(stages)))
    assert len(re.findall('<td class="n"[^>]*>–</td>', page)) == 3
    assert verdict(results(stages)).startswith("The finetuned student has a Frechet distance of 1.50, with as many")


def test_a_metric_without_a_figure_does_not_lead():
    stages = [StageMetrics.model_validate({"stage": n, "seconds": 0, "none": None, "frechet": 2.0}) for n in NAMES[:2]]
    assert headline(results(stages)) == "frechet"
    assert headline(results([stage.model_copy(update={"frechet": None}) for stage in stages])) == "none"
    assert headline(results([])) is None


def test_without_a_metric_of_quality_the_costs_are_told():
    costs = {"seconds": 1.0, "flops": 100, "latency_ms": 1.0}
    stages = [StageMetrics(stage="teacher", params=10, **costs), StageMetrics(stage="finetuned", params=9, **costs)]
    assert verdict(results(stages)) == "The finetuned student has 10.0\u00a0% fewer parameters and as many FLOPs."


def test_each_kind_of_loss_has_a_figure_of_its_own_that_says_what_it_is():
    records = [{"stage": "distil", "step": n, "loss": 2 + n % 2, "sites": {"a": 1, "b": 1 + n % 2}} for n in range(80)]
    records += [{"stage": "finetune", "step": n, "loss": 0.1, "sites": {}, "validation": 0.3} for n in range(80)]
    titles = re.compile(r"<figcaption><b>([^<]*)</b>")
    imitates = losses_of(records, [{"loss": "l1"}], "teacher")
    assert titles.findall(imitates) == ["Distillation", "Distillation, by site", "Finetuning", "Finetuning, held out"]
    assert "L1 error, sum of sites" in imitates
    assert re.search("differs from the line by ±(1[6-9]|2[0-4]) %", imitates)
    assert imitates.count('<p class="note">') == 4
    assert titles.findall(losses_of(records, [{"loss": "l2"}], "data"))[2:] == ["Finetuning"]


def test_layers_tell_what_was_learnt_and_what_it_costs():
    edit = report().edits[0]
    edits = [{**edit, "path": f"blocks.{n}.attn", "layer": n} for n in range(2)]
    records = [
        {"stage": "distil", "step": n, "loss": 0, "sites": {"blocks.0.attn": 10 - n / 10, "blocks.1.attn.to": 1.0}}
        for n in range(100)
    ]
    shown = layers_of("", edits, records, [{"layer": 0, "locality": 0.5}], {"locality": "near keys"})
    assert '9.55 <span class="to">→</span> 0.55' in shown
    assert '1 <span class="to">→</span> 1' in shown
    assert "Near keys. Of the teacher" in shown
    assert re.findall(r"<figcaption><b>([^<]*)</b>", shown) == [
        "Distillation loss by layer",
        "Cost by layer",
        "Locality by layer",
    ]


def test_small_figures_keep_their_digits():
    assert (figure(0.000123, ""), figure(0, ""), figure(-0.5, "ms")) == ("0.00012", "0.00", "-0.50 ms")


def test_the_page_can_be_written_whatever_the_names():
    assert render_report(report("\ud800")).encode()


def test_many_edits_are_folded():
    few, many = (render_report(replace(report(), edits=report().edits * n)) for n in (12, 13))
    assert "<summary>13 edits</summary>" in many
    assert "12 edits" not in few


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (9_999, "9,999"),
        (37_440, "37.4 k"),
        (1_637_857, "1.64 M"),
        (1.19e11, "119 G"),
        (1_300_000, "1.30 M"),
        (2e12, "2.00 T"),
    ],
)
def test_counts_have_units(number, words):
    assert count(number) == words


def test_pictures_keep_their_place_and_skipped_sites_are_counted():
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (444).to_bytes(4, "big") + (222).to_bytes(4, "big")
    skipped = [{"path": f"blocks.{i}", "rule": "r", "layer": i, "reason": "not selected by every(2)"} for i in range(4)]
    page = render_report(replace(report(), grids={"teacher": header}, skipped=skipped))
    assert 'width="444" height="222"' in page
    assert "not selected by every(2): 4 sites" in page
