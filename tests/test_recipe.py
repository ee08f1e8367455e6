"""Recipes: what is loaded, and that each mistake is named where it was made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.config import Config
from surgery.data.base import Data
from surgery.errors import ConfigError, RecipeError
from surgery.operators import HyenaX, SlidingWindow
from surgery.recipe import Distil, Evaluate, FashionMNIST, Finetune, Images, Latents, Recipe, Videos, load_recipe
from surgery.rewriting import every
from surgery.rules import ReplaceAttention, ShareBlocks, replace_attention
from surgery.testing.strategies import rule_sets

IMPORTS = """\
from surgery.operators import Blend, HyenaX
from surgery.recipe import Distil, Evaluate, Finetune, Generated, Images, LogitNormal, Recipe
from surgery.rewriting import every
from surgery.rules import replace_attention
"""
GOOD = f"""{IMPORTS}
recipe = Recipe(
    model="digits-dit",
    rules=[replace_attention(HyenaX(kernel=4), layers=every(2))],
    distil=Distil(steps=300),
    finetune=Finetune(steps=200),
)
"""
RECIPE = Recipe(
    model="digits-dit",
    rules=(replace_attention(HyenaX(kernel=4), layers=every(2)),),
    distil=Distil(steps=300),
    finetune=Finetune(steps=200),
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


def errors(path: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the error that loading `text` gives, without the name of the file."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, overrides)
    return [line.removeprefix(f"{path}:") for line in str(raised.value).splitlines()]


def misspelled(word: str) -> st.SearchStrategy[str]:
    """`word` with a letter dropped, doubled or exchanged with its neighbour, or in capitals."""
    at = st.integers(1, len(word) - 2)
    return st.one_of(
        at.map(lambda i: word[:i] + word[i + 1 :]),
        at.map(lambda i: word[:i] + word[i] + word[i:]),
        at.map(lambda i: word[:i] + word[i + 1] + word[i] + word[i + 2 :]),
        st.just(word.upper()),
    ).filter(lambda wrong: wrong != word)


KEYS = [(part, name) for part in (Distil, Finetune, Evaluate, HyenaX) for name in part.model_fields if len(name) > 3]


def test_a_recipe_is_what_its_file_says(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(GOOD)
    assert load_recipe(tmp_path / "r.py") == RECIPE
    assert load_recipe(str(tmp_path / "r.py")) == RECIPE


@given(st.data(), st.integers(0, 30))
def test_a_misspelled_key_is_named_with_its_line_and_the_right_one(folder: Path, data: st.DataObject, blank: int):
    part, name = data.draw(st.sampled_from(KEYS))
    wrong = data.draw(misspelled(name).filter(lambda word: word not in part.model_fields))
    text = f"{IMPORTS}{blank * chr(10)}x = [\n    {part.__name__}(\n        {wrong}=3)]\n"
    line = 4 + blank + 2
    expected = f"{line}: {part.__name__}: unknown key {wrong!r}, did you mean {name!r}?"
    assert expected in errors(folder / "key.py", text)


SELECTIONS = "AllLayers, Every, ThreeOfFour, Indices, Where, Top, Both, Either, Not"
MISTAKES = {
    "Distil(stepz=3)": "Distil: unknown key 'stepz', did you mean 'steps'?",
    "Distil(lr='fast')": "Distil.lr: must be a valid number, got 'fast'",
    "Distil(300)": "Distil: takes named values only, e.g. steps=300",
    "Distil('many')": "Distil: takes named values only, e.g. library='many'",
    "HyenaX(True)": "HyenaX: takes named values only, e.g. causal=True",
    "Blend(HyenaX(), HyenaX())": "Blend: takes named values only, e.g. parts=(HyenaX(",
    "Blend([HyenaX(), HyenaX()])": "Blend: takes named values only, e.g. parts=[HyenaX(",
    "Blend(HyenaX())": "Blend: takes named values only, e.g. parts=...",
    "Images('a', 'b')": "Images: takes named values only, e.g. folder='a'",
    "Images(3)": "Images.folder: must be a valid string, got 3",
    "HyenaX(kernel=0)": "HyenaX.kernel: must be greater than 0, got 0",
    "Finetune(steps=2.5)": "Finetune.steps: must be a valid integer, got 2.5",
    "every(0)": "Every.n: must be greater than 0, got 0",
    "every(0).no.such(thing=1)": "Every.n: must be greater than 0, got 0",
    "replace_attention(HyenaX(size=1))": "HyenaX: unknown key 'size'; there are kernel, causal",
    "replace_attention(HyenaX(), layers='all')": (f"ReplaceAttention.layers: must be one of {SELECTIONS}, got 'all'"),
    "replace_attention(HyenaX(), layers=HyenaX())": (
        f"ReplaceAttention.layers: must be one of {SELECTIONS}, got HyenaX(kind='hyena_x', "
    ),
    "Recipe(model='m', rules=[], distil=Finetune())": "Recipe.distil: must be a Distil, got Finetune(",
    "Recipe(rules=[], model=Distil(lr=-1))": "Distil.lr: must be greater than 0, got -1",
    "Recipe(model='m')": "Recipe: 'rules' is missing",
    "Recipe(model='m', rules='r')": "Recipe.rules: must be a list, got 'r'",
    "Recipe(model='m', rules=Distil())": "Recipe.rules: must be a list, got Distil(",
    "Recipe(model='m', rules=[[replace_attention(HyenaX())]])": (
        "Recipe.rules.0: must be a Rule, not a list of them; put a * before it: rules=[*...]"
    ),
    "Recipe(model='m', rules=[(3,)])": "Recipe.rules.0: must be a Rule, got (3,)",
    "Recipe(model='m', rules=[[]])": "Recipe.rules.0: must be a Rule, got []",
    "Finetune(lr=float('inf'))": "Finetune.lr: must be a finite number, got inf",
    "LogitNormal(mean=float('nan'))": "LogitNormal.mean: must be a finite number, got nan",
    "Finetune(target='date')": (
        "Finetune.target: must be one of data, teacher, or a Target, got 'date', did you mean 'data'?"
    ),
    "Finetune(target={'dat': 1})": "Finetune.target: unknown key 'dat', did you mean 'data'?",
    "Finetune(target={'blocks': -1})": "Finetune.target.blocks: must be greater than or equal to 0, got -1",
    "Finetune(lora={'rnk': 1})": "Finetune.lora: unknown key 'rnk', did you mean 'rank'?",
    "Recipe(model='m', rules=[], data=3)": "Recipe.data: must be one of digits, or a Data, got 3",
    "Recipe(model='m', rules=[], distil={'schedule': 'x'})": (
        "Recipe.distil.schedule: must be one of cosine, constant, got 'x'"
    ),
    "Distil(steps=True)": "Distil.steps: must be a valid integer, got True",
    "Finetune(rates={'*': False})": "Finetune.rates.*: must be a valid number, got False",
    "Recipe(model='m', rules=[], distil={'lr': True})": "Recipe.distil.lr: must be a valid number, got True",
    "Generated(prompts=3, samples=1, steps=1)": "Generated.prompts: must be a list, or the path of a file, got 3",
    "Generated(prompts=['a', 2.5], samples=1, steps=1)": (
        "Generated.prompts.1: must be a valid string, or a valid integer, got 2.5"
    ),
}


@given(st.lists(st.sampled_from(sorted(MISTAKES)), min_size=1, unique=True))
def test_all_mistakes_come_at_once_each_with_its_line(folder: Path, mistakes: list[str]) -> None:
    found = errors(folder / "all.py", IMPORTS + "\n".join(mistakes))
    assert len(found) == len(mistakes)
    for number, (line, mistake) in enumerate(zip(found, mistakes, strict=True), start=5):
        assert line.startswith(f"{number}: {MISTAKES[mistake]}")


STOPS = {
    "\nreplace_attention(HyenaX(), layrs=1)": "6: replace_attention: unknown key 'layrs', did you mean 'layers'?",
    "import surgery.rules as r\nr.replace_attention(HyenaX(), layrs=1)": (
        "6: replace_attention: unknown key 'layrs', did you mean 'layers'?"
    ),
    "replace_attention(None, zzzzzz=1)": (
        "5: replace_attention: unknown key 'zzzzzz'; there are operator, role, layers, inherit"
    ),
    "recipe = Recipee()": "5: 'Recipee' is not defined, did you mean 'Recipe'?",
    "from surgery.operators import Hyenax": "5: 'surgery.operators' has no 'Hyenax', did you mean 'HyenaX'?",
    "import surgry": "5: no module 'surgry', did you mean 'surgery'?",
    "import surgery.recpe": "5: no module 'surgery.recpe', did you mean 'recipe'?",
    "import qqqq": "5: no module 'qqqq'; install it, or put it beside the recipe",
    "import besid": "5: no module 'besid', did you mean 'beside'?",
    "\n1 / 0": "6: ZeroDivisionError: division by zero",
    "raise KeyError": "5: KeyError",
    "raise ValueError('two\\nlines')": "5: ValueError: two lines",
    "exit(3)": "5: the recipe ends the program; leave out the call of exit",
    "raise BaseException('no')": "5: BaseException: no",
    "raise type('Stop', (BaseException,), {})": "5: Stop",
    "raise GeneratorExit": "5: GeneratorExit",
    "recipe = (": "5: '(' was never closed",
    "x = 1\n\tx": "6: unexpected indent",
    "x = '\0'": "1: source code string cannot contain null bytes",
    "Distil.model_validate({'steps': 'x'})": "5: Distil.steps: Input should be a valid integer",
    "import broken": "broken.py:2: invalid syntax",
    "import failing": "failing.py:3: ZeroDivisionError: division by zero",
    "import wrong": "wrong.py:2: Distil: unknown key 'stepz', did you mean 'steps'?",
    "x = " + "+".join(["1"] * 30_000): " is nested too deeply to be compiled",
    "recip = Recipe(model='m', rules=[])": " defines no `recipe`, but 'recip' is one: rename it",
    "a = Recipe(model='m', rules=[])": " defines no `recipe`, but 'a' is one: rename it",
    "recipes = []": " defines no `recipe`, did you mean 'recipes'?",
    "": " defines no `recipe`: add `recipe = Recipe(...)`",
    "recipe = Recipe": " `recipe` is a class, not a Recipe",
}


@pytest.mark.parametrize("text", STOPS)
def test_what_stops_a_recipe_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "beside.py").touch()
    (tmp_path / "broken.py").write_text("\nx = = 3\n")
    (tmp_path / "failing.py").write_text("def f(): \n    return 1 // 0 if False else \\\n    1 / 0\nf()\n")
    (tmp_path / "wrong.py").write_text("from surgery.recipe import Distil\nDistil(stepz=3)\n")
    found = errors(tmp_path / "r.py", IMPORTS + text)
    assert len(found) == 1
    assert found[0].removeprefix(f"{tmp_path.resolve()}/").startswith(STOPS[text])


def test_an_interruption_stays_one(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("class Own(KeyboardInterrupt):\n    pass\nraise Own")
    with pytest.raises(KeyboardInterrupt):
        load_recipe(tmp_path / "r.py")


def test_the_errors_before_the_stop_are_reported_too(tmp_path: Path) -> None:
    text = IMPORTS + "d = Distil(stepz=1)\nif d.steps > 3:\n    pass\n"
    assert errors(tmp_path / "r.py", text) == ["5: Distil: unknown key 'stepz', did you mean 'steps'?"]
    text = IMPORTS + "d = Distil(stepz=1)\n1 / 0\n"
    assert [line[:2] for line in errors(tmp_path / "r.py", text)] == ["5:", "6:"]


def test_a_path_that_is_no_recipe(tmp_path: Path) -> None:
    def failure(path: Path) -> str:
        with pytest.raises(RecipeError) as raised:
            load_recipe(path)
        return str(raised.value).removeprefix(f"{path}: ")

    (tmp_path / "quickstart.py").write_bytes(b"x = '\xe9'")
    assert failure(tmp_path / "quickstat.py") == "no such file, did you mean 'quickstart.py'?"
    assert failure(tmp_path / "none" / "quickstat.py") == "no such file"
    assert failure(tmp_path) == "is a folder; name a Python file that defines `recipe`"
    assert failure(tmp_path / "quickstart.py") == "is not UTF-8 text (byte 5); save it as UTF-8"
    assert failure(tmp_path / "quickstart.py" / "a.py").startswith("cannot be read")
    assert failure(tmp_path / "a\0.py").startswith("cannot be read")


@settings(max_examples=60)
@given(st.integers(0, len(GOOD)), st.integers(0, 60))
def test_a_recipe_with_a_piece_cut_out_loads_or_gives_a_recipe_error(folder: Path, start: int, length: int) -> None:
    (folder / "cut.py").write_text(GOOD[:start] + GOOD[start + length :])
    lines = []
    try:
        assert isinstance(load_recipe(folder / "cut.py"), Recipe)
    except RecipeError as error:
        lines = str(error).splitlines()
    assert all(line.startswith(f"{folder / 'cut.py'}:") for line in lines)


def test_outside_of_a_recipe_a_wrong_call_raises(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError):
            Distil(steps=-1)
        errors(tmp_path / "r.py", "1 / 0")


def classes(base: type[Config]) -> Iterator[type[Config]]:
    for each in base.__subclasses__():
        yield each
        yield from classes(each)


def test_no_number_of_any_config_is_true_or_false() -> None:
    for model in {found for found in classes(Config) if found.__module__.startswith("surgery.")}:
        for name in (name for name, field in model.model_fields.items() if field.annotation in (int, float)):
            for value in (True, False):
                with pytest.raises(ValidationError) as error:
                    model.model_validate({name: value})
                assert (name,) in [each["loc"] for each in error.value.errors() if repr(each["input"]) == repr(value)]


def test_each_recipe_has_its_own_modules_and_leaves_no_trace(tmp_path: Path) -> None:
    before = list(sys.path)
    for number in (3, 4):
        (tmp_path / str(number) / "parts").mkdir(parents=True)
        (tmp_path / str(number) / "parts" / "__init__.py").write_text("")
        (tmp_path / str(number) / "parts" / "size.py").write_text(f"KERNEL = {number}\n")
        text = "from parts.size import KERNEL\n" + GOOD.replace("kernel=4", "kernel=KERNEL")
        (tmp_path / str(number) / "r.py").write_text(text)
        assert load_recipe(tmp_path / str(number) / "r.py").rules[0].operator == HyenaX(kernel=number)
        assert sys.path == before
        assert not {"parts", "parts.size", "__recipe__"} & sys.modules.keys()


def test_a_recipe_may_define_classes_and_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = """\
from __future__ import annotations
from dataclasses import dataclass
from surgery.config import Config
class Inner(Config):
    x: int
