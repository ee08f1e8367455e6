"""Classes are known by their kind once they are defined."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from surgery.config import Config
from surgery.errors import ArtifactError, ConfigError
from surgery.kinds import Kinded, kind_of, preferring, why_not_read_back
from surgery.operators import AnyDims, AnyOperator, Dims, HyenaX, OperatorConfig, operator_from_data
from surgery.recipe import load_recipe
from surgery.rewriting import Rule


class Shape(Kinded):
    """A family of the tests."""


class Round(Shape):
    kind: Literal["round"] = "round"
    radius: float


class Rounder(Round):
    """Has no kind of its own, and so its name for one."""

    digits: int = 0


shapes = st.builds(Round, radius=st.floats(allow_nan=False)) | st.builds(
    Rounder, radius=st.floats(allow_nan=False), digits=st.integers()
)


def define(module: str, name: str, kind: str, **extra: Any) -> type[Shape]:
    """A class as if `module` had defined it."""
    space = {"__module__": module, "__qualname__": name, "__annotations__": {"kind": Literal[kind]}, "kind": kind}  # type: ignore[valid-type]
    return type(name, (Shape,), {**space, **extra})  # type: ignore[return-value]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An imported module with the names One and Two."""
    made = ModuleType("made_up")
    made.One = made.Two = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up", made)
    monkeypatch.setattr(Shape, "known", dict(Shape.known))
    return made


@given(shapes)
def test_json_gives_the_same_class_again(shape: Shape) -> None:
    data = shape.model_dump(mode="json")
    again = Shape.from_data(data)
    assert type(again) is type(shape)
    assert again == shape
    assert data["import"] == __name__
    assert type(shape).model_validate(data) == shape
    assert why_not_read_back(shape) is None


def test_a_class_without_a_kind_of_its_own_has_its_name_for_one() -> None:
    assert kind_of(Rounder) == f"{__name__}.Rounder"
    assert Rounder(radius=1).kind == f"{__name__}.Rounder"


def test_each_family_has_its_own_kinds() -> None:
    assert Shape.known == {"round": Round, f"{__name__}.Rounder": Rounder}
    assert OperatorConfig.known["mlp"] is not Dims.known["mlp"]
    assert all(kind_of(each) == kind for family in (OperatorConfig, Dims, Rule) for kind, each in family.known.items())


def test_two_classes_of_one_kind_are_an_error_that_names_both(module: ModuleType) -> None:
    first = define("made_up", "One", "one")
    with pytest.raises(
        ConfigError, match=r"^made_up\.Two: the kind 'one' is that of made_up\.One; choose another one$"
    ):
        define("made_up", "Two", "one")
    assert Shape.of_kind("one") is first


def test_a_class_that_is_defined_again_takes_its_own_place(module: ModuleType) -> None:
    define("made_up", "One", "one")
    again = define("made_up", "One", "one")
    assert Shape.of_kind("one") is again


def test_a_class_that_is_gone_makes_room(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    define("made_up", "One", "one")
    del module.One
    renamed = define("made_up", "Two", "one")
    assert Shape.of_kind("one") is renamed
    monkeypatch.delitem(sys.modules, "made_up")
    elsewhere = define("other", "Three", "one")
    assert Shape.of_kind("one") is elsewhere


def test_classes_that_are_preferred_are_those_of_their_kinds(module: ModuleType) -> None:
    old, new = (define("made_up", "One", "one") for _ in range(2))
    with preferring([old]):
        assert type(Shape.from_data({"kind": "one"})) is old
        assert type(Shape.from_data({"kind": "round", "radius": 1})) is Round
    assert type(Shape.from_data({"kind": "one"})) is new
    assert why_not_read_back(old()) == "the kind 'one' is that of made_up.One now"


UNKNOWN = {
    "a slip": (
        {"kind": "hyenax"},
        "unknown kind 'hyenax', did you mean 'hyena_x'? If it is your own, import the module",
    ),
    "a user's": ({"kind": "qq", "import": "my.gates"}, "unknown kind 'qq'; import my.gates first, which defines it"),
    "a script's": (
        {"kind": "qq", "import": "__main__"},
        "unknown kind 'qq'; it was defined in __main__; define it",
    ),
    "no more": (
        {"kind": "qq", "import": __name__},
        f"unknown kind 'qq'; it was defined in {__name__}; define it first",
    ),
    "none": ({}, "'kind' is missing"),
    "no name": ({"kind": [1]}, "unknown kind [1]; if it is your own"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_kind_is_one_line_that_says_what_to_do(case: str) -> None:
    class Holder(Config):
        operator: AnyOperator

    data, words = UNKNOWN[case]
    with pytest.raises(ConfigError) as raised:
        Holder(operator=data)
    assert str(raised.value).startswith(f"Holder.operator: {words}")
    with pytest.raises(ArtifactError) as refused:
        operator_from_data(data)
    assert str(refused.value).startswith(f"operator: {words}")


def test_sizes_of_ones_own_are_read_back() -> None:
    class Holder(BaseModel):
        dims: AnyDims

    class Thickness(Dims):
        thickness: int

    dims = Thickness(thickness=3)
    assert Holder.model_validate_json(Holder(dims=dims).model_dump_json()).dims == dims
    with pytest.raises(ValidationError):
        Holder(dims=HyenaX())


OWN = """
from typing import Literal
from surgery.operators import HyenaX
from surgery.recipe import Recipe
from surgery.rules import replace_attention
class {name}(HyenaX):
    kind: Literal["hyena_of_a_recipe"] = "hyena_of_a_recipe"
recipe = Recipe(model="m", rules=[replace_attention({name}())])
"""


def test_operators_of_a_recipe_are_known_and_make_room_for_those_of_the_next(tmp_path: Path) -> None:
    for name in ("First", "Second"):
        (tmp_path / "recipe.py").write_text(OWN.format(name=name))
        operator: Any = load_recipe(tmp_path / "recipe.py").rules[0].operator
        assert type(operator).__name__ == name
        assert operator_from_data(operator.model_dump(mode="json")) == operator
