"""What inputs look like, by their names: for each, a few candidates, the most natural first."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from surgery.models.inputs import makers as m
from surgery.models.inputs.makers import Maker, full, listed, noise, number
from surgery.models.inputs.sizes import ModelConfig, is_video

Test = Callable[[ModelConfig], bool]


def _always(config: ModelConfig) -> bool:  # noqa: ARG001
    return True


def seldom(config: ModelConfig) -> bool:  # noqa: ARG001
    """For an input that is given only where the forward does not run without."""
    return False


def _configured(pattern: str) -> Test:
    """Whether the config has a value for a name in which `pattern` is found."""
    return lambda config: any(value and re.search(pattern, name) for name, value in config.items())


def _is_labelled(config: ModelConfig) -> bool:
    return bool(config.get("num_embeds_ada_norm")) and config.get("norm_type", "ada_norm_zero") == "ada_norm_zero"


def _is_plain(config: ModelConfig) -> bool:
    return "use_additional_conditions" in config and not config["use_additional_conditions"]


@dataclass(frozen=True)
class Entry:
    """What the inputs with some names can be.

    Attributes:
        pattern: matches names.
        makers: candidates, the most natural first.
        wanted: whether to give an input that is optional, before it is known whether the forward needs it.
        group: inputs of one group take candidates of the same rank.
    """

    pattern: str
    makers: list[Maker]
    wanted: Test = _always
    group: str = ""


IMAGE = noise("batch C height width")
VIDEO = noise("batch C frames height width")
TOKENS = noise("batch tokens C")
SEQUENCE = noise("batch length C")
CHANNELS_FIRST = noise("batch C length")
TEXT = noise("batch text C")
VECTOR = noise("batch C")
VIDEOS = [VIDEO, noise("batch frames C height width"), noise("batch frames height width C")]
OTHERS = [
    TOKENS,
    SEQUENCE,
    CHANNELS_FIRST,
    VECTOR,
    TEXT,
    listed(noise("C 1 height width")),
    listed(noise("C frames height width")),
    noise("batch 1 C frames height width"),
    noise("batch tokens C patch_frames patch_height patch_width"),
    full(0, "batch tokens"),
]

LATENTS = r"hidden_states|x|sample|latents|decoder_input_tokens|inputs_embeds"
POSITIONED = {"img_ids", "img_shapes", "position_ids", "num_frames", "video_coords", "video_rotary_emb"}


def latents(config: ModelConfig, class_name: str, names: set[str]) -> Entry:
    """The layouts of latents, those first that the config, the class and the names of other inputs speak for."""
    tokens = [TOKENS] if names & POSITIONED else []
    sequences = [CHANNELS_FIRST, SEQUENCE] if "1D" in class_name or _configured("audio")(config) else []
    spatial = [*VIDEOS, IMAGE] if is_video(config, class_name) else [IMAGE, *VIDEOS]
    layouts = list(dict.fromkeys([*tokens, *sequences, *spatial, *OTHERS]))
    # Some forwards compare with the config what a layer would have told.
    return Entry(LATENTS, layouts + [m.configured("in_channels", layout) for layout in (TOKENS, CHANNELS_FIRST)])


TIMES = [
    full(500, "batch"),
    full(0.5, "batch"),
    full(0.5, "batch frames"),
    full(0),
    full(0.5, "batch 1 frames"),
    full(0.5, "batch tokens"),
]
TEXTS: list[Maker] = [
    TEXT,
    listed(noise("text C")),
    m.text_layers,
    noise("batch 1 text C"),
    TOKENS,
    SEQUENCE,
]
MASKS = [full(True, "batch text"), full(1, "batch text")]
ROTARIES: list[Maker] = [m.rotary, m.complex_rotary, m.axial_rotary, m.prefixed_rotary, m.split_rotary]
UNKNOWN = [TEXT, VECTOR, full(0, "batch"), full(1.0, "1"), VIDEO, SEQUENCE, listed(TEXT, "5"), full(0, "batch tokens")]


def _ids(maker: Maker) -> list[Maker]:
    return [maker, m.batched(maker), m.whole(m.batched(maker))]


TABLE = [
    # Conditions of one number or a few.
    Entry(r"t|timesteps?|r_timestep|.*_time", TIMES, group="time"),
    Entry(r"timestep_r|.*_timestep", TIMES, seldom, group="time"),
    Entry(r"(.*_)?sigma", [full(0.5, "batch")], seldom),
    Entry(r"class_labels", [full(0, "batch")], _is_labelled),
    Entry(r"style", [full(0, "batch")], _configured("style")),
    Entry(r"guidance", [full(3.5, "batch")], _configured("guidance_embed")),
    Entry(r"image_meta_size", [full(1.0, "batch 6")], _configured("meta_size")),
    Entry(r"target_size|crop_coords|original_size", [full(1.0, "batch 2")]),
    Entry(
        r"added_cond_kwargs",
        [
            m.constant({"resolution": None, "aspect_ratio": None}),
            lambda g: {"resolution": torch.ones(g.sizes.batch, 2), "aspect_ratio": torch.ones(g.sizes.batch, 1)},
        ],
        _is_plain,
    ),
    # Positions and sizes.
    Entry(r"img_ids|image_ids", _ids(m.image_ids), group="ids"),
    Entry(r"txt_ids|text_ids", _ids(m.text_ids), group="ids"),
    Entry(r"position_ids", [*_ids(m.joint_ids)[:2], *_ids(m.image_ids)[:2], m.packed_ids, m.joint_positions]),
    Entry(r"segment_ids|indicator", [full(0, "batch tokens")]),
    Entry(r"img_shapes|shape_list", [listed(listed(m.latent_shape, "1")), listed(m.latent_shape)]),
    Entry(r"img_mask", [m.slots_mask]),
    Entry(r"visual_rope_pos", [lambda g: [torch.arange(size) for size in g.sizes.grid]], seldom),
    Entry(r"text_rope_pos|text_indices", [m.positions("", "text")]),
    Entry(r"video_indices", [m.positions("text", "tokens")]),
    Entry(r"audio_indices", [m.positions("text tokens", "length")]),
    Entry(r"timestep_indices|token_tags", [lambda g: torch.zeros(len(m.packed_ids(g)), dtype=torch.long)]),
    Entry(r"num_frames", [number("frames")]),
    Entry(r"audio_num_frames", [number("length")]),
    Entry(r"height", [number("height")]),
    Entry(r"width", [number("width")]),
    Entry(r"chunk_partition", [listed(number("1"), "frames")]),
    Entry(r"(.*_)?rotary_emb(edding)?", ROTARIES, seldom),
    Entry(r"cross_attention_kwargs", [lambda g: {"base_sequence_length": g.sizes.patches}], seldom),
    # Text.
    Entry(r".*(encoder|text).*_mask_.+", [m.second_mask, MASKS[1]], seldom, group="mask"),
    Entry(r".*(encoder|text).*_mask|(encoder_)?mask", MASKS, seldom, group="mask"),
    Entry(r"encoder_hidden_states_image|image_embeds", [noise("batch 257 C")], _configured("image_")),
    Entry(r"encoder_hidden_states_.+", [m.second_text, m.stacked_text]),
    Entry(r"encoder_hidden_states|text_bth|cap_feats", TEXTS, group="text"),
    Entry(r".*_encoder_hidden_states", [TEXT]),
    Entry(r"text_encoder_layers", [m.text_for_blocks]),
    Entry(r"encodings_and_masks", [m.masked_text]),
    Entry(r"text_lens", [lambda g: torch.full((g.sizes.batch,), g.sizes.text)]),
    Entry(r"prior_token_id", [full(0, "batch patches")]),
    Entry(r"prior_token_drop", [full(False, "batch patches")]),
    Entry(r"input_ids", [full(0, "batch text")]),
    Entry(r".*pooled.*|proj_embedding|global_hidden_states", [VECTOR]),
    # Further latents.
    Entry(r"input_img_latents", [m.constant([])]),
    Entry(r"input_image_sizes", [m.constant({})]),
    Entry(r"indices_latents(_.+)?", [m.positions("", "frames"), m.batched(m.positions("", "frames"))], seldom, "past"),
    Entry(r"latents_.+", [VIDEO, VIDEO], seldom, "past"),
    Entry(r"pose_hidden_states", [m.pose], seldom),
    Entry(r"face_pixel_values", [m.faces], seldom),
    Entry(r"audio_hidden_states", [SEQUENCE], seldom),
    Entry(r".*_hidden_states|.*latents", [VIDEO, IMAGE, SEQUENCE, CHANNELS_FIRST], seldom),
    Entry(r"attention_mask", [m.joint_mask], seldom),
]