class Outer(Config):
    inner: Inner
@dataclass
class Plain:
    inner: Inner
Outer(inner=Inner(x=3))
"""
    (tmp_path / "r.py").write_text(text + GOOD, encoding="utf-8-sig")
    assert load_recipe(tmp_path / "r.py") == RECIPE


def leaves(part: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values in nested dicts and lists by dotted path."""
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else None
    if inner is None:
        return {".".join(path): part}
    return {name: value for key, each in inner for name, value in leaves(each, (*path, str(key))).items()}


VALUES = leaves(RECIPE.model_dump(mode="json"))
NUMBERS = sorted(name for name, value in VALUES.items() if type(value) in (int, float) and "decay" not in name)


@given(st.dictionaries(st.sampled_from(NUMBERS), st.integers(1, 10**6), min_size=1, max_size=4))
def test_overrides_change_the_values_named_and_no_others(folder: Path, new: dict[str, int]) -> None:
    (folder / "good.py").write_text(GOOD)
    changed = load_recipe(folder / "good.py", [f"{name}={value}" for name, value in new.items()])
    assert leaves(changed.model_dump(mode="json")) == {**VALUES, **new}


def test_overrides_take_json_or_text(folder: Path) -> None:
    (folder / "good.py").write_text(GOOD)
    overrides = ('rules.0.operator={"kind": "sliding_window", "window": 3}', "model=a=b", "distil.steps=1", "seed=2")
    changed = load_recipe(folder / "good.py", overrides)
    assert changed.rules[0].operator == SlidingWindow(window=3)
    assert (changed.model, changed.distil.steps, changed.seed) == ("a=b", 1, 2)


