"""The algebra of module paths, against PyTorch's own notion of them."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from surgery.recording.paths import below, is_inside, module_part, names_of, outers, parent_and_name, relative

names = st.text("ab1", min_size=1, max_size=2)
paths = st.lists(names, max_size=4).map(".".join)


@given(paths, paths)
def test_relative_undoes_below(outer: str, path: str) -> None:
    whole = below(outer, path)
    assert is_inside(whole, outer)
    assert relative(whole, outer) == path
    assert names_of(whole) == names_of(outer) + names_of(path)


@given(paths, paths)
@example("ab", "a")
@example("a.b", "a")
def test_inside_is_by_names_and_not_by_letters(path: str, outer: str) -> None:
    assert is_inside(path, outer) == (names_of(path)[: len(names_of(outer))] == names_of(outer))
    assert is_inside(path, outer) == (outer in ("", *outers(path)))


@given(paths, names)
def test_parent_and_name_undo_below(path: str, name: str) -> None:
    assert parent_and_name(below(path, name)) == (path, name)
    assert outers(below(path, name)) == [*outers(path), below(path, name)]
    assert module_part(f"{path}:{name}") == path == module_part(path)


@given(paths)
def test_a_path_leads_to_the_module_that_is_put_there(path: str) -> None:
    root = torch.nn.Module()
    for outer in outers(path):
        parent, name = parent_and_name(outer)
        root.get_submodule(parent).register_module(name, torch.nn.Module())
    assert {below("", inner) for inner, _ in root.named_modules()} == {"", *outers(path)}
