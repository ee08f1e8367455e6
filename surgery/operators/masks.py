"""Masks of attention: of pairs of queries and keys, and of keys alone, as of a prompt that was padded.

As in `scaled_dot_product_attention` a mask is boolean, true where a key is seen, or it is added to the scores. An
operator without scores can tell keys apart, but not what each query makes of them. So it takes the weight of a key,
exp(mask) relative to the largest: 1, or 0 for keys that nobody sees, or what lies between.

Shape legend: B batch or 1, H heads or 1, N queries, M keys, C features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from surgery.errors import RewriteError


def of_pairs(mask: Tensor, keys: int) -> Tensor:
    """A mask of any shape that broadcasts, as (B, H, N or 1, M)."""
    mask_BHNM = mask[(None,) * (4 - mask.ndim)]
    return mask_BHNM.expand(-1, -1, -1, keys)


def key_weights(mask: Tensor | None, queries: int, keys: int, *, across: bool) -> Tensor | None:
    """The weight of each key: (B, H, M, 1), booleans if the mask has such, else 0 to 1; None if there is no mask.

    A mask of pairs is one of keys if all queries have the same, those left out that are padding themselves: with as many
    queries as keys, and of the same tokens (not `across`), those of less weight than the largest whose own row tells no
    key from another, or leaves one only.

    Raises:
        RewriteError: it is another mask of pairs, such as a causal one.
    """
    if mask is None:
        return None
    mask_BHNM = of_pairs(mask, keys)
    if mask_BHNM.shape[2] == 1:
        return _weights(mask_BHNM)
    most_BH1M = mask_BHNM.amax(2, keepdim=True)
    same_BHN = (mask_BHNM == most_BH1M).all(3)
    if queries == keys and not across:
        same_BHN = same_BHN | _are_padding(mask_BHNM, most_BH1M)
    _require(same_BHN.all(), mask)
    return _weights(most_BH1M)


def _are_padding(mask_BHNM: Tensor, most_BH1M: Tensor) -> Tensor:
    """Which queries are padding, whose results nobody reads: (B, H, N).

    A smaller weight alone does not tell: along a causal mask with slopes, all keys but the last have one.
    """
    is_less_BHN = (most_BH1M < most_BH1M.amax(3, keepdim=True)).squeeze(2)
    is_indifferent_BHN = (mask_BHNM == mask_BHNM[..., :1]).all(3)
    sees_one_BHN = seen(_weights(mask_BHNM)).sum(2) <= 1
    return is_less_BHN & (is_indifferent_BHN | sees_one_BHN)


def _weights(mask_BH1M: Tensor) -> Tensor:
    """The weight of each key beside the largest, (B, H, M, 1)."""
    if mask_BH1M.dtype == torch.bool:
        return mask_BH1M.mT
    added_BHM1 = mask_BH1M.mT.to(torch.promote_types(mask_BH1M.dtype, torch.float32))
    largest_BH11 = added_BHM1.amax(2, keepdim=True)
    return (added_BHM1 - largest_BH11.clamp(min=torch.finfo(added_BHM1.dtype).min)).exp()


def _require(is_of_keys: Tensor, mask: Tensor) -> None:
    """RewriteError if the values of `mask` are not those of a mask of keys; on the meta device there are none."""
    message = (
        f"the mask {tuple(mask.shape)} differs between queries, as a causal one does, and this operator can leave "
        "out keys for all queries alike only; exclude this attention from the rule"
    )
    if torch.compiler.is_compiling() or isinstance(is_of_keys, FakeTensor):
        torch._assert_async(is_of_keys, message)
    elif not is_of_keys.is_meta and not is_of_keys:
        raise RewriteError(message)


def seen(weight_BHM1: Tensor) -> Tensor:
    """Which keys anyone sees."""
    return weight_BHM1 if weight_BHM1.dtype == torch.bool else weight_BHM1 > 0


def hidden(x_BHMC: Tensor, weight_BHM1: Tensor | None) -> Tensor:
    """Zeros for the keys that nobody sees, whatever is there."""
    return x_BHMC if weight_BHM1 is None else x_BHMC.masked_fill(~seen(weight_BHM1), 0.0)


def weighed(x_BHMC: Tensor, weight_BHM1: Tensor | None) -> Tensor:
    """Each key times its weight; zeros for those that nobody sees, whatever is there."""
    hidden_BHMC = hidden(x_BHMC, weight_BHM1)
    if weight_BHM1 is None or weight_BHM1.dtype == torch.bool:
        return hidden_BHMC
    return hidden_BHMC * weight_BHM1.to(x_BHMC.dtype)


def added(weight_BHM1: Tensor, like: Tensor) -> Tensor:
    """The weights as a mask (B, H, 1, M) again, to be added to scores in the dtype of `like`, or boolean."""
    return weight_BHM1.mT if weight_BHM1.dtype == torch.bool else weight_BHM1.log().mT.to(like.dtype)


def among(mask_BHNM: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """The part of a mask for these places of queries and keys, which broadcast; the same for all queries if it is."""
    return mask_BHNM[:, :, 0, keys] if mask_BHNM.shape[2] == 1 else mask_BHNM[:, :, queries, keys]


def within(seen_NM: Tensor, mask_BHNM: Tensor) -> Tensor:
    """A mask of which only the pairs in `seen_NM` are left."""
    return seen_NM & mask_BHNM if mask_BHNM.dtype == torch.bool else mask_BHNM.masked_fill(~seen_NM, -torch.inf)


def without_unseen(x_BHMC: Tensor, mask_BHNM: Tensor | None) -> Tensor:
    """Zeros for the keys that a mask of keys leaves to nobody: what is there, NaN included, reaches no query."""
    if mask_BHNM is None or mask_BHNM.shape[2] > 1:
        return x_BHMC
    return hidden(x_BHMC, _weights(mask_BHNM))