def test_overrides_reach_into_keywords(folder: Path) -> None:
    call = "{'height': 16, 'template': {'text': '{}', 'ids': [3, 4]}}"
    text = f"recipe = Recipe(model='m', rules=[], data=Generated(prompts=['a'], samples=1, steps=1, call={call}))"
    (folder / "call.py").write_text(IMPORTS + text)
    overrides = ("data.call.width=24", "data.call.template.ids.1=5", "data.call.template.text=null", "data.prompts.0=b")
    changed = load_recipe(folder / "call.py", overrides).data
    assert changed.call == {"height": 16, "template": {"text": None, "ids": [3, 5]}, "width": 24}
    assert changed.prompts == ("b",)
    wrong = "data.call.templat.text=x"
    expected = f"--set {wrong}: unknown key 'templat', did you mean 'template'?"
    assert errors(folder / "call.py", IMPORTS + text, wrong) == [expected]


@given(st.data(), st.sampled_from(["distil.steps", "finetune.batch_size", "evaluate.guidance", "rules.0.inherit"]))
def test_a_misspelled_override_names_the_right_key(folder: Path, data: st.DataObject, key: str) -> None:
    parts = key.split(".")
    at = data.draw(st.sampled_from([i for i, part in enumerate(parts) if not part.isdigit()]))
    wrong = data.draw(misspelled(parts[at]))
    override = ".".join([*parts[:at], wrong, *parts[at + 1 :]]) + "=1"
    expected = f"--set {override}: unknown key {wrong!r}, did you mean {parts[at]!r}?"
    assert errors(folder / "good.py", GOOD, override) == [expected]


