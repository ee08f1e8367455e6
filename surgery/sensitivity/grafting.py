"""Distilling the operators of many edits in one pass of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from surgery.analysis.overlapping import overlapping
from surgery.graph import ModelGraph
from surgery.parallel.group import by_first
from surgery.parallel.whole import divided_like, is_divided, own_part, whole
from surgery.progress import Progress
from surgery.rewriting import Edit, Rule
from surgery.rewriting.commit import commit
from surgery.rewriting.lesson import Lesson
from surgery.rewriting.planning import plan
from surgery.sensitivity.library import Graft, GraftLibrary, key_of
from surgery.training.checkpoint import digest
from surgery.training.distil import Distil, Site, distil, sites_of, trainable
from surgery.training.fit import fit
from surgery.training.record import LossRecord
from surgery.training.source import TrainingData

AT_ONCE = 1 << 28
"""Weights that are trained in one pass of the teacher; more take several passes, as AdamW holds four numbers for each."""

Group = tuple[Edit, ...]
"""Edits that are made together: one, or several whose operators have weights in common."""


def candidates(graph: ModelGraph, rules: Sequence[Rule]) -> list[Edit]:
    """Every edit that each of `rules` makes by itself; those of different rules may be for the same site.

    Raises:
        MatchError, RewriteError: see `surgery.plan`.
    """
    return [edit for rule in rules for edit in plan(graph, [rule]).edits]


def groups_of(graph: ModelGraph, edits: Sequence[Edit], student: nn.Module) -> list[Group]:
    """The edits of one student, those apart that learn apart: what has weights in common is one group."""
    learning = [set(_learning(graph, student, (edit,))) for edit in edits]
    return [tuple(edits[n] for n in group) for group in overlapping(learning)]


def grafts(
    graph: ModelGraph,
    groups: Sequence[Group],
    data: TrainingData,
    config: Distil,
    *,
    seed: int,
    progress: Progress,
    library: GraftLibrary | None = None,
    student: nn.Module | None = None,
) -> list[Graft]:
    """What the new operators of each group have learnt, from the library where it is there.

    All others are distilled together: a pass of the teacher serves them all, yet each comes out as if it were alone, to
    the bit. They are then kept in the library.

    Args:
        graph: of the teacher, which is only read.
        groups: see `Group`.
        data: made already, see `TrainingData.stored`.
        config: see `surgery.training.distil.distil`; `clip` holds for each group by itself.
        seed: of the batches and of random weights.
        progress: shows how far it has come.
        library: where grafts are kept; None keeps none.
        student: one that has the edits of all groups, fitted already where it is to start so, whose operators are then
            distilled in place; None makes one for each group.

    Raises:
        SurgeryError: see `distil` and `GraftLibrary`.
    """
    teacher = digest(graph.model.state_dict())
    keys = [key_of(group, teacher, data, config, seed) for group in groups]
    found: dict[str, Graft] = {}
    if library is not None:
        there = by_first(lambda: [key for key, _ in keys if key in library])
        found = {key: library.get(key) for key in there}
    missing = {key: group for (key, _), group in zip(keys, groups, strict=True) if key not in found}
    contents = dict(keys)
    for part in _passes(graph, missing, seed, student):
        if student is None:
            _fit(graph, part, data, config, seed, progress)
        for key, graft in _distilled(graph, part, data, config, seed, progress):
            found[key] = graft
            if library is not None:
                by_first(partial(library.put, key, graft, contents[key]))
    return [found[key] for key, _ in keys]


def from_library(
    graph: ModelGraph, student: nn.Module, edits: Sequence[Edit], data: TrainingData, config: Distil, *, seed: int,
    progress: Progress,
) -> list[LossRecord]:  # fmt: skip
    """Distil the student of `edits`, in place, by what is in the library of `config`, and what is then added to it.

    Returns:
        The losses of each step, as if all had been distilled now.

    Raises:
        SurgeryError: see `grafts`.
    """
    assert config.library is not None, "whoever asks for grafts names a library"
    library, groups = GraftLibrary(config.library), groups_of(graph, edits, student)
    learnt = grafts(graph, groups, data, config, seed=seed, progress=progress, library=library, student=student)
    for graft in learnt:
        put_in(student, graft.weights)
    steps = zip(*(graft.losses for graft in learnt if graft.losses), strict=True)
    return [_joined(records) for records in steps]


def put_in(student: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give `student` distilled weights by name, in memory of their own; parts where it is divided."""
    for name, tensor in weights.items():
        parameter = student.get_parameter(name)
        if is_divided(parameter):
            own_part(parameter.data).copy_(own_part(divided_like(tensor.to(parameter.dtype), parameter)))
        else:
            parameter.data = tensor.to(parameter.device, parameter.dtype, copy=True)


