"""Optional kernels: what each serves, and the choice between them and the plain PyTorch form, at run time."""

from surgery.operators.backends.choice import BACKENDS, auto_choice, kernel
from surgery.operators.backends.table import Backend, KernelCall

__all__ = ["BACKENDS", "Backend", "KernelCall", "auto_choice", "kernel"]
