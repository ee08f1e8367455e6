"""What a single fx node does, told from its function or its module's class in torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from surgery.recording.torch_private import BatchNormBase, ConvBase, pytree

ATTENTIONS = {"scaled_dot_product_attention", "flex_attention"}
PRODUCTS = {"matmul", "rmatmul", "bmm", "baddbmm", "mm", "einsum"}
LINEARS = {"linear", "conv1d", "conv2d", "conv3d"}
NORMS = {"layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm", "normalize"}
ACTIVATIONS = {"gelu", "silu", "relu", "relu6", "elu", "leaky_relu", "softplus", "mish", "hardswish", "sigmoid", "tanh",
               "glu"}  # fmt: skip
ADDS = {"add", "radd", "iadd"}
MULTIPLICATIONS = {"mul", "rmul", "imul", "addcmul"}
ELEMENTWISE = {*ADDS, *MULTIPLICATIONS, "sub", "rsub", "div", "truediv", "rdiv", "where", "masked_fill"}
LAYOUT = {"to", "float", "type", "type_as", "half", "bfloat16", "contiguous", "clone", "view", "reshape", "flatten",
          "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "expand", "expand_as", "repeat",
          "repeat_interleave", "dropout"}  # fmt: skip
SPLITS = {"chunk", "split", "split_with_sizes", "tensor_split", "unbind", "getitem"}
WAVES = {"sin", "cos", "polar"}

NORM_MODULES = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, BatchNormBase)
LINEAR_MODULES = (nn.Linear, nn.Bilinear, ConvBase)
EMBEDDING_MODULES = (nn.Embedding, nn.EmbeddingBag)
LAYOUT_MODULES = (nn.Dropout, nn.Identity, nn.Flatten, nn.Unflatten)
SOFTMAX_MODULES = (nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d)
ACTIVATION_MODULES = tuple(
    cls
    for name, cls in vars(nn.modules.activation).items()
    if name in nn.modules.activation.__all__ and cls not in (nn.MultiheadAttention, *SOFTMAX_MODULES)
)


def name_of(node: fx.Node) -> str:
    """The name of the function or tensor method that `node` calls, "" for all else: `mul` for `__mul__` and `mul_`."""
    if node.op == "call_method":
        return str(node.target).strip("_")
    return str(getattr(node.target, "__name__", "")).strip("_") if node.op == "call_function" else ""


def is_module(node: fx.Node, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether `node` calls a module of one of `kinds`."""
    return issubclass(node.meta.get("module_class", object), kinds)


def tensors(node: fx.Node) -> list[torch.Tensor]:
    """The tensors in the result of `node`."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):  # nearly always; all else is slow
        return [value]
    if value is None or isinstance(value, int | float | str):
        return []
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of the first tensor in the result of `node`, () if there is none."""
    return next((tuple(tensor.shape) for tensor in tensors(node)), ())


def inputs_of(node: fx.Node) -> list[fx.Node]:
    """The nodes whose tensors `node` reads."""
    return [source for source in node.all_input_nodes if tensors(source)]


def is_attention(node: fx.Node) -> bool:
    """Whether `node` is a softmax(q k^T) v in one call."""
    return name_of(node) in ATTENTIONS or is_module(node, (nn.MultiheadAttention,))


def is_linear(node: fx.Node) -> bool:
    """Whether `node` applies a learned linear map: a linear layer, a convolution, a product with a parameter."""
    if name_of(node) in LINEARS or is_module(node, LINEAR_MODULES):
        return True
    return name_of(node) in PRODUCTS and any(is_learned(source) for source in inputs_of(node))


def is_learned(node: fx.Node) -> bool:
    """Whether `node` is a parameter, or a view or part of one."""
    while node.op != "get_attr" and name_of(node) in LAYOUT | SPLITS and inputs_of(node):
        node = inputs_of(node)[0]
    return isinstance(node.meta.get("val"), nn.Parameter)


def factors_of(node: fx.Node) -> list[fx.Node]:
    """The two computed matrices that `node` multiplies; empty if it is no such product."""
    if name_of(node) not in PRODUCTS or is_linear(node):
        return []
    given = pytree.tree_leaves((node.args, node.kwargs))
    factors = [leaf for leaf in given if isinstance(leaf, fx.Node) and tensors(leaf)]
    return factors[-2:] if len(factors) > 1 else []


def is_product(node: fx.Node) -> bool:
    """Whether `node` multiplies two computed matrices."""
    return bool(factors_of(node))


def is_softmax(node: fx.Node) -> bool:
    """Whether `node` is a softmax."""
    return name_of(node) == "softmax" or is_module(node, SOFTMAX_MODULES)


def is_norm(node: fx.Node) -> bool:
    """Whether `node` is a norm in one call."""
    return name_of(node) in NORMS or is_module(node, NORM_MODULES)


def is_activation(node: fx.Node) -> bool:
    """Whether `node` is a nonlinearity applied to each feature, or to each and its gate."""
    return name_of(node) in ACTIVATIONS or is_module(node, ACTIVATION_MODULES)


def is_glu(node: fx.Node) -> bool:
    """Whether `node` gates one half of a tensor with the other."""
    return name_of(node) == "glu" or is_module(node, (nn.GLU,))


def is_layout(node: fx.Node) -> bool:
    """Whether `node` gives the numbers of one tensor again, in another shape, order or dtype."""
    return name_of(node) in LAYOUT or is_module(node, LAYOUT_MODULES)


def has_weights(node: fx.Node) -> bool:
    """Whether `node` maps features by learned weights, which a norm, though it has parameters, does not."""
    return is_linear(node) or is_attention(node) or (node.meta.get("params", 0) > 0 and not is_norm(node))


def bare(node: fx.Node) -> Iterator[fx.Node]:
    """`node`, and what it is a view, cast or slice of, as far as one tensor goes."""
    yield node
    while is_layout(node) or (name_of(node) == "getitem" and _reads_tensor(node)):
        node = inputs_of(node)[0]
        yield node


def past_splits(node: fx.Node) -> Iterator[fx.Node]:
    """`node`, and what it is a view, cast or part of, however many parts that was taken into."""
    yield node
    while (is_layout(node) or name_of(node) in SPLITS) and inputs_of(node):
        node = inputs_of(node)[0]
        yield node


def _reads_tensor(node: fx.Node) -> bool:
    """Whether an item of a tensor is taken, and not one of a tuple."""
    sources: list[Any] = inputs_of(node)
    return bool(sources) and isinstance(sources[0].meta.get("val"), torch.Tensor)