@dataclass
class _Pupil:
    """A student with the edits of one group, and what they are to learn."""

    key: str
    student: nn.Module
    sites: list[Site]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return trainable(self.student, [module for site in self.sites for module in site.lesson.modules])


def _passes(
    graph: ModelGraph, missing: dict[str, Group], seed: int, shared: nn.Module | None
) -> Iterator[list[_Pupil]]:
    """Pupils for all of `missing`, as many at a time as can be trained together."""
    pupils: list[_Pupil] = []
    weights = 0
    for key, group in missing.items():
        student = commit(graph, group, seed, shared=True) if shared is None else shared
        pupil = _Pupil(key, student, sites_of(group, graph.model, student))
        count = sum(parameter.numel() for parameter in pupil.parameters.values())
        if pupils and weights + count > AT_ONCE:
            yield pupils
            pupils, weights = [], 0
        pupils.append(pupil)
        weights += count
    if pupils:
        yield pupils


def _fit(
    graph: ModelGraph, pupils: Sequence[_Pupil], data: TrainingData, config: Distil, seed: int, progress: Progress
) -> None:
    """Let those start fitted that are asked to."""
    students, sites = _together(pupils)
    fit(graph.model, students, sites, data, batch_size=config.batch_size, seed=seed, progress=progress)


def _together(pupils: Sequence[_Pupil]) -> tuple[nn.Module, list[Site]]:
    """All students, and all sites, whose paths begin with the number of the pupil."""
    sites = [
        replace(site, lesson=_Numbered(f"{number} {site.lesson.path}", site.lesson))
        for number, pupil in enumerate(pupils)
        for site in pupil.sites
    ]
    return nn.ModuleList(pupil.student for pupil in pupils), sites


def _distilled(
    graph: ModelGraph, pupils: Sequence[_Pupil], data: TrainingData, config: Distil, seed: int, progress: Progress
) -> Iterator[tuple[str, Graft]]:  # fmt: skip
    """What each of `pupils` has learnt in one pass."""
    students, sites = _together(pupils)
    owners = {id(parameter): pupil.key for pupil in pupils for parameter in pupil.parameters.values()}
    named = dict(students.named_parameters())
    records: Sequence[LossRecord] = ()
    if sites:
        records = distil(
            graph.model, students, sites, data, config, seed=seed, progress=progress,
            clip_by=lambda name: owners[id(named[name])],
        )  # fmt: skip
    for number, pupil in enumerate(pupils):
        weights = {name: whole(parameter.detach()) for name, parameter in pupil.parameters.items()}
        yield pupil.key, Graft(weights, tuple(_of_pupil(record, f"{number} ") for record in records))


def _of_pupil(record: LossRecord, prefix: str) -> LossRecord:
    """The part of a record that is one pupil's."""
    sites = {path.removeprefix(prefix): loss for path, loss in record.sites.items() if path.startswith(prefix)}
    return replace(record, loss=sum(sites.values()), sites=sites, validation=None)


def _joined(records: Sequence[LossRecord]) -> LossRecord:
    """Those of one step."""
    sites = {path: loss for record in records for path, loss in record.sites.items()}
    return replace(records[0], loss=sum(sites.values()), sites=sites)


def _learning(graph: ModelGraph, student: nn.Module, edits: Group) -> dict[str, nn.Parameter]:
    """What of `student` the operators of `edits` learn."""
    return _Pupil("", student, sites_of(edits, graph.model, student)).parameters


class _Numbered:
    """A lesson under another path, as several students have one at the same place."""

    def __init__(self, path: str, lesson: Lesson) -> None:
        self.path, self.modules, self.called, self._lesson = path, lesson.modules, lesson.called, lesson

    def watch(self, hooks: ExitStack, done: Callable[[], None]) -> None:
        """See `Lesson`."""
        self._lesson.watch(hooks, done)

    def outcome(self) -> tuple[Any, Any]:
        """See `Lesson`."""
        return self._lesson.outcome()
