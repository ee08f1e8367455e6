"""What each option of a stage promises: the same update in less memory, the same bits after an interruption, no more
trained than what was asked for."""

from __future__ import annotations

import copy
import json
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import ArtifactError, RecipeError
from surgery.operators import GatedMLP
from surgery.pipelines.times import LogitNormal, MinSNR
from surgery.progress import Progress, SilentProgress
from surgery.recipe import Recipe
from surgery.rewriting import indices
from surgery.rewriting.commit import commit, record_of
from surgery.rules import drop_blocks, replace_mlp
from surgery.run.compare import compare
from surgery.run.folder import RunFolder
from surgery.training.checkpoint import CheckpointStore
from surgery.training.distil import Distil, distil, sites_of
from surgery.training.finetune import Finetune, finetune, require_learnable
from surgery.training.imitate import Imitation, blocks_to_imitate
from surgery.training.lora import LoRA
from surgery.training.objective import Target
from surgery.training.record import LossRecord
from tests.training.test_wired import wired
from tests.training.tiny import InterruptError, Interrupting, same_bits, weights

FAST: dict[str, Any] = {"steps": 3, "batch_size": 4, "lr": 1e-3, "warmup": 0, "checkpoint_every": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "times and weights": {"times": LogitNormal(mean=1), "weights": MinSNR(), "schedule": "constant"},
    "both targets": {"target": Target(data=1, teacher=0.5, blocks=0.5), "weight_decay": 0.1},
    "adapters": {"lora": LoRA(rank=2), "ema_device": "cpu", "ema_decay": 0.9},
    "less memory": {"micro_batch": 3, "checkpointing": True, "target": "teacher"},
    "some": {"rates": {"*.bias": 0.0, "*.norm1.*": 2.0}, "inherited_lr": 0.1, "optimizer": "muon"},
}


@cache
def rewritten(name: str) -> nn.Module:
    teacher, data = wired(name)
    rule = replace_mlp(GatedMLP(ratio=2), layers=indices(1), inherit="random")
    return surgery.rewrite(teacher, [rule], data.example(0, "cpu"))


def new_of(student: nn.Module) -> list[str]:
    return [path for edit in record_of(student).edits for path in edit.new]


def run(
    name: str = "DiTPipeline",
    store: CheckpointStore | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[nn.Module, list[LossRecord]]:
    (teacher, data), student = wired(name), copy.deepcopy(rewritten(name))
    config = Finetune(**{**FAST, **options})
    records = finetune(teacher, student, new_of(student), data, config, seed=0, checkpoints=store, progress=progress)
    return student, records


def change(name: str = "DiTPipeline", **options: Any) -> dict[str, torch.Tensor]:
    """What a training does to the weights."""
    after, before = weights(run(name, **options)[0]), weights(rewritten(name))
    return {name: after[name].double() - before[name].double() for name in before}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_interrupted_and_resumed_it_ends_with_the_same_bits(options: dict[str, Any]) -> None:
    whole, records = run(**options)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder)
        for after in (1, 1):
            with pytest.raises(InterruptError):
                run(store=store, progress=Interrupting(after), **options)
        resumed, again = run(store=store, progress=SilentProgress(), **options)
    assert again == records
    assert same_bits(weights(whole), weights(resumed))


@pytest.mark.parametrize("target", ["data", "teacher", Target()], ids=["data", "teacher", "both"])
@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_add_up_to_one_batch(target: Any, micro: int) -> None:
    options: dict[str, Any] = {"steps": 1, "target": target, "clip": 1e9}
    (_, whole), (_, parts) = run(**options), run(**options, micro_batch=micro)
    assert parts[0].loss == pytest.approx(whole[0].loss, rel=1e-6)


def test_micro_batches_have_the_gradient_of_one_batch() -> None:
    """In float64; a step of AdamW would only show its sign."""
    found = []
    teacher, data = wired("DiTPipeline")
    for micro in (None, 1, 3):
        model = copy.deepcopy(teacher).requires_grad_(True)
        config = Finetune(**FAST, micro_batch=micro)
        source = data.source(model, stage="x", batch_size=4, seed=0, noising=config.noising)
        for forward in source.training(0):
            (forward.share * forward.loss(model(**forward.inputs).sample)).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for parts in found[1:]:
        assert float((parts - found[0]).norm() / found[0].norm()) < 1e-6