def test_all_wrong_overrides_come_at_once(folder: Path) -> None:
    wrong = {
        "distil.steps=-2": "Distil.steps: must be greater than or equal to 0, got -2",
        "seed=x": "Recipe.seed: must be a valid integer, got 'x'",
        "distil.steps.a=3": "'a' is inside a value that has no parts",
        "finetune.lora.rank=3": "'rank' is inside a value that is None; set that as a whole, as JSON",
        "finetune.lr=1e400": "Finetune.lr: must be a finite number, got inf",
        "rules.1.loss=l2": "no item '1'; there are 1, counted from 0",
        "rules.0.loss=l3": "ReplaceAttention.loss: must be one of l1, l2, huber, got 'l3'",
        "rules.0={}": "Recipe.rules.0: 'kind' is missing",
        'rules.0={"pattern": {"role": "mlp"}}': "Recipe.rules.0: 'kind' is missing",
        "seed": "write it as name=value, e.g. --set distil.steps=100",
        "=3": "write it as name=value, e.g. --set distil.steps=100",
    }
    found = errors(folder / "good.py", GOOD, "seed=1", *wrong)
    assert len(found) == len(wrong)
    for line, (override, words) in zip(found, wrong.items(), strict=True):
        assert line.startswith(f"--set {override}: {words}")


