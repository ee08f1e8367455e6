"""Cosmos 3 Omni: a prompt, a video of which the first frame is given, and its sound in one sequence."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 5
SOUND = 7
VOCABULARY = 30


def omni_inputs(text: int, frames: int, height: int, width: int, sound: int) -> dict[str, Any]:
    rows, columns = (height + 1) // 2, (width + 1) // 2
    per_frame = rows * columns
    video = text + torch.arange(frames * per_frame)
    heard = text + frames * per_frame + torch.arange(sound)
    time = 1000 * torch.rand(())

    places = torch.cartesian_prod(torch.arange(frames), torch.arange(rows), torch.arange(columns)).float()
    places[:, 0] = places[:, 0] * 1.5 + text + 100
    sound_places = torch.zeros(sound, 3)
    sound_places[:, 0] = torch.arange(sound) * 0.96 + text + 100
    text_places = torch.arange(text).float()[:, None].expand(text, 3)

    return {
        "input_ids": torch.randint(VOCABULARY, (text,)),
        "text_indexes": torch.arange(text),
        "position_ids": torch.cat([text_places, places, sound_places]).T.contiguous(),
        "und_len": text,
        "sequence_length": text + frames * per_frame + sound,
        "vision_tokens": [torch.randn(1, CHANNELS, frames, height, width)],
        "vision_token_shapes": [(frames, rows, columns)],
        "vision_sequence_indexes": video,
        "vision_mse_loss_indexes": video[per_frame:].clone(),
        "vision_timesteps": time.repeat((frames - 1) * per_frame),
        "vision_noisy_frame_indexes": [torch.arange(1, frames)],
        "sound_tokens": [torch.randn(SOUND, sound)],
        "sound_token_shapes": [(sound, 1, 1)],
        "sound_sequence_indexes": heard,
        "sound_mse_loss_indexes": heard.clone(),
        "sound_timesteps": time.repeat(sound),
        "sound_noisy_frame_indexes": [torch.arange(sound)],
        "return_dict": False,
    }


CASES = (
    Case(
        "Cosmos3OmniTransformer",
        {
            "head_dim": 12,
            "hidden_size": 40,
            "intermediate_size": 28,
            "latent_channel": CHANNELS,
            "patch_latent_dim": 4 * CHANNELS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "rope_axes_dim": (2, 2, 2),
            "sound_dim": SOUND,
            "sound_gen": True,
            "vocab_size": VOCABULARY,
        },
        omni_inputs,
        # The third has an odd number of columns, the fourth as many text tokens as video tokens and as sound tokens.
        (
            {"text": 7, "frames": 3, "height": 4, "width": 6, "sound": 5},
            {"text": 9, "frames": 4, "height": 4, "width": 6, "sound": 8},
            {"text": 4, "frames": 2, "height": 6, "width": 3, "sound": 3},
            {"text": 12, "frames": 3, "height": 4, "width": 4, "sound": 12},
        ),
    ),
)