@pytest.mark.parametrize("name", ["DiTPipeline", "StableDiffusion3Pipeline"])
@pytest.mark.parametrize("target", ["data", "teacher"])
def test_checkpointing_changes_no_bit(name: str, target: str) -> None:
    plain, records = run(name, target=target)
    recomputed, again = run(name, target=target, checkpointing=True)
    assert records == again
    assert same_bits(weights(plain), weights(recomputed))
    assert not recomputed.is_gradient_checkpointing


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "ZImagePipeline"])
def test_every_tensor_that_a_block_returns_is_imitated(name: str) -> None:
    (teacher, data), student = wired(name), copy.deepcopy(rewritten(name))
    forward = data.source(teacher, stage="x", batch_size=2, seed=0).training(0)[0]
    blocks = blocks_to_imitate(teacher, student, forward.inputs)
    imitation = Imitation(teacher, blocks, [forward])
    taught = imitation.taught(forward.inputs)
    assert {name.rpartition(".")[0] for name in taught} == {"", *blocks}
    if name == "StableDiffusion3Pipeline":  # the last block has no use for the text
        assert len(taught) == 1 + 2 * len(blocks) - 1
    for one in taught:
        changed = {**taught, one: taught[one] + 1}
        assert sum(error or 0 for error in imitation.errors(taught, changed)) > 0
    _, records = run(name, target="teacher", lr=1e-5)
    assert all(0 < record.loss < 1 for record in records)


def test_adapters_learn_beside_new_operators_and_nothing_else_does(tmp_path: Any) -> None:
    student, _ = run(lora=LoRA(rank=2, targets=("*.attn1.*",)), lr=1e-2)
    before, after = weights(rewritten("DiTPipeline")), weights(student)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    new = {name for name in before if name.startswith(tuple(f"{path}." for path in new_of(student)))}
    attention = {name for name in before if ".attn1." in name and name.endswith("weight")}
    assert changed == new | attention
    assert all(torch.linalg.matrix_rank((after[n] - before[n]).double(), rtol=1e-4) <= 2 for n in attention)
    surgery.save(student, tmp_path)
    inputs = wired("DiTPipeline")[1].example(0, "cpu")
    with torch.no_grad():
        assert torch.equal(surgery.load(tmp_path)(**inputs).sample, student.eval()(**inputs).sample)


@pytest.mark.parametrize("inherited", [0.0, 0.5])
def test_adapters_are_new_weights_whatever_the_rate_of_inherited_ones(inherited: float) -> None:
    lora = LoRA(rank=2, targets=("*.norm1.linear",))
    full, other = (change(lora=lora, inherited_lr=rate) for rate in (1.0, inherited))
    assert all(torch.equal(full[name], other[name]) for name in full)
    assert all(delta.any() for name, delta in full.items() if name.endswith("norm1.linear.weight"))
    still = change(lora=lora, inherited_lr=inherited, rates={"*.lora_[AB].*": 0.0})
    assert not any(delta.any() for name, delta in still.items() if "norm1" in name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": LoRA(rank=2)}, None),
        ({"lora": LoRA(rank=2), "rates": {"*.lora_A.*": 0.0}}, None),
        ({"lora": LoRA(rank=2), "rates": {"*.lora_*": 0.0}}, "all weights are frozen"),
        ({"rates": {"*.lora_A.*": 1.0}}, "fits no parameter"),
        ({}, "all weights are frozen"),
    ],
)
def test_adapters_are_enough_to_learn(options: dict[str, Any], words: str | None) -> None:
    student, before = copy.deepcopy(wired("DiTPipeline")[0]), weights(wired("DiTPipeline")[0])
    with pytest.raises(RecipeError, match=words) if words else nullcontext():
        require_learnable(student, (), Finetune(inherited_lr=0, **options))
    assert same_bits(weights(student), before)


def test_an_interrupted_training_leaves_no_adapters() -> None:
    student = copy.deepcopy(rewritten("DiTPipeline"))
    teacher, data = wired("DiTPipeline")
    config = Finetune(**FAST, lora=LoRA(rank=2))
    with pytest.raises(InterruptError):
        finetune(teacher, student, new_of(student), data, config, seed=0, progress=Interrupting(1))
    assert weights(student).keys() == weights(rewritten("DiTPipeline")).keys()
    assert not hasattr(student, "peft_config")