def test_the_resolved_recipe_has_what_a_users_own_rule_and_operator_add(tmp_path: Path) -> None:
    text = IMPORTS + (
        "from surgery.rules import ReplaceAttention\n"
        "class Mine(ReplaceAttention):\n    strength: int = 7\n"
        "class Op(HyenaX):\n    twist: float = 0.5\n"
        "recipe = Recipe(model='m', rules=[Mine(pattern={'role': 'self_attention'}, operator=Op())])\n"
    )
    (tmp_path / "r.py").write_text(text)
    rule = json.loads(json.dumps(load_recipe(tmp_path / "r.py").model_dump(mode="json")))["rules"][0]
    assert rule["strength"] == 7
    assert rule["operator"]["twist"] == 0.5


def test_configs_are_frozen() -> None:
    class Part(Config):
        x: int

    with pytest.raises(ValidationError):
        Part(x=1).x = 2  # type: ignore[misc]


def written(recipe: Recipe) -> Any:
    """What recipe.json of a run holds."""
    return json.loads(json.dumps(recipe.model_dump(mode="json")))


def some(part: type[Config]) -> st.SearchStrategy[Any]:
    """Configs of a stage, of some numbers."""
    return st.builds(part, steps=st.integers(1, 10**6), batch_size=st.integers(1, 999))


