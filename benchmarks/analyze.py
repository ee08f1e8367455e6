"""Time and peak memory of an analysis of DiT-XL/2 with random weights, in its pipeline with guidance.

Usage: python benchmarks/analyze.py [--steps 50] [--json] [--save]

Measured is the whole process: making the weights, tracing, and all steps of one sample.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

from machine import save

MODEL = "facebook/DiT-XL-2-256"


def pipeline_of(transformer: Any) -> Any:
    """A `DiTPipeline` with a decoder that costs next to nothing."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

    decoder = AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=1)
    return DiTPipeline(transformer, decoder, DDIMScheduler())


def measured(transformer: Any, steps: int) -> dict[str, float]:
    """Seconds, peak memory in GB, and how many numbers were held."""
    from surgery.progress import RichProgress
    from surgery.statistics.driven import observe_calls
    from surgery.statistics.observer import Observer

    begin, observer = time.perf_counter(), Observer(transformer)
    with RichProgress().stage("analyze", total=steps) as bar:
        call = {"class_labels": [0], "num_inference_steps": steps}
        observe_calls(pipeline_of(transformer), "transformer", [call], observer, bar.advance)
    return {
        "steps": steps,
        "layers": len(observer.layers()),
        "seconds": round(time.perf_counter() - begin, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "numbers_held": len(observer.sums),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    from surgery.models import load_random

    figures = measured(load_random(MODEL), arguments.steps)
    if arguments.save:
        save("analyze", {MODEL: figures})
    print(json.dumps(figures) if arguments.json else figures)


if __name__ == "__main__":
    main()
