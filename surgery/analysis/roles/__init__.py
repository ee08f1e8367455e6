"""Roles: what the parts of a model do, told from dataflow and not from the names of classes or attributes.

- An *attention* is the smallest scope that encloses a product (q k^T) v, in one call or written out, with a softmax or
  without, and the linear maps that give q, k and v: *self-attention* if queries and keys read one and the same stream of
  tokens, *cross-attention* if they share none, else *joint attention*.
- An *MLP* is linear, activation, linear, the last of which joins a residual stream.
- A *sequence mixer* is any other module that holds the linear maps of a residual branch: what stands for an attention.
- A *norm* divides by the root mean square, or the deviation, of the features.
- A *modulation* is a linear map, or the sum with a learned table, whose result scales, shifts or gates tokens and is not
  computed from these tokens.
- A *residual* is the addition of a sublayer's result to the stream that the sublayer is computed from.
- An *embedding* is the largest module before the blocks that makes features of the model's inputs and has no other role.

A block is a scope that holds a residual addition; it has no role itself. What has no module of its own, or stands in a
module that has another role already, is an operator made of nodes. A module has one role, attention coming before MLP,
sequence mixer, modulation, norm and embedding. Operators may stand inside each other: the norm of queries stands in an
attention.
"""

from surgery.analysis.roles.find import find_operators
from surgery.analysis.roles.layers import block_layers, layer_of
from surgery.analysis.roles.operator import Operator, Role, calls

__all__ = ["Operator", "Role", "block_layers", "calls", "find_operators", "layer_of"]