@settings(max_examples=60)
@given(
    st.builds(
        Recipe,
        model=st.text(),
        rules=rule_sets(),
        distil=some(Distil),
        finetune=some(Finetune),
        evaluate=some(Evaluate),
        seed=st.integers(),
    )
)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.model_validate(written(recipe)) == recipe


class Shared(ShareBlocks):
    """As the rule of the library, but a class of its own."""


class Reversed(ReplaceAttention):
    """A rule with a field of its own."""

    kind: Literal["reversed_attention"] = "reversed_attention"  # type: ignore[assignment]
    times: int


def test_rules_of_ones_own_survive_json() -> None:
    pattern, operator = {"role": "self_attention"}, HyenaX(kernel=3)
    rules = (
        Shared(pattern=pattern),
        ShareBlocks(pattern=pattern),
        Reversed(pattern=pattern, operator=operator, times=2),
    )
    recipe = Recipe(model="m", rules=rules)
    assert Recipe.model_validate(written(recipe)) == recipe


def test_json_tells_two_classes_of_equal_fields_apart() -> None:
    one, other = (written(Recipe(model="m", rules=(rule(pattern={"role": "mlp"}),))) for rule in (Shared, ShareBlocks))
    assert one["rules"] != other["rules"]


def test_a_rule_that_is_not_known_says_what_to_import() -> None:
    data = written(RECIPE)
    data["rules"][0] |= {"kind": "qqqq", "import": "my.rules"}
    with pytest.raises(ValidationError, match=r"unknown kind 'qqqq'; import my\.rules first, which defines it"):
        Recipe.model_validate(data)


@pytest.mark.parametrize(
    ("data", "name", "others"),
    [
        (Images, "folder", {}),
        (Videos, "folder", {"frames": 9, "fps": 8}),
        (Latents, "path", {"call": {"height": 8}}),
        (FashionMNIST, "folder", {}),
    ],
)
def test_where_data_are_may_go_without_a_name(data: type[Data], name: str, others: dict[str, Any], tmp_path: Path):
    assert data("some/where", **others) == data(**{name: "some/where"}, **others)
    assert data(tmp_path, **others) == data(str(tmp_path), **others)


def test_a_model_may_be_a_path(tmp_path: Path):
    assert Recipe(model=tmp_path, rules=[]).model == str(tmp_path)
