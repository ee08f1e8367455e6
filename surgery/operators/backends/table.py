"""What one optional kernel is, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
FLOAT = (*HALF, torch.float32)


@dataclass(frozen=True)
class KernelCall:
    """What an operator is about to compute, as far as the choice of a kernel depends on it.

    Attributes:
        operator: its part: "sliding_window", "grouped_query", "neighbourhood_attention", "filter" (of Hyena and Mamba-2),
            "scan" (of Mamba-2) or "linear_attention".
        device: where the tensors are.
        dtype: theirs.
        shape: of queries (B, H, N, K), of the tokens of a filter (B, N, C), or of what a scan reads (B, N, H, P).
        grad: whether gradients are wanted.
        masked: whether there is a mask.
        causal: whether a token sees none that come later.
        window: tokens along each axis of a neighbourhood, or taps along each axis of a filter.
        grid: sizes of the axes, where the tokens have any.
    """

    operator: str
    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    grad: bool = False
    masked: bool = False
    causal: bool = False
    window: int = 0
    grid: tuple[int, ...] = ()


@dataclass(frozen=True)
class Backend:
    """One optional kernel.

    Attributes:
        name: as the field `backend` of a mixer gives it.
        package: the distribution that brings it.
        module: what is imported.
        runs: how to call it, for each operator that it serves.
        refuses: why it cannot serve a call, apart from not being installed; None if it can.
        by_name_only: whether "auto" leaves it out.
        note: for whoever reads the table.
    """

    name: str
    package: str
    module: str
    runs: Mapping[str, Callable[..., Tensor]]
    refuses: Callable[[KernelCall], str | None]
    by_name_only: bool = False
    note: str = ""

    @property
    def version(self) -> str | None:
        """The installed version; None if there is none."""
        found: str | None = version_of(self.package, self.module)
        return found

    def serves(self, call: KernelCall) -> str | None:
        """Why this kernel cannot serve the call; None if it can."""
        if self.version is None:
            return f"{self.package} is not installed"
        return self.refuses(call)


# A compiled model takes the versions at hand for constants.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def version_of(package: str, module: str) -> str | None:
    """The installed version of a distribution whose module is there too; None if one is missing.

    Both are asked: flash-attn and flash-attn-4 share the module `flash_attn`.
    """
    return _version_of(package, module)


@cache
def _version_of(package: str, module: str) -> str | None:
    try:
        found = version(package)
        return found if find_spec(module) else None
    except (PackageNotFoundError, ModuleNotFoundError):
        return None


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a CUDA device, e.g. (9, 0) for Hopper."""
    return torch.cuda.get_device_capability(device)


def wants(call: KernelCall, dtypes: tuple[torch.dtype, ...], least: tuple[int, int] = (7, 0)) -> str | None:
    """Why a call is not on a CUDA device of at least this capability, or of another dtype; None if it is right."""
    if call.device.type != "cuda":
        return f"it runs on CUDA devices, and the tensors are on {call.device.type}"
    if call.dtype not in dtypes:
        return f"it takes {' or '.join(_short(each) for each in dtypes)}, and the tensors are {_short(call.dtype)}"
    found = capability(call.device)
    if found < least:
        return f"it needs compute capability {least[0]}.{least[1]}, and this GPU has {found[0]}.{found[1]}"
    return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
