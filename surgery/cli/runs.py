"""The commands about runs that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from surgery.cli.commands import Json, app
from surgery.cli.output import console, print_json
from surgery.errors import RecipeError


@app.command
def sample(run: Path, *, out: Path = Path("samples.png"), count: int = 16, seed: int = 0) -> None:
    """Draw a grid of samples from the student of a run.

    Args:
        run: Folder of a finished run.
        out: PNG file to write.
        count: Number of samples.
        seed: Of the noise that they start from.
    """
    from surgery.progress import RichProgress
    from surgery.run.finished import sample_run

    sample_run(run, out, count, seed, RichProgress())
    print(out)


@app.command
def bench(run: Path, *, compiled: Annotated[bool, Parameter(negative="")] = False, as_json: Json = False) -> None:
    """Measure the latency of the teacher and of the student of a run, side by side.

    Args:
        run: Folder of a finished run.
        compiled: Measure both by torch.compile as well, which takes minutes for a large model.
        as_json: Print the figures as JSON.
    """
    from surgery.run.finished import bench_run
    from surgery.run.terminal import bench_table

    figures = bench_run(run, compiled=compiled)
    if as_json:
        return print_json(figures)
    console().print(bench_table(figures))
    return None


@app.command
def report(run: Path) -> None:
    """Write report.html of a run again from the files in its folder.

    Args:
        run: Folder of a run; of one that goes on, what there is so far is drawn.
    """
    from surgery.run.folder import RunFolder
    from surgery.run.report import report_of

    folder = RunFolder(run)
    folder.write("report.html", report_of(folder).encode())
    print(run / "report.html")


@app.command
def compare(*runs: Path, out: Path = Path("comparison.html"), as_json: Json = False) -> None:
    """Compare runs, finished or not: tables and curves side by side, mean and spread over seeds.

    Runs that differ by their seed alone are taken together.

    Args:
        runs: Folders of runs.
        out: HTML file to write.
        as_json: Print the figures as JSON, and write no file.
    """
    from surgery.evaluate.report import render_comparison
    from surgery.files import require_file, write_atomically
    from surgery.run.compare import compare as compare_runs
    from surgery.run.compare import plain
    from surgery.run.terminal import comparison_table

    if not runs:
        raise RecipeError("compare needs folders of runs, e.g. surgery compare runs/*")
    require_file(None if as_json else out, ".html")
    comparison = compare_runs(runs)
    if as_json:
        return print_json(plain(comparison))
    write_atomically(out, render_comparison(comparison).encode())
    console().print(comparison_table(comparison))
    print("\n".join(filter(None, (comparison.caution, str(out)))))
    return None
