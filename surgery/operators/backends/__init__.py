"""Optional kernels: what each serves, and the choice between them and the plain PyTorch form, at run time."""

from surgery.operators.backends.choice import BACKENDS, auto_choice, kernel
from surgery.operators.backends.table import Backend, Call

__all__ = ["BACKENDS", "Backend", "Call", "auto_choice", "kernel"]