def test_the_first_rate_that_fits_counts() -> None:
    moved = change(rates={"*.attn1.*": 0.0, "*.bias": 0.1}, inherited_lr=1.0, steps=1)
    for name, delta in moved.items():
        if ".attn1." in name:
            assert not delta.any()
        elif name.endswith(("ff.net.2.bias", "norm1.linear.bias")):
            assert float(delta.abs().max()) == pytest.approx(1e-4, rel=0.01)
        elif name.endswith("norm1.linear.weight"):
            assert float(delta.abs().max()) == pytest.approx(1e-3, rel=0.01)


def test_the_order_of_rates_tells_a_training_from_another(tmp_path: Path) -> None:
    rates = {"*.attn1.*": 0.5, "*.weight": 2.0, "*.bias": 0.1}
    again = dict(reversed(rates.items()))
    recipes = [
        Recipe(model="m", rules=[drop_blocks(layers=indices(0))], finetune=Finetune(rates=each))
        for each in (rates, again)
    ]
    first, second = (json.loads(json.dumps(recipe.model_dump(mode="json"))) for recipe in recipes)
    assert [*Recipe.model_validate(second).finetune.rates] == [*again]
    RunFolder.open(tmp_path / "run", first, resume=False)
    RunFolder.open(tmp_path / "run", first, resume=True)
    with pytest.raises(RecipeError, match="it differs in finetune"):
        RunFolder.open(tmp_path / "run", second, resume=True)
    RunFolder.open(tmp_path / "other", second, resume=False)
    differing = compare([tmp_path / "run", tmp_path / "other"]).groups
    assert [[*group.differs] for group in differing] == [["finetune.rates"], ["finetune.rates"]]
    store = CheckpointStore(tmp_path / "checkpoints")
    run(store=store, rates=rates)
    with pytest.raises(ArtifactError, match=r"it differs in rates \("):
        run(store=store, rates=again)


