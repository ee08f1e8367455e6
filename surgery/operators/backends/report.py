"""What `surgery inspect --kernels` shows: the kernels, and which one each operator would use on the devices at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from surgery.operators.backends.choice import BACKENDS, auto_choice
from surgery.operators.backends.table import KernelCall

HEADS, WIDTH, TOKENS = 16, 72, 4096
QUERIES = (1, HEADS, TOKENS, WIDTH)
# As DiT-XL/2 would train them: the published windows and filters, Mamba-2 with 144 heads of 16 features.
EXAMPLES: dict[str, tuple[tuple[int, ...], dict[str, object]]] = {
    "sliding_window": (QUERIES, {}),
    "grouped_query": (QUERIES, {}),
    "neighbourhood_attention": (QUERIES, {"window": 7, "grid": (64, 64)}),
    "filter": ((1, TOKENS, 3 * HEADS * WIDTH), {"window": 4, "causal": True, "grid": (TOKENS,)}),
    "scan": ((1, TOKENS, 144, 16), {}),
    "linear_attention": (QUERIES, {}),
}
WORDS = {"filter": "causal filters of Hyena and Mamba-2", "scan": "scan of Mamba-2"}


@dataclass(frozen=True)
class Kernel:
    """One row: what it serves, its version if it is installed, and a note on when it is used."""

    name: str
    package: str
    version: str | None
    serves: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Device:
    """What "auto" takes for each operator on one device, "torch" being the plain PyTorch form."""

    device: str
    name: str
    dtype: str
    used: dict[str, str]


def kernels() -> list[Kernel]:
    """Every optional kernel."""
    return [Kernel(each.name, each.package, each.version, tuple(each.runs), each.note) for each in BACKENDS]


def devices() -> list[Device]:
    """The CPU in float32, and every CUDA device in bfloat16."""
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [_device(torch.device("cpu"), "CPU", torch.float32)] + [
        _device(gpu, torch.cuda.get_device_name(gpu), torch.bfloat16) for gpu in gpus
    ]


def words(operator: str) -> str:
    """An operator's part, to read."""
    return WORDS.get(operator, operator.replace("_", " "))


def _device(device: torch.device, name: str, dtype: torch.dtype) -> Device:
    used = {}
    for operator, (shape, traits) in EXAMPLES.items():
        found = auto_choice(KernelCall(operator, device, dtype, shape, grad=True, **traits))  # type: ignore[arg-type]
        used[operator] = found.name if found else "torch"
    return Device(str(device), name, str(dtype).removeprefix("torch."), used)
