"""Draw docs/images/wiring.svg, how a wiring is measured: `python docs/wiring_picture.py`."""

from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

HERE = Path(__file__).parent
CONSTANT = torch.tensor([[0.3, 0.7]])
COLOURS = ("#cfe3f5", "#f7e3c4", "#d9ecd2", "#ead7ee")
LEFT, RIGHT, TOP = 0.6, 7.4, 9.1


def fed(latents: Tensor) -> Tensor:
    """What the pipeline of the picture makes of latents (2, 4): tokens of two, the sign turned, behind a constant one."""
    return torch.cat([CONSTANT, -latents.T])


def draw(out: Path) -> None:
    """One row for each step of the pipeline, and below them what is learned."""
    figure, axes = plt.subplots(figsize=(9.2, 6.6))
    axes.set_xlim(0, 12.4)
    axes.set_ylim(-0.6, 10)
    axes.axis("off")
    digits = torch.arange(8.0).reshape(2, 4)
    check = torch.tensor([[0.6, -1.2, 0.1, 2.0], [-0.5, 0.9, 1.4, -0.2]])
    steps = {"zeros": digits * 0, "ones": digits * 0 + 1, "their numbers": digits, "random, a check": check}
    axes.text(LEFT, 9.75, "the scheduler's step hands back", fontsize=11, weight="bold")
    axes.text(RIGHT, 9.75, "hidden_states, as it arrives", fontsize=11, weight="bold")
    for number, (name, latents) in enumerate(steps.items()):
        y = TOP - 1.75 * number
        axes.text(LEFT, y + 0.14, name, fontsize=9.5)
        _grid(axes, latents, LEFT, y - 0.5)
        _arrow(axes, y - 0.5)
        _grid(axes, fed(latents).T, RIGHT, y - 0.5, fixed=1)
    axes.add_patch(Rectangle((4.6, 2.4), 1.9, 6.7, facecolor="#f2f2f2", edgecolor="#888888", zorder=2))
    axes.text(5.55, 5.8, "the pipeline's\nown code", ha="center", va="center", fontsize=11, zorder=3)
    _learned(axes)
    figure.savefig(out, bbox_inches="tight", metadata={"Date": None})


def _grid(axes: Axes, values: Tensor, x: float, y: float, fixed: int = 0) -> None:
    """Cells with numbers; the first `fixed` columns are grey, all others have the colour of the column they come from."""
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            colour = "#dddddd" if column < fixed else COLOURS[column - fixed]
            place = (x + 0.86 * column, y - 0.5 * row)
            axes.add_patch(Rectangle(place, 0.82, 0.46, facecolor=colour, edgecolor="white"))
            value = float(values[row, column])
            text = "none" if value != value else f"{value + 0.0:g}"
            axes.text(place[0] + 0.41, place[1] + 0.2, text, ha="center", va="center", fontsize=9)


def _arrow(axes: Axes, y: float) -> None:
    for start, end in ((4.1, 4.6), (6.5, 7.3)):
        axes.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "->", "color": "#555555"})


def _learned(axes: Axes) -> None:
    """What the rows above tell of each element."""
    zero, one = fed(torch.zeros(2, 4)), fed(torch.ones(2, 4))
    numbers = fed(torch.arange(8.0).reshape(2, 4))
    scale = one - zero
    index = torch.where(scale != 0, (numbers - zero) / scale.where(scale != 0, torch.tensor(1.0)), torch.nan)
    for place, (name, values) in enumerate(
        {"factor = ones - zeros": scale, "element = numbers / factor": index}.items()
    ):
        y = 1.35 - 1.15 * place
        axes.text(RIGHT - 0.25, y - 0.04, name, ha="right", va="center", fontsize=9.5)
        _grid(axes, values.T, RIGHT, y, fixed=1)


if __name__ == "__main__":
    draw(HERE / "images" / "wiring.svg")
