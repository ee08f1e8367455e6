"""Draw docs/images/quickstart.png from the folder of a run: `python docs/quickstart_picture.py runs/quickstart`."""

import json
import sys
from pathlib import Path

from matplotlib import pyplot as plt
from PIL import Image

HERE = Path(__file__).parent
SIDE = 4 + 5 * 44  # five by five tiles of the run's sample grids: 40 pixels each, 4 between them


def draw(run: Path, out: Path) -> None:
    """One panel for each stage that took time, and for the teacher, with its Frechet distance."""
    stages = json.loads((run / "metrics.json").read_text())["stages"]
    stages = [stage for stage in stages if stage["seconds"] or stage["stage"] == "teacher"]
    figure, panels = plt.subplots(1, len(stages), figsize=(2.5 * len(stages), 2.95), dpi=120)
    for stage, panel in zip(stages, panels, strict=True):
        grid = Image.open(run / "samples" / f"{stage['stage']}.png").crop((0, 0, SIDE, SIDE))
        panel.imshow(grid, interpolation="nearest")
        panel.set_title(f"{stage['stage']}\nFrechet distance {stage['frechet']:.2f}", fontsize=10)
        panel.axis("off")
    figure.tight_layout()
    figure.savefig(out, bbox_inches="tight")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), HERE / "images" / "quickstart.png")
