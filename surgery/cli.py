"""The command line. Results go to stdout, progress and errors to stderr; torch is imported when a command needs it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console

from surgery.errors import RecipeError, SurgeryError

if TYPE_CHECKING:
    from surgery.recipe import Recipe

Json = Annotated[bool, Parameter(name="--json", negative="")]
Set = Annotated[tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=False)]

app = App(
    name="surgery",
    help="Edit the architecture of a pretrained diffusion transformer, and keep a model that runs in diffusers.",
    help_format="plaintext",
    version_flags=["--version"],
    result_action="return_value",
)


@app.command
def apply(
    recipe: Path,
    *,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    set_: Set = (),
    device: str = "cpu",
    as_json: Json = False,
) -> None:
    """Run a recipe: rewrite the model, distil, finetune, evaluate and save it.

    Parameters
    ----------
    recipe
        Python file that defines `recipe`.
    out
        Folder of the run; by default runs/ and the name of the recipe.
    resume
        Continue an interrupted run in the same folder.
    dry_run
        Show what would be edited and what it costs; write nothing.
    set_
        Override a value of the recipe, e.g. --set distil.steps=100; may be repeated.
    device
        Where to train, e.g. cuda.
    as_json
        Print the result as JSON.
    """
    from surgery.progress import RichProgress
    from surgery.run.stages import apply as run_recipe
    from surgery.run.stages import prepare
    from surgery.run.terminal import stage_table

    if dry_run:
        return _show_plan(prepare(_load(recipe, set_), device).plan, as_json)
    run = run_recipe(
        _load(recipe, set_),
        out or Path("runs") / recipe.stem,
        resume=resume,
        device=device,
        progress=RichProgress(),
        name=str(recipe),
    )
    if as_json:
        return _print_json({**run.metrics.model_dump(mode="json"), "folder": str(run.folder)})
    _console().print(stage_table(run.metrics))
    print(f"\nmodel   {run.folder / 'model'}\nreport  {run.folder / 'report.html'}")
    return None


@app.command
def plan(recipe: Path, *, set_: Set = (), as_json: Json = False) -> None:
    """Show which edits a recipe makes, which sites it skips and why, and what it costs.

    Neither data nor, for checkpoints whose config comes with surgery, weights are needed.

    Parameters
    ----------
    recipe
        Python file that defines `recipe`.
    set_
        Override a value of the recipe; may be repeated.
    as_json
        Print the plan as JSON.
    """
    from surgery.run.stages import plan_recipe

    return _show_plan(plan_recipe(_load(recipe, set_)), as_json)


@app.command
def inspect(
    model: str | None = None,
    *,
    as_json: Json = False,
    svg: Path | None = None,
    kernels: Annotated[bool, Parameter(negative="")] = False,
    wiring: Annotated[bool, Parameter(negative="")] = False,
    call: Path | None = None,
) -> None:
    """Show the operators of a model as a tree: role, shapes, parameters and FLOPs; or the kernels at hand.

    Parameters
    ----------
    model
        A folder written by diffusers or by surgery, a hub id, or a built-in name such as digits-dit.
    as_json
        Print them as JSON.
    svg
        File to draw the graph into, blocks that are alike once.
    kernels
        Show which optional kernels are installed, and which each operator uses on this machine; needs no model.
    wiring
        Show how the pipeline in the folder MODEL feeds its transformer, measured.
    call
        With --wiring, a JSON file with keywords of the pipeline, for one sample; by default, a prompt or a class.
    """
    from dataclasses import asdict

    if kernels:
        return _show_kernels(as_json)
    if model is None:
        raise RecipeError("inspect needs a model, e.g. digits-dit, or --kernels")
    if wiring:
        return _show_wiring(model, call)

    from surgery.files import write_atomically
    from surgery.graph.show.diagram import draw_model
    from surgery.graph.show.tree import outline
    from surgery.models import load_skeleton
    from surgery.models.inputs import example_inputs
    from surgery.run.terminal import operator_tree
    from surgery.tracing import trace

    loaded = load_skeleton(model)
    graph = trace(loaded, example_inputs(loaded))
    if svg is not None:
        write_atomically(svg, draw_model(outline(graph.scopes)).encode())
    if as_json:
        return _print_json([asdict(operator) for operator in graph.operators()])
    _console().print(operator_tree(graph))
    return None


@app.command
def diff(a: str, b: str, *, as_json: Json = False, svg: Path | None = None) -> None:
    """Show how the architecture of one model differs from that of another, such as a student from its teacher.

    Parameters
    ----------
    a
        The first model: a folder written by diffusers or by surgery, a hub id, or a built-in name such as digits-dit.
    b
        The second one.
    as_json
        Print the differences as JSON.
    svg
        File to draw the blocks of the first model into, what differs in the second highlighted.
    """
    from dataclasses import asdict

    from surgery.files import write_atomically
    from surgery.graph.show.diff import diff as compare
    from surgery.graph.show.draw import draw_blocks
    from surgery.models import load_skeleton
    from surgery.models.inputs import example_inputs
    from surgery.run.terminal import difference_view
    from surgery.tracing import trace

    one, other = map(load_skeleton, (a, b))
    inputs = example_inputs(one)
    first = trace(one, inputs)
    found = compare(first, trace(other, inputs if type(other) is type(one) else example_inputs(other)))
    if svg is not None:
        write_atomically(svg, draw_blocks(first, found.labels).encode())
    if as_json:
        return _print_json(asdict(found))
    _console().print(difference_view(found, a, b))
    return None


@app.command
def sample(run: Path, *, out: Path = Path("samples.png"), count: int = 100, seed: int = 0) -> None:
    """Draw a grid of samples from the student of a run.

    Parameters
    ----------
    run
        Folder of a finished run.
    out
        PNG file to write.
    count
        Number of samples.
    seed
        Of the noise that they start from.
    """
    from surgery.run.stages import sample_run

    sample_run(run, out, count, seed, _progress())
    print(out)


@app.command
def bench(run: Path, *, as_json: Json = False) -> None:
    """Measure the latency of the teacher and of the student of a run, side by side.

    Parameters
    ----------
    run
        Folder of a finished run.
    as_json
        Print the figures as JSON.
    """
    from surgery.run.stages import bench_run
    from surgery.run.terminal import bench_table

    figures = bench_run(run)
    if as_json:
        return _print_json(figures)
    _console().print(bench_table(figures))
    return None


@app.command
def report(run: Path) -> None:
    """Write report.html of a run again from the files in its folder.

    Parameters
    ----------
    run
        Folder of a finished run.
    """
    from surgery.run.folder import RunFolder
    from surgery.run.report import report_of

    folder = RunFolder(run)
    folder.write("report.html", report_of(folder).encode())
    print(run / "report.html")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 usage or invalid recipe, 3 no match."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        return _fail(str(error), 2)
    except SurgeryError as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _fail("interrupted; continue with --resume", 130)
    except BrokenPipeError:
        # Whoever read the output (`head`, say) has had enough; Python would complain once more as it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    return 0


def _fail(message: str, status: int) -> int:
    lines = message.strip().splitlines() or ["failed"]
    for line in lines:
        print(f"surgery: {line}", file=sys.stderr)
    return status


def _load(recipe: Path, overrides: tuple[str, ...]) -> Recipe:
    from surgery.recipe import load_recipe

    return load_recipe(recipe, overrides)


def _show_plan(planned: Any, as_json: bool) -> None:
    from surgery.run.terminal import plan_view

    if as_json:
        return _print_json(planned.model_dump(mode="json"))
    _console().print(plan_view(planned))
    return None


def _show_kernels(as_json: bool) -> None:
    from dataclasses import asdict

    from surgery.operators.backends.report import devices, kernels
    from surgery.run.terminal import kernel_tables

    known, at_hand = kernels(), devices()
    if as_json:
        return _print_json({"kernels": [asdict(k) for k in known], "devices": [asdict(d) for d in at_hand]})
    _console().print(kernel_tables(known, at_hand))
    return None


def _show_wiring(folder: str, call: Path | None) -> None:
    from surgery.pipelines import measure
    from surgery.pipelines.describe import wiring_view
    from surgery.pipelines.load import call_of, load_pipeline

    pipeline = load_pipeline(folder)
    _console().print(wiring_view(measure(pipeline, call_of(pipeline, call))))
    return


def _progress() -> Any:
    from surgery.progress import RichProgress

    return RichProgress()


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def _console() -> Console:
    """Standard output; a file or pipe is taken to be wide, so that no cell is folded."""
    return Console() if sys.stdout.isatty() else Console(width=160)
