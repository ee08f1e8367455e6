"""Pipelines made up of traits: their own code says what a wiring of them must give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from tests.pipelines.traits import Traits

STEPS, WIDTH, SCALE = 40, 3, 3.0


class Text(nn.Module):
    """Embeds a prompt by its letters."""

    def forward(self, letters: Tensor) -> Tensor:
        return torch.sin(letters[..., None] * torch.arange(1, WIDTH + 1))


class Transformer(nn.Module):
    """Each sample's prediction depends on all that it is given, and on no other sample."""

    def forward(
        self,
        hidden_states: Any,
        timestep: Any,
        encoder_hidden_states: Tensor,
        extra: Tensor | None = None,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
        ids: Tensor | None = None,
        cache: object = None,
        return_dict=True,
    ) -> Any:
        items = hidden_states if isinstance(hidden_states, list) else list(hidden_states)
        times = torch.as_tensor(timestep, dtype=torch.float32)
        outs = []
        for row, item in enumerate(items):
            time = times[row % len(times)] if times.ndim else times
            text = encoder_hidden_states[row].float()
            shift = torch.sin(time.mean()) + (text if mask is None else text[mask[row].bool()]).mean()
            shift = shift + sum(float(given.float().mean()) for given in (_of(guidance, row), ids) if given is not None)
            outs.append((item.float() * 1.5 + shift + (0 if extra is None else extra.mean())).to(item.dtype))
        return (outs if isinstance(hidden_states, list) else torch.stack(outs),)


def _of(values: Tensor | None, row: int) -> Tensor | None:
    return None if values is None else values[row]


