"""The commands. Each imports what it needs, so that none waits for torch in vain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter, validators

from surgery.cli.output import console, print_json, prints_to_stderr, show_kernels, show_plan, show_presets, show_wiring
from surgery.cli.processes import default_device, start, starts_processes
from surgery.errors import RecipeError, SurgeryError

if TYPE_CHECKING:
    from surgery.recipe import Recipe

Json = Annotated[bool, Parameter(name="--json", negative="")]
Gpus = Annotated[int | None, Parameter(name="--gpus")]
Set = Annotated[tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=False)]

app = App(
    name="surgery",
    help="Edit the architecture of a pretrained diffusion transformer, and keep a model that runs in diffusers.",
    help_format="plaintext",
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)


@app.command
def apply(
    recipe: Path,
    *,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    set_: Set = (),
    device: str | None = None,
    gpus: Gpus = None,
    log: str | None = None,
    shard: Annotated[bool, Parameter(negative="")] = False,
    log_dir: Path | None = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: rewrite the model, distil, finetune, evaluate and save it.

    Args:
        recipe: Python file that defines `recipe`.
        out: Folder of the run; by default runs/ and the name of the recipe.
        resume: Continue an interrupted run in the same folder.
        dry_run: Show what would be edited, what it costs and how much memory it takes; write nothing.
        set_: Override a value of the recipe, e.g. --set distil.steps=100; may be repeated.
        device: Where to train, e.g. cuda; by default the CPU, or where several processes share a run, their GPUs if
            there are any.
        gpus: Share the run among so many processes on this machine, one for each GPU, or all on the CPU.
        log: Where losses and metrics go too, besides the folder: tensorboard, wandb or trackio.
        shard: Divide the weights of teacher and student among these processes.
        log_dir: Folder for what each of them but the first, which has the terminal, says.
        as_json: Print the result as JSON.
    """
    out = out or Path("runs") / recipe.stem
    if starts_processes(gpus, device, log_dir):
        flags = {"--resume": resume, "--dry-run": dry_run, "--shard": shard, "--json": as_json}
        given = [flag for flag, is_set in flags.items() if is_set] + (["--log", log] if log else [])
        return start("apply", recipe, out, set_, device, gpus, given, log_dir)

    from surgery.progress import RichProgress
    from surgery.run.memory import memory_of
    from surgery.run.prepare import prepare
    from surgery.run.stages import apply as run_recipe
    from surgery.run.terminal import stage_table

    device = device or default_device(gpus)
    if dry_run:
        with prints_to_stderr():
            prepared = prepare(_load(recipe, set_), device, progress=RichProgress())
            memory = memory_of(prepared, device)
        return show_plan(prepared.plan, as_json, memory)
    with prints_to_stderr():
        run = run_recipe(
            _load(recipe, set_),
            out,
            resume=resume,
            device=device,
            progress=RichProgress(),
            name=str(recipe),
            log=log,
            shard=shard,
        )
    if as_json:
        return print_json({**run.metrics.model_dump(mode="json"), "folder": str(run.folder)})
    console().print(stage_table(run.metrics))
    print(f"\nmodel   {run.folder / 'model'}\nreport  {run.folder / 'report.html'}")
    return None


@app.command
def cache(
    recipe: Path, *, out: Path | None = None, set_: Set = (), device: str | None = None, gpus: Gpus = None
) -> None:
    """Make the training data of a recipe, and nothing else; `surgery apply` with the same folder then uses them.

    What is interrupted goes on if the command is repeated.

    Args:
        recipe: Python file that defines `recipe`.
        out: Folder of the run; by default runs/ and the name of the recipe.
        set_: Override a value of the recipe; may be repeated.
        device: Where to make them, e.g. cuda; see `surgery apply`.
        gpus: Share the work among so many processes on this machine.
    """
    out = out or Path("runs") / recipe.stem
    if starts_processes(gpus, device):
        return start("cache", recipe, out, set_, device, gpus)

    from surgery.progress import RichProgress
    from surgery.run.cache import cache as make

    with prints_to_stderr():
        folder = make(_load(recipe, set_), out, device or default_device(gpus), RichProgress())
    print(folder)
    return None


@app.command
def plan(recipe: Path, *, set_: Set = (), gpus: Gpus = None, memory: str = "80GB", as_json: Json = False) -> None:
    """Show which edits a recipe makes, which sites it skips and why, and what it costs.

    Neither data nor, for checkpoints whose config comes with surgery, weights are needed.

    Args:
        recipe: Python file that defines `recipe`; or the folder of a run, whose plan is shown.
        set_: Override a value of the recipe; may be repeated.
        gpus: Show instead how the stages fit into so many GPUs, with which settings, and about how long they take.
        memory: Of each GPU, e.g. 80GB or 24GiB.
        as_json: Print the plan as JSON.
    """
    if gpus is not None:
        from surgery.cli.scale import show_scale

        return show_scale(_load(recipe, set_), gpus, memory, as_json)

    from surgery.progress import RichProgress
    from surgery.rewriting.commit import require_no_conflicts
    from surgery.run.folder import is_run, plan_of
    from surgery.run.prepare import plan_recipe

    with prints_to_stderr():
        planned = plan_of(recipe) if is_run(recipe) else plan_recipe(_load(recipe, set_), RichProgress())
    show_plan(planned, as_json)
    require_no_conflicts(planned)
    return None


