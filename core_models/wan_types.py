"""What travels along the wires of FantasyTalking and of Wan: frozen dataclasses, as in `types` and `video_types`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .types import ModelHandle
from .video_types import Gate

if TYPE_CHECKING:
    import torch

WAN, WAN_POCKET = "wan", "wan_pocket"
"""The published Wan2.1 image-to-video networks, and the small ones trained here."""

FANTASYTALKING, FANTASYTALKING_POCKET = "fantasytalking", "fantasytalking_pocket"
"""The published FantasyTalking, and the small one trained here."""

_WAN_OF = {FANTASYTALKING: WAN, FANTASYTALKING_POCKET: WAN_POCKET}

AUTOMATIC_ATTENTION = "auto"
"""PyTorch's own choice."""
ATTENTIONS = (AUTOMATIC_ATTENTION, "native", "flash", "sage", "xformers")
"""What computes the attention of a Wan; the last three are packages of their own, and sage rounds to 8 bits."""

AUTOMATIC_MEMORY, EVERYTHING_ON_CARD = "automatic", "everything on the card"
"""Levels of memory: what is free decides; and nothing waits in main memory."""
CARD_MEMORY: dict[str, int] = {f"fits in {size} GB": size * 10**9 for size in (8, 12, 16, 24, 40)}
"""Levels of memory by what a card has -> bytes to be used at most. A card of 8 GB has 8.6e9 bytes, of which the driver
and a screen take the rest."""
MEMORY_LEVELS = (AUTOMATIC_MEMORY, EVERYTHING_ON_CARD, *CARD_MEMORY)

NEUTRAL_INTENSITY = 0.5
"""The paper's neutral motion; 0.1 is subtle and 1 intense."""

NO_STAND_IN, AUDIO_GUIDANCE, PROMPT_WORDING = "none", "audio_guidance", "prompt"
"""What changes motion in a model without an intensity network: nothing, the guidance by sound, or words in the prompt.

Neither stand-in was trained for it.
"""
STAND_INS = (NO_STAND_IN, AUDIO_GUIDANCE, PROMPT_WORDING)


@dataclass(frozen=True)
class WanModels:
    """The networks of a Wan image-to-video model, as keys into the shared cache.

    kind: "wan" or "wan_pocket". transformer: the denoiser; `further_paths` holds the other shards. autoencoder: of the
    frames. text_encoder: umT5-XXL; None where prompts are not read. clip_vision: ViT-H/14; None where the model does
    not look at the picture through it. attention: what computes it, one of `ATTENTIONS`. memory: how much of the device
    may be used, one of `MEMORY_LEVELS`.
    Raises ValueError for another kind, attention or level.
    """

    kind: str
    transformer: ModelHandle
    autoencoder: ModelHandle
    text_encoder: ModelHandle | None = None
    clip_vision: ModelHandle | None = None
    attention: str = AUTOMATIC_ATTENTION
    memory: str = AUTOMATIC_MEMORY

    def __post_init__(self) -> None:
        if self.kind not in (WAN, WAN_POCKET):
            raise ValueError(f"WanModels.kind is {self.kind!r}, expected {WAN} or {WAN_POCKET}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention is {self.attention!r}, expected one of {', '.join(ATTENTIONS)}")
        if self.memory not in MEMORY_LEVELS:
            raise ValueError(f"memory is {self.memory!r}, expected one of {', '.join(MEMORY_LEVELS)}")

    @property
    def reads_prompts(self) -> bool:
        """Whether a text encoder is there."""
        return self.text_encoder is not None


@dataclass(frozen=True)
class FantasyTalkingModels:
    """A FantasyTalking model, as keys into the shared cache.

    kind: "fantasytalking" or "fantasytalking_pocket". wan: the networks it stands on. adapter: what it adds to them, or
    the one file that holds the transformer too, which is then `wan.transformer` as well.
    Raises ValueError for another kind, or a Wan of another kind than it stands on.
    """

    kind: str
    wan: WanModels
    adapter: ModelHandle

    def __post_init__(self) -> None:
        if self.kind not in _WAN_OF:
            raise ValueError(
                f"FantasyTalkingModels.kind is {self.kind!r}, expected {FANTASYTALKING} or {FANTASYTALKING_POCKET}"
            )
        if self.wan.kind != _WAN_OF[self.kind]:
            raise ValueError(
                f"{self.kind} stands on {_WAN_OF[self.kind]}, but the Wan model is of the kind {self.wan.kind}: choose "
                "the one that belongs to it"
            )


@dataclass(frozen=True)
class MotionIntensity:
    """How much face and body move, each 0..1, constant or over time; 0.5 is neutral.

    face, body: gates over the clip's seconds; a plain number stays the same all along. stand_in: what does the work in
    a model without a trained intensity network, one of `STAND_INS`.
    Raises ValueError for values outside 0..1, or an unknown stand-in.
    """

    face: Gate = field(default_factory=lambda: Gate.constant(NEUTRAL_INTENSITY))
    body: Gate = field(default_factory=lambda: Gate.constant(NEUTRAL_INTENSITY))
    stand_in: str = NO_STAND_IN

    def __post_init__(self) -> None:
        for name in ("face", "body"):
            object.__setattr__(self, name, _as_gate(name, getattr(self, name)))
        if self.stand_in not in STAND_INS:
            raise ValueError(f"stand_in is {self.stand_in!r}, expected one of {', '.join(STAND_INS)}")

    def on_frames(self, frames: int, fps: float) -> np.ndarray:
        """Return (frames, 2) float32: face and body at the start of each frame."""
        return np.stack([gate.on_frames(frames, fps) for gate in (self.face, self.body)], axis=1)

    def mean(self, duration: float) -> tuple[float, float]:
        """Return face and body in the mean over the clip's `duration` seconds; of no time, those at its start."""
        return self._mean(self.face, duration), self._mean(self.body, duration)

    @staticmethod
    def _mean(gate: Gate, duration: float) -> float:
        within = gate.times[(gate.times > 0) & (gate.times < duration)]
        places = np.concatenate([[0.0], within, [max(duration, 0.0)]])
        values = np.interp(places, gate.times, gate.values)
        area = float(((values[1:] + values[:-1]) / 2 * np.diff(places)).sum())
        return area / duration if duration > 0 else float(values[0])


def _as_gate(name: str, value: Gate | float) -> Gate:
    if isinstance(value, Gate):
        return value
    try:
        return Gate.constant(float(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the {name} intensity is {value!r}, expected 0..1, or a gate over time") from error


@dataclass(frozen=True)
class PromptEmbeddings:
    """A prompt and what is steered away from, as a model's text encoder gives them.

    prompt: (T, C) float32 torch tensor on the CPU. negative: the same of the negative prompt, of any length; None is
    no negative prompt. Raises ValueError for other shapes.
    """

    prompt: torch.Tensor
    negative: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "negative"):
            tokens = getattr(self, name)
            if tokens is not None and (tokens.ndim != 2 or 0 in tokens.shape):
                raise ValueError(
                    f"PromptEmbeddings.{name} has shape {tuple(tokens.shape)}, expected (T, C), neither of them 0"
                )
        if self.negative is not None and self.negative.shape[1] != self.prompt.shape[1]:
            raise ValueError(
                f"the prompt has {self.prompt.shape[1]} channels and the negative prompt {self.negative.shape[1]}: "
                "both need the same text encoder"
            )
