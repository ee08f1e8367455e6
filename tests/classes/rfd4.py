"""RFD4-Proteina: residues and their pairs, with whatever is known of the design as features."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

LATENT = 6
ATOMS = 37
SLOTS = 6

SIZES = (
    {"batch": 1, "tokens": 9},
    {"batch": 2, "tokens": 9},
    {"batch": 3, "tokens": 12},
    {"batch": 2, "tokens": 6},
    {"batch": 8, "tokens": 8},
)


def proteina_inputs(batch: int, tokens: int) -> dict[str, Any]:
    chain = torch.arange(tokens).expand(batch, tokens) * 2 // tokens
    conditioning = {
        "is_in_context_conditioning": torch.rand(batch, tokens) < 0.2,
        "supports_local_latent": torch.rand(batch, tokens) < 0.8,
        "token_bond_path_length": torch.randint(12, (batch, tokens, tokens)),
        "molecule_iid": chain,
        "molecule_entity_id": torch.zeros(batch, tokens, dtype=torch.long),
        "condition_index-group_1_token": chain,
        "condition_hbond_1_atom": torch.randint(4, (batch, tokens, ATOMS)),
        "condition_pication_1_atom": torch.randint(4, (batch, tokens, ATOMS)),
    }
    for name in ("pistack", "saltbridge", "hydrophobic", "metal-coord"):
        conditioning[f"condition_{name}_1_atom"] = torch.randint(2, (batch, tokens, ATOMS))
    return {
        "bb_ca": torch.randn(batch, tokens, 3),
        "local_latents": torch.randn(batch, tokens, LATENT),
        "bb_ca_time": torch.rand(batch),
        "local_latents_time": torch.rand(batch),
        "padding_mask": prefix_mask(batch, tokens),
        "token_type": torch.randint(7, (batch, tokens)),
        "atom37_mask": torch.rand(batch, tokens, ATOMS) < 0.5,
        "conditioning": conditioning,
    }


def known_inputs(batch: int, tokens: int) -> dict[str, Any]:
    inputs = proteina_inputs(batch, tokens)
    coordinates = torch.randn(batch, tokens, ATOMS, 3) * 10
    # Unknown atoms and chains are not a number.
    coordinates[torch.rand(batch, tokens, ATOMS) < 0.5] = torch.nan
    centroids = torch.randn(batch, tokens, 3)
    centroids[:, ::3] = torch.nan
    pairs = (batch, tokens, tokens)
    known = {
        "condition_coordinate_1_atom": coordinates,
        "condition_InternalCoordinate_1_atom": coordinates,
        "condition_CoordinateGroup_1_atom": torch.randint(-1, 3, (batch, tokens, ATOMS)),
        "_prepared_coord_group_seq": torch.randint(-1, 3, (batch, tokens, ATOMS)).float(),
        "condition_rasa-binned_1_atom": torch.randint(3, (batch, tokens, ATOMS)),
        "condition_secondary-structure_1_residue": torch.randint(4, (batch, tokens)),
        "condition_hotspot_1_atom": torch.randint(2, (batch, tokens, ATOMS)),
        "condition_cath-label_1_residue": torch.randint(-1, 5, (batch, tokens, 3)),
        "condition_ChainCentroid_1_atom": centroids,
        "condition_sequence-probability-ALA_1_residue": torch.rand(batch, tokens),
        "charge": torch.randint(-4, 7, (batch, tokens, ATOMS)),
        "element": torch.randint(128, (batch, tokens, ATOMS)),
        "na_ss_state": torch.randint(2, (batch, tokens)),
        "na_ss_state_mask": torch.randint(2, (batch, tokens)),
        "na_ss_pair": torch.randint(2, pairs),
        "na_ss_pair_mask": torch.randint(2, pairs),
        "bond_mask": torch.randint(2, pairs),
        "bond_order": torch.randint(5, pairs),
        "is_aromatic": torch.randint(2, pairs),
        "canonical_polymer_ordering": torch.randint(2, pairs),
    }
    return {**inputs, "conditioning": {**inputs["conditioning"], **known}, "recycle_depth": 2}


def chiral_inputs(batch: int, tokens: int) -> dict[str, Any]:
    inputs = proteina_inputs(batch, tokens)
    # A frame names its two origins and up to three neighbours; every second slot has none.
    frames = torch.randint(tokens, (batch, tokens, SLOTS, 5))
    frames[:, :, 1::2] = -1
    frames[:, ::2, :, 4] = -1
    chiral = {
        "chirality": torch.nn.functional.normalize(torch.randn(batch, tokens, SLOTS, 3), dim=-1).flatten(2),
        "chiral_frame_atoms": frames,
        "chiral_slot_owner": torch.randint(-1, tokens * SLOTS, (batch, tokens, SLOTS)),
    }
    return {**inputs, "conditioning": {**inputs["conditioning"], **chiral}}


PROTEINA = {
    "nlayers": 4,
    "token_dim": 24,
    "nheads": 3,
    "dim_cond": 16,
    "pair_repr_dim": 10,
    "latent_dim": LATENT,
    "token_type_emb_dim": 5,
    "cath_emb_dim": 4,
    "t_emb_dim": 14,
    "seq_sep_dim": 12,
    "xt_pair_dist_dim": 11,
    "tri_mult_c": 8,
    "num_sequence_classes": 15,
}

CASES = (
    Case("RFD4ProteinaTransformer", PROTEINA, known_inputs, SIZES),
    Case("RFD4ProteinaTransformer", PROTEINA, chiral_inputs, (SIZES[1], SIZES[0], *SIZES[2:]), "chiral"),
)
