"""Functions in selections: JSON names them, gives only those back that have a name, and never takes one for another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from surgery.rewriting import Selection, Site, top, where

SELECTION: TypeAdapter[Any] = TypeAdapter(Selection)


def is_deep(site: Site) -> bool:
    return (site.operator.layer or 0) > 3


def is_shallow(site: Site) -> bool:
    return not is_deep(site)


class Metrics:
    @staticmethod
    def cost(site: Site) -> float:
        return site.operator.flops


def deeper_than(layer: int) -> Callable[[Site], bool]:
    return lambda site: (site.operator.layer or 0) > layer


selections = st.one_of(
    st.sampled_from((is_deep, is_shallow)).map(where), st.integers(1, 9).map(lambda n: top(Metrics.cost, n))
)


@given(selections, selections)
def test_a_function_with_a_name_is_read_back(one: Any, other: Any) -> None:
    chosen = one & ~other
    text = SELECTION.dump_json(chosen)
    assert SELECTION.validate_json(text) == chosen
    assert (SELECTION.dump_json(one) == SELECTION.dump_json(other)) == (one == other)


NAMELESS = {
    "lambda": where(lambda site: site.operator.layer == 1),
    "closure": where(deeper_than(3)),
    "partial": where(partial(is_deep)),
    "bound": top(Metrics().cost.__call__, 2),
}


@pytest.mark.parametrize("name", NAMELESS)
def test_a_function_without_one_is_not_read_back_and_says_so(name: str) -> None:
    data = SELECTION.dump_python(NAMELESS[name], mode="json")
    with pytest.raises(ValidationError, match="a function that is not at the top of a module cannot be read back"):
        SELECTION.validate_python(data)


def test_a_function_whose_module_is_not_imported_says_what_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SELECTION.dump_python(where(is_deep), mode="json")
    monkeypatch.delitem(sys.modules, __name__)
    with pytest.raises(ValidationError, match=rf"is not there; import {__name__} first, which defined is_deep"):
        SELECTION.validate_python(data)


@given(st.integers(), st.integers())
def test_json_tells_functions_apart_by_what_they_close_over(one: int, other: int) -> None:
    texts = [SELECTION.dump_json(where(deeper_than(layer))) for layer in (one, other)]
    assert (texts[0] == texts[1]) == (one == other)


def test_json_tells_lambdas_apart_by_their_code_and_not_by_their_line() -> None:
    source = "where(lambda site: site.operator.role in {{'mlp', 'norm'}} or site.operator.layer > {})"
    first, again, other = (
        SELECTION.dump_json(eval("\n" * line + source.format(layer))) for line, layer in ((0, 1), (3, 1), (0, 2))
    )
    assert first == again != other
