"""What a benchmark ran on, and where its results are kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from surgery.device import processor

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The processor and the versions that matter."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "diffusers": version("diffusers"),
        **_gpu(),
    }


def _gpu() -> dict[str, Any]:
    """The first GPU, its driver, and CUDA; nothing where there is none."""
    import torch

    if not torch.cuda.is_available():
        return {}
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    gpu, triton = torch.cuda.get_device_properties(0), find_spec("triton")
    return {
        "gpu": gpu.name,
        "gpu_memory": gpu.total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
        "triton": version("triton") if triton else None,
    }


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write figures with the machine that gave them to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")
    return path