class Autoencoder(nn.Module):
    """Decodes channels first; encodes by the inverse of what is expected of it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def encode(self, pixels: Tensor) -> Any:
        return SimpleNamespace(latents=pixels * self.one)


class Scheduler(FlowMatchEulerDiscreteScheduler):
    """One that may scale what the transformer sees, as Euler's and EDM's do."""

    scaled = ""

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        norm = ((timestep.float() / STEPS) ** 2 + 1) ** 0.5
        return {"": lambda: sample, "divided": lambda: sample / norm, "multiplied": lambda: sample * norm}[
            self.scaled
        ]()


class Synthetic:
    """A pipeline with the given traits."""

    def __init__(self, traits: Traits) -> None:
        self.traits = traits
        self.scheduler = Scheduler(num_train_timesteps=STEPS, shift=2.0)
        self.scheduler.scaled = traits.scaled
        self.components = {
            "text": Text(),
            "transformer": Transformer(),
            "vae": Autoencoder(),
            "scheduler": self.scheduler,
        }
        self.vae = self.components["vae"]
        self.cache: object = None
        self.past: Any = 0.0

    def __call__(
        self, prompt: str, num_inference_steps: int = STEPS, generator: Any = None, num_images_per_prompt: int = 1,
        output_type: str = "pt",
    ) -> Tensor:  # fmt: skip
        count, traits = num_images_per_prompt, self.traits
        if count > 1 and traits.single:
            raise ValueError("one at a time, please")
        texts = self.texts(prompt, count)
        self.cache, self.past = object(), 0.0
        latents = torch.randn(count, *self.shape, generator=generator)
        latents = latents if traits.wide_latents else latents.to(traits.dtype)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            latents = latents[:count]
            outs = [self.components["transformer"](**call) for call in self.calls(latents, t, texts)]
            output = self.model_output([row for out in outs for row in self.rows(out[0])], latents, t)
            if traits.doubled:
                latents, output = torch.cat([latents] * 2), torch.cat([output] * 2)
            latents = self.scheduler.step(output, t, latents, return_dict=False)[0]
            if traits.bad == "clamped":
                latents = latents.clamp(-1, 1)
        latents = latents[:count]
        return latents if output_type == "latent" else self.vae.decode(self.unpacked(latents) / 0.5 + 0.25)

    @property
    def shape(self) -> tuple[int, ...]:
        c, h, w = self.traits.size
        return (h * w, c) if self.traits.packed else (c, h, w)

    def texts(self, prompt: str, count: int = 1) -> list[Tensor]:
        """The embeddings of each branch, the conditional one at its place; those of rows are of one length."""
        length = 4 if self.traits.guidance == "rows" else len(prompt)
        letters = torch.tensor([*map(float, prompt.encode())][:length] + [0.0] * (length - len(prompt)))
        text = self.components["text"](letters[None]).repeat(count, 1, 1).to(self.traits.dtype)
        if not self.traits.guidance:
            return [text]
        none = torch.zeros_like(text[:, : length if self.traits.guidance == "rows" else 1])
        return [text, none] if self.traits.conditional_first else [none, text]

    def calls(self, latents: Tensor, t: Tensor, texts: list[Tensor]) -> list[dict[str, Any]]:
        """The keywords of each forward of a step."""
        if self.traits.guidance == "rows":
            latents, texts = torch.cat([latents] * 2), [torch.cat(texts)]
        return [self.arguments(latents, t, text) for text in texts]

    def arguments(self, latents: Tensor, t: Tensor, text: Tensor) -> dict[str, Any]:
        hidden = self.hidden(latents, text, t)
        tokens = hidden.shape[1] if isinstance(hidden, Tensor) and hidden.ndim == 3 else 1
        time = self.time(t, len(latents), tokens)
        if self.traits.bad == "mixed":
            time = time + latents.float().mean()
        extra = torch.randn(len(latents)) if self.traits.bad == "noise" else None
        return {
            "hidden_states": hidden, "timestep": time, "encoder_hidden_states": text, "extra": extra,
            "return_dict": False, **self.others(text, tokens),
        }  # fmt: skip

    def others(self, text: Tensor, tokens: int) -> dict[str, Any]:
        """What does not depend on latents or time."""
        length = torch.arange(text.shape[1])
        mask = (length < 1 + text.float().abs().sum((1, 2)).long()[:, None] % len(length)).long()
        ids = torch.arange(3.0 * (tokens + 3)).reshape(-1, 3)
        found: dict[str, Any] = {"mask": mask, "guidance": torch.full((len(text),), SCALE), "ids": ids}
        found["cache"] = self.cache
        wanted = {"mask": self.traits.masked, "guidance": self.traits.embedded, "ids": self.traits.numbered}
        wanted["cache"] = self.traits.cached
        return {name: value for name, value in found.items() if wanted[name]}

    def hidden(self, latents: Tensor, text: Tensor, t: Tensor) -> Any:
        latents = self.scheduler.scale_model_input(latents, t)
        traits, x = self.traits, latents.to(self.traits.dtype) * self.traits.sign
        shift = text.mean((1, 2)).reshape(-1, *[1] * (x.ndim - 1)) + 1
        x = {"square": x * x, "scaled by time": x * (t / STEPS).to(x), "sum": x + shift}.get(traits.bad or "", x)
        if traits.constant == "channels":
            x = torch.cat([x, torch.zeros_like(x[:, :1]) + shift], 1)
        if traits.layout in ("last", "tokens"):
            x = x.movedim(1, -1)
        if traits.layout == "tokens":
            x = x.flatten(1, 2)
        if traits.constant == "tokens":
            x = torch.cat([torch.zeros_like(x[:, :2]) + shift.reshape(-1, 1, 1), x], 1)
        return list(x.unbind(0)) if traits.layout == "list" else x

    def time(self, t: Tensor, count: int, tokens: int) -> Any:
        each = t.expand(count)
        mask = (torch.arange(tokens) > 0).float()
        return {
            "t": lambda: each, "t / 1000": lambda: each / 1000, "1 - t / 1000": lambda: 1 - each / 1000,
            "rounded": lambda: (each * 0.7).round(), "half": lambda: each.bfloat16() / 1000, "number": lambda: float(t),
            "shared": lambda: t[None], "per token": lambda: mask * each[:, None],
        }[self.traits.time]()  # fmt: skip

    def rows(self, predicted: Any) -> list[Tensor]:
        """A forward's prediction by branch, in the latents' layout."""
        traits, (c, h, w) = self.traits, self.traits.size
        x = torch.stack(predicted) if traits.layout == "list" else predicted
        if traits.constant == "tokens":
            x = x[:, 2:]
        if traits.layout == "tokens":
            x = x.unflatten(1, (h, w))
        if traits.layout in ("last", "tokens"):
            x = x.movedim(-1, 1)
        x = x if traits.packed else x[:, :c]
        return list((x * traits.sign).chunk(2)) if traits.guidance == "rows" else [x * traits.sign]

    def model_output(self, rows: list[Tensor], latents: Tensor, t: Tensor) -> Tensor:
        """What the scheduler gets: guidance over the branches."""
        out = rows[0]
        if self.traits.guidance:
            text, none = rows if self.traits.conditional_first else rows[::-1]
            apart = text - none
            if self.traits.guided == "momentum":
                self.past = apart = apart + 0.5 * self.past
            out = none + (SCALE - float(t) / STEPS if self.traits.guided == "in time" else SCALE) * apart
            if self.traits.guided in ("norm", "spread"):
                size = Tensor.norm if self.traits.guided == "norm" else Tensor.std
                out = out * (size(text) / size(out))
        bad = {"curved": torch.tanh(out), "latents in the output": out + latents.to(out) / 8}
        return bad.get(self.traits.bad or "", out)

    def unpacked(self, latents: Tensor) -> Tensor:
        c, h, w = self.traits.size
        return latents.reshape(-1, h, w, c).movedim(-1, 1) if self.traits.packed else latents