@app.command
def inspect(
    model: str | None = None,
    *,
    as_json: Json = False,
    svg: Path | None = None,
    kernels: Annotated[bool, Parameter(negative="")] = False,
    presets: Annotated[bool, Parameter(negative="")] = False,
    wiring: Annotated[bool, Parameter(negative="")] = False,
    call: Path | None = None,
) -> None:
    """Show the operators of a model as a tree: role, shapes, parameters and FLOPs; or the kernels at hand.

    Args:
        model: A folder written by diffusers or by surgery, the folder of a run, a hub id, or a built-in name such as
            digits-dit.
        as_json: Print them as JSON.
        svg: File to draw the graph into, blocks that are alike once.
        kernels: Show which optional kernels are installed, and which each operator uses on this machine; needs no model.
        presets: List the checkpoints whose configs come with surgery, which need no network to be planned for.
        wiring: Show how the pipeline MODEL feeds its transformer, measured.
        call: With --wiring, a JSON file with keywords of the pipeline, for one sample; by default, a prompt or a class.
    """
    from dataclasses import asdict

    if kernels:
        return show_kernels(as_json)
    if presets:
        return show_presets(as_json)
    if model is None:
        raise RecipeError("inspect needs a model, e.g. digits-dit, or --kernels")
    if wiring:
        return show_wiring(model, call, as_json)

    from surgery.files import require_file, write_atomically
    from surgery.graph.show.diagram import draw_model
    from surgery.graph.show.tree import module_tree
    from surgery.models import load_skeleton
    from surgery.models.inputs import example_inputs
    from surgery.run.folder import model_of
    from surgery.run.terminal import operator_tree
    from surgery.tracing import trace

    require_file(svg, ".svg", "--svg")
    loaded = load_skeleton(model_of(model))
    graph = trace(loaded, example_inputs(loaded))
    if svg is not None:
        write_atomically(svg, draw_model(module_tree(graph.scopes)).encode())
    if as_json:
        return print_json([asdict(operator) for operator in graph.operators()])
    console().print(operator_tree(graph))
    return None


@app.command
def analyze(
    model: str,
    *,
    call: Path | None = None,
    steps: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 50,
    samples: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1,
    seed: int = 0,
    window: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    device: str = "cpu",
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """Show what each layer of a model does while it samples: locality, entropy and sinks of its attention, keys that
    need centring, activations of its operators, and what each of them adds to the stream.

    A pipeline is run as it is, everything else on made-up inputs.

    Args:
        model: As for `inspect`, or the folder of a pipeline.
        call: A JSON file with keywords of the pipeline; by default, a prompt or a class, of digits-dit all ten.
        steps: Of the pipeline's scheduler; made-up inputs are drawn so many times.
        samples: Runs of the pipeline, each from noise of its own.
        seed: Of the noise.
        window: The k of the locality L_k; by default an eighth of the tokens, which is the paper's 32 of 256.
        device: Where to run it, e.g. cuda.
        out: Folder for analysis.json, and a page with plots, analysis.html.
        as_json: Print the figures as JSON.
    """
    from surgery.device import require_device
    from surgery.files import require_folder
    from surgery.progress import RichProgress
    from surgery.run.analyze import analyze as observe
    from surgery.run.subject_to_analyze import Sampling, analyzed
    from surgery.statistics.show import analysis_view, write_analysis

    require_device(device)
    require_folder(out)
    sampling = Sampling(steps, samples, seed)
    with prints_to_stderr():
        found = observe(model, analyzed(model, sampling, call, device), sampling, window, RichProgress())
    if out is not None:
        write_analysis(found, out)
    if as_json:
        return print_json(found)
    console().print(analysis_view(found))
    return None


@app.command
def diff(a: str, b: str, *, as_json: Json = False, svg: Path | None = None) -> None:
    """Show how the architecture of one model differs from that of another, such as a student from its teacher.

    Args:
        a: The first model: a folder written by diffusers or by surgery, that of a run, a hub id, or a built-in name.
        b: The second one.
        as_json: Print the differences as JSON.
        svg: File to draw the blocks of the first model into, what differs in the second highlighted.
    """
    from dataclasses import asdict

    from surgery.files import require_file, write_atomically
    from surgery.graph.show.diff import diff as compare
    from surgery.graph.show.draw import draw_blocks
    from surgery.models import load_skeleton
    from surgery.models.inputs import example_inputs
    from surgery.run.folder import model_of
    from surgery.run.terminal import difference_view
    from surgery.tracing import trace

    require_file(svg, ".svg", "--svg")
    one, other = (load_skeleton(model_of(name)) for name in (a, b))
    inputs = example_inputs(one)
    first = trace(one, inputs)
    try:
        second = trace(other, inputs)
    except SurgeryError:  # it takes others
        second = trace(other, example_inputs(other))
    found = compare(first, second)
    if svg is not None:
        write_atomically(svg, draw_blocks(first, found.labels).encode())
    if as_json:
        return print_json(asdict(found))
    console().print(difference_view(found, a, b))
    return None


def _load(recipe: Path, overrides: tuple[str, ...]) -> Recipe:
    from surgery.recipe import load_recipe

    return load_recipe(recipe, overrides)
