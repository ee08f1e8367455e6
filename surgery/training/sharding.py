"""Models whose weights the processes of a run divide among them: PyTorch's FSDP2, by block.

Each process holds its part of every weight, of its gradient, moments and average. What a block needs is gathered as the
block is called, and let go of after it. The models come with weights that are mapped from their files: of these a process
reads what it keeps, a block at a time, so that it never holds a whole model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from surgery.graph import ModelGraph
from surgery.parallel.group import size
from surgery.recording.copying import place
from surgery.recording.paths import child_path, is_inside, parent_and_name
from surgery.recording.recording import Scope
from surgery.recording.skeleton import without_weights
from surgery.rewriting import Edit
from surgery.rewriting.commit import replaced_in
from surgery.rewriting.edit import new_paths
from surgery.tracing import trace
from surgery.training.distil import sites_of, trainable
from surgery.training.finetune import Finetune
from surgery.training.learning import factors_of


def divide(
    graph: ModelGraph,
    edits: Sequence[Edit],
    student: nn.Module,
    inputs: Mapping[str, Any],
    device: str = "cpu",
    frozen: Collection[str] = (),
) -> nn.Module:
    """Divide the weights of teacher and student among the processes, in place.

    In distillation a new operator is called alone, so it is gathered by itself: this moves as many bytes as adding up its
    gradients would, and its moments are divided too.

    Args:
        graph: of the teacher.
        edits: of the student.
        student: with all weights; what its edits have replaced loses them.
        inputs: of a forward, on the device.
        device: where the parts go.
        frozen: parameters of the student that are never trained: those that are the teacher's share its parts.

    Returns:
        The student as it is saved, without weights.
    """
    teacher, own = graph.model, trace(student, inputs)
    shared = _shared(student, teacher, frozen)
    called = {module for site in sites_of(edits, teacher, student) for module in site.lesson.called}
    taught = {path for path, module in student.named_modules() if module in called}
    units = units_of(own.scopes, {*graph.layers, *own.layers}) | taught
    for old in replaced_in(student):
        old.to("meta")
    bare = without_weights(student)
    shard(student, units, device)
    shard(teacher, units_of(graph.scopes, graph.layers), device)
    for name, its in shared.items():
        path, leaf = parent_and_name(name)
        part = teacher.get_parameter(its).detach()
        setattr(student.get_submodule(path), leaf, nn.Parameter(part, requires_grad=False))
    with torch.no_grad():  # the first call has to be one of the whole, and out of inference mode
        student(**inputs)
        teacher(**inputs)
    return bare


def never_trained(student: nn.Module, teacher: nn.Module, edits: Sequence[Edit], config: Finetune) -> set[str]:
    """Names of the student's parameters that no stage changes."""
    sites = sites_of(edits, teacher, student)
    if any(site.fitted for site in sites):
        return set()
    learnt = trainable(student, [module for site in sites for module in site.lesson.modules])
    inherited = 0.0 if config.lora is not None else config.inherited_lr  # what has adapters gets memory of its own
    factors = factors_of(student, new_paths(edits), config.rates, inherited) if config.steps else {}
    return {name for name, _ in student.named_parameters() if name not in learnt and not factors.get(name)}


def _shared(student: nn.Module, teacher: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Those of the student's parameters at `names` whose memory is the teacher's, and their names there."""
    taken = {place(parameter): name for name, parameter in teacher.named_parameters()}
    places = {name: place(student.get_parameter(name)) for name in names}
    return {name: taken[its] for name, its in places.items() if its in taken}


def shard(model: nn.Module, units: Iterable[str], device: str = "cpu") -> None:
    """Divide the weights of `model`, which all processes hold, among them; in place.

    Gradients are summed over the processes. Modules keep their classes: the state of FSDP hangs on its hooks.

    Args:
        model: on the device, or on the CPU; there its weights may be mapped from a file.
        units: paths of the modules that are gathered one at a time, see `units_of`; what is in none of them is gathered
            while the model runs.
        device: where the parts go.
    """
    mesh = init_device_mesh(torch.device(device).type, (size(),))
    modules = [model.get_submodule(path) for path in sorted({*units, ""}, key=len, reverse=True)]  # the innermost first
    for module in dict.fromkeys(modules):
        if next(module.parameters(), None) is None:
            continue
        own_class = module.__class__
        sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)  # so its parameters are always the parts
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        module.__class__ = own_class


def units_of(scopes: Mapping[str, Scope], blocks: Iterable[str]) -> set[str]:
    """Paths of what is gathered at a time in a model: blocks, and what is called or read from outside of its block.

    A block that the forward does not call, as its parts were merged into another's, has only such parts.

    Args:
        scopes: of the traced model.
        blocks: the paths of the blocks, of the model that it was made from too.
    """
    blocks = set(blocks)
    calls, reads = list(_targets(scopes, "call_module")), list(_targets(scopes, "get_attr"))
    read = {target for path, target in reads if _is_outside(path, target, blocks)}
    called = blocks & {target for _, target in calls}
    whole = {block for block in called if not any(is_inside(target, block) for target in read)}
    return whole | {target for path, target in calls if _is_outside(path, target, blocks)}


def _is_outside(path: str, target: str, blocks: Iterable[str]) -> bool:
    """Whether what is at `target` stands in a block that the scope at `path`, which uses it, does not stand in."""
    return any(target != block and is_inside(target, block) and not is_inside(path, block) for block in blocks)


def _targets(scopes: Mapping[str, Scope], op: str) -> Iterator[tuple[str, str]]:
    """The path of each scope, and of what it calls or reads."""
    for path, scope in scopes.items():
        nodes: list[fx.Node] = scope.graph.find_nodes(op=op)
        yield from ((path, child_path(path, node)) for node in nodes)