def test_weight_decay_is_of_matrices() -> None:
    """A step of AdamW takes lr x decay of each weight, beside its own step."""
    plain, decayed = (change(steps=1, weight_decay=decay) for decay in (0.0, 1.0))
    before = weights(rewritten("DiTPipeline"))
    for name, tensor in before.items():
        expected = -1e-3 * tensor.double() if tensor.ndim > 1 else torch.zeros_like(tensor).double()
        if name in plain and plain[name].any():
            torch.testing.assert_close(decayed[name] - plain[name], expected, atol=1e-7, rtol=1e-3)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compiled; it is captured only, as compiling it is not ours to test, and takes long."""
    found: list[Any] = []
    original = torch.compile

    def captured(model: Any) -> Any:
        return original(model, backend=lambda graph, _: found.append(graph) or graph.forward)

    monkeypatch.setattr(torch, "compile", captured)
    return found


def test_what_is_distilled_compiled_and_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """New operators, and what of the teacher no hook is in; the MLP of the second block is replaced."""
    called: dict[nn.Module, int] = {}

    def compile(module: nn.Module) -> None:
        def call(*args: Any, **kwargs: Any) -> Any:
            called[module] = called.get(module, 0) + 1
            return module._call_impl(*args, **kwargs)

        module._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", compile)
    losses, (teacher, data) = {}, wired("DiTPipeline")
    for compiled in (False, True):
        student = copy.deepcopy(rewritten("DiTPipeline"))
        sites = sites_of(record_of(student).edits, teacher, student)
        config = Distil(**{**FAST, "checkpoint_every": 3}, compile=compiled)
        losses[compiled] = [record.loss for record in distil(teacher, student, sites, data, config, seed=0)]
        assert bool(called) is compiled
    assert losses[True] == losses[False]
    paths = {path for model in (teacher, student) for path, module in model.named_modules() if module in called}
    assert {"transformer_blocks.0", "transformer_blocks.1.attn1", "transformer_blocks.1.ff"} <= paths
    assert set(called.values()) == {4}  # of three steps and the held-out loss
    assert not any(module._compiled_call_impl for model in (teacher, student) for module in model.modules())


@pytest.mark.parametrize("target", ["data", "teacher"])
def test_a_compiled_student_learns_the_same(target: str, graphs: list[Any]) -> None:
    plain, records = run(target=target)
    compiled, again = run(target=target, compile=True)
    assert graphs
    assert [record.loss for record in again] == pytest.approx([record.loss for record in records], rel=1e-4)
    assert weights(compiled).keys() == weights(plain).keys()


def test_the_schedule_is_constant_if_asked_for() -> None:
    config = Finetune(**FAST, schedule="constant")
    assert [config.rate_at(step) for step in range(3)] == [1e-3] * 3


def test_samples_are_drawn_from_step_0_on_and_from_the_average() -> None:
    (teacher, data), student = wired("DiTPipeline"), copy.deepcopy(rewritten("DiTPipeline"))
    seen: list[tuple[int, torch.Tensor]] = []
    config = Finetune(**{**FAST, "steps": 4}, sample_every=2, ema_decay=0.0)

    def show(done: int) -> None:
        seen.append((done, student.proj_out_2.weight.detach().clone()))

    finetune(teacher, student, new_of(student), data, config, seed=0, show=show)
    assert [done for done, _ in seen] == [0, 2, 4]
    assert torch.equal(seen[0][1], rewritten("DiTPipeline").proj_out_2.weight)
    assert torch.equal(seen[2][1], student.proj_out_2.weight)


def test_distillation_has_micro_batches_and_times_too() -> None:
    teacher, data = wired("DiTPipeline")
    losses = []
    for micro in (None, 1, 3):
        student = copy.deepcopy(rewritten("DiTPipeline"))
        config = Distil(**{**FAST, "steps": 1}, micro_batch=micro, times=LogitNormal(mean=2))
        sites = sites_of(record_of(student).edits, teacher, student)
        losses.append(distil(teacher, student, sites, data, config, seed=0)[0].loss)
    assert losses[1:] == [pytest.approx(losses[0], rel=1e-6)] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rates": {"*.attn9.*": 0.0}}, r"finetune.rates: '\*.attn9.\*' fits no parameter; they are called such as"),
        ({"rates": {"*": 0.0}}, "all weights are frozen"),
        ({"lora": LoRA(targets=("*.attn9.*",))}, r"lora.targets: '\*.attn9.\*' fits no inherited linear layer"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        run(**options)


def shared() -> tuple[nn.Module, nn.Module, Any]:
    """A teacher, a student that holds its weights, and data."""
    model, data = wired("DiTPipeline")
    teacher = copy.deepcopy(model)
    graph = surgery.trace(teacher, data.example(0, "cpu"))
    planned = surgery.plan(graph, [replace_mlp(GatedMLP(ratio=2), layers=indices(1), inherit="random")])
    return teacher, commit(graph, planned.edits, shared=True), data


def places(model: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "options",
    [{"inherited_lr": 0}, {"rates": {"*.attn1.*": 0}}, {"lora": LoRA(rank=2, targets=("*.attn1.*",))}],
    ids=["new", "some", "adapters"],
)
def test_frozen_weights_are_in_memory_once(options: dict[str, Any]) -> None:
    teacher, student, data = shared()
    before, new = weights(teacher), tuple(f"{path}." for path in new_of(student))
    assert {n for n, place in places(student).items() if places(teacher).get(n) != place} == {
        name for name in places(student) if name.startswith(new)
    }
    distil(teacher, student, sites_of(record_of(student).edits, teacher, student), data, Distil(**FAST), seed=0)
    inherited = {name for name in places(student) if not name.startswith(new)}
    assert {name for name in inherited if places(student)[name] != places(teacher)[name]} == set()
    finetune(teacher, student, new_of(student), data, Finetune(**FAST, target="teacher", **options), seed=0)
    apart = {name for name in inherited if places(student)[name] != places(teacher)[name]}
    changed = {name for name in inherited if not torch.equal(weights(student)[name], before[name])}
    assert changed <= apart
    assert all((".attn1." in name) == ("lora" in options) for name in apart) or "rates" in options
    assert bool(apart) == ("inherited_lr" not in options)
    assert same_bits(weights(teacher), before)


def test_a_student_that_shares_memory_ends_with_the_bits_of_one_that_does_not() -> None:
    teacher, student, data = shared()
    finetune(teacher, student, new_of(student), data, Finetune(**FAST), seed=0)
    assert same_bits(weights(student), weights(run()[0]))
