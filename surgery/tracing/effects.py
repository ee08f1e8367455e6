"""Which calls do more than compute a result: they change something that was there before, or draw random numbers."""

from __future__ import annotations

from torch import fx, nn

from surgery.recording.in_place import called_name, writes
from surgery.recording.torch_private import DropoutBase

RANDOM = {"dropout", "alpha_dropout", "feature_dropout", "rand", "randn", "randint", "randperm", "rand_like",
          "randn_like",
          "randint_like", "bernoulli", "multinomial", "normal", "poisson", "scaled_dot_product_attention"}  # fmt: skip
RANDOM_MODULES = (DropoutBase, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
# Their results may share memory with their first argument.
VIEWS = {"view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "transpose", "permute", "movedim",
         "swapaxes",
         "squeeze", "unsqueeze", "expand", "expand_as", "narrow", "select", "getitem", "chunk", "split", "tensor_split",
         "unbind", "unfold", "diagonal", "detach", "contiguous", "to", "type", "type_as", "float", "real", "imag",
         "view_as_real", "view_as_complex", "getattr", "data"}  # fmt: skip


def has_effects(node: fx.Node) -> bool:
    """Whether the call `node` changes an input of its graph or a tensor of the module, or may draw random numbers.

    Calls of modules are not told here.
    """
    if node.op == "call_module":
        return False
    name = called_name(node)
    if name.strip("_") in RANDOM or name.startswith("random_"):
        return name != "scaled_dot_product_attention" or bool(node.kwargs.get("dropout_p"))
    return writes(name, node.kwargs) and _is_there_before(node.args[0])


def may_have_effects(module: nn.Module) -> bool:
    """Whether a module that is called as a whole may draw random numbers, or keep something, in any mode.

    Dropout does, that of attention and recurrent layers too, and whatever has buffers, as batch norm and spectral norm
    have. Eval mode makes no difference: the graph is the same.
    """
    draws = isinstance(module, RANDOM_MODULES) or bool(getattr(module, "dropout", 0.0))
    return draws or next(module.buffers(), None) is not None


def _is_there_before(value: object) -> bool:
    """Whether `value` is, or may be a view of, an input or a tensor of the module."""
    while isinstance(value, fx.Node):
        if value.op in ("placeholder", "get_attr"):
            return True
        if called_name(value).strip("_") not in VIEWS or not value.args:
            return False
        value = value.args[0]
    return False
