"""Takin-ADA's second stage: all layers of a speech model, an emotion and head control to motion, by diffusion.

Source: Takin-ADA (arXiv 2410.14283), which has no public code or weights; the sizes it leaves open are AniTalker's
(arXiv 2405.03121), whose stage 2 it describes. Ours, where both are silent: an emotion is the average of the expression
without the mouth over `emotion_window` frames, and reaches the generator by a variance adapter as head control does;
the timestep is given as sinusoids, not as a bare number; a learned vector stands for "no emotion" (for guidance) and
for "no start"; a model may carry a listener of its own instead of hearing HuBERT. Mouth and pose, which the paper
combines with the emotion as the generator's input, reach it in the noisy motion itself and in the frame before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..audio.hubert_layers import HUBERT_LAYERS, HUBERT_WIDTH, HalveRate, WeightedLayers
from ..audio.listening_blocks import ListeningBlocks
from ..types import EMOTION_NAMES
from .conformer import MOTION_GENERATOR, SPEECH_ENCODER, Conformer, ConformerParameters
from .conformer_stream import require_causal
from .denoiser import sinusoidal_embedding
from .motion_layout import MotionLayout, keypoint_layout
from .motion_vectors import CANONICAL_SIZE
from .speech_encoder import MelListener, SpeechEncoderParameters
from .variance_adapter import AdapterMemory, VarianceAdapter

TAKIN_ADA_FPS = 25
PREDICTIONS = ("epsilon", "x0")


@dataclass(frozen=True)
class TakinADAParameters:
    """Sizes of the model; the defaults are the paper's, or AniTalker's where it is silent.

    layout: of the motion vector. source_size: numbers that describe whom it is for (canonical keypoints), 0 for none.
    layers, speech_width: of the speech model's hidden states at 50 Hz. encoder, generator: the conformers. token_width:
    of start, source and time in the generator's input; the noisy motion has what is left beside the speech.
    adapter_hidden: of the variance adapters. emotion_window: K, frames whose expression is averaged. window: frames
    trained on at once. schedule: of the noise. prediction: what the generator says of it, "epsilon" as in the paper
    or "x0". listener: a network that hears log-mel in HuBERT's place, or None;
    listening: how much of it at a time. closes_lips: whether the model says when lips touch. hears_emotion: whether the
    speech it learned from carried the emotion shown, so that without a given one the heard one is taken, not neutral.
    Raises ValueError for widths that do not add up, or a listener that makes other hidden states.
    """

    layout: MotionLayout = field(default_factory=keypoint_layout)
    source_size: int = CANONICAL_SIZE
    layers: int = HUBERT_LAYERS
    speech_width: int = HUBERT_WIDTH
    encoder: ConformerParameters = SPEECH_ENCODER
    generator: ConformerParameters = MOTION_GENERATOR
    token_width: int = 128
    adapter_hidden: int = 128
    emotion_window: int = 25
    window: int = 125
    schedule: str = "ddpm"
    prediction: str = "epsilon"
    listener: SpeechEncoderParameters | None = None
    listening: ListeningBlocks = field(default_factory=ListeningBlocks)
    closes_lips: bool = False
    hears_emotion: bool = True

    def __post_init__(self) -> None:
        if self.motion_width < 1:
            raise ValueError(
                f"the generator is {self.generator.width} wide, which leaves nothing for the motion beside speech "
                f"({self.encoder.width}) and tokens of {self.token_width}"
            )
        for name in ("emotion_window", "window", "layers", "speech_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction is {self.prediction!r}, expected {' or '.join(map(repr, PREDICTIONS))}"
            )
        self._require_fitting_listener()

    def _require_fitting_listener(self) -> None:
        if self.listener is None:
            return
        made = (len(self.listener.dilations_50hz) + 1, self.listener.width)
        if made != (self.layers, self.speech_width):
            raise ValueError(
                f"the listener makes {made[0]} hidden states, {made[1]} wide, but layers is {self.layers} and "
                f"speech_width {self.speech_width}: give the model its listener's"
            )

    @property
    def motion_width(self) -> int:
        """Numbers the noisy motion is projected to."""
        tokens = 3 if self.source_size else 2
        return self.generator.width - self.encoder.width - tokens * self.token_width

    @property
    def emotion_size(self) -> int:
        """Numbers of an emotion: z-scores of the expression without the mouth."""
        return len(self.layout.expression)

    @property
    def frames_ahead(self) -> int | None:
        """Frames of speech features after its own that a frame of motion waits for; None for all.

        What the speech model itself hears ahead comes on top.
        """
        ahead = [self.encoder.frames_ahead, self.generator.frames_ahead]
        return None if None in ahead else sum(ahead)

    @property
    def streamable(self) -> bool:
        """Whether motion can be made while the speech goes on."""
        try:
            self.require_streamable()
        except ValueError:
            return False
        return True

    def require_streamable(self) -> None:
        """Raise ValueError unless motion can be made while the speech goes on."""
        require_causal(self.generator, "motion generator")
        if None in (self.encoder.frames_ahead, self.encoder.frames_behind):
            raise ValueError(
                "the speech encoder hears the whole clip: a stream needs look_ahead and look_back, trained so"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TakinADAParameters:
        """Rebuild from `to_dict`; raises TypeError or KeyError for fields that do not fit."""
        listener = values["listener"]
        if not isinstance(listener, Mapping | None):
            raise TypeError(f"the listener is {listener!r}, expected its sizes or nothing")
        if listener is not None:
            listener = SpeechEncoderParameters(
                **{
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in listener.items()
                }
            )
        return cls(
            **{
                **values,
                "layout": MotionLayout(**values["layout"]),
                "encoder": ConformerParameters(**values["encoder"]),
                "generator": ConformerParameters(**values["generator"]),
                "listener": listener,
                "listening": ListeningBlocks(**values["listening"]),
            }
        )


def causal(parameters: ConformerParameters, look_back: int, look_ahead: int = 0) -> ConformerParameters:
    """Return the conformer with a convolution that looks back only and bounded attention."""
    return replace(parameters, look_back=look_back, look_ahead=look_ahead, causal_convolution=True)


STREAMING_LOOK_BACK = 50
"""Frames each block of a streaming model attends to: two seconds."""
STREAMING_LOOK_AHEAD = 2
"""Frames each of the speech encoder's blocks looks ahead."""


def streaming(parameters: TakinADAParameters) -> TakinADAParameters:
    """Return the sizes with the bounds of a stream; no weight changes its shape.

    The paper reports real time and does not say how; this is ours.
    """
    return replace(
        parameters,
        encoder=causal(parameters.encoder, STREAMING_LOOK_BACK, STREAMING_LOOK_AHEAD),
        generator=causal(parameters.generator, STREAMING_LOOK_BACK),
    )


@dataclass(frozen=True)
class Conditions:
    """What the generator is told of N frames. speech: (B, N, encoder width) with emotion and head control added.

    start: (B, motion size) z-scores of the frame before the window, or None. source: (B, source size) z-scores or None.
    """

    speech: Tensor
    start: Tensor | None = None
    source: Tensor | None = None


class TakinADAModel(nn.Module):
    """Weighted layers, halving, speech encoder, adapters and motion generator; motion is in z-scores.

    Buffers: motion_mean, motion_std (motion size,); source_mean, source_std (source size,); neutral_emotion (emotion
    size,), the mean emotion of neutral clips; affective_vectors (7, emotion size), what each named emotion adds to it
    at strength 1, by EMOTION_NAMES.
    """

    def __init__(self, parameters: TakinADAParameters) -> None:
        super().__init__()
        self.parameters_used = p = parameters
        size, width = p.layout.size, p.encoder.width
        if p.listener is not None:
            self.listener = MelListener(p.listener)
        self.layers = WeightedLayers(p.layers)
        self.halve = HalveRate(p.speech_width, width)
        self.encoder = Conformer(p.encoder)
        sizes = {"emotion": p.emotion_size, **{name: len(own) for name, own in p.layout.controls.items()}}
        self.adapters = nn.ModuleDict(
            {name: VarianceAdapter(numbers, width, p.adapter_hidden) for name, numbers in sizes.items()}
        )
        self.no_emotion = nn.Parameter(torch.zeros(width))
        self.start = nn.Linear(size, p.token_width)
        self.no_start = nn.Parameter(torch.zeros(size))
        if p.source_size:
            self.source = nn.Sequential(
                nn.Linear(p.source_size, width), nn.SiLU(), nn.Linear(width, p.token_width)
            )
        self.time = nn.Linear(p.token_width, p.token_width)
        self.motion = nn.Linear(size, p.motion_width)
        self.generator = Conformer(p.generator)
        self.output = nn.Linear(p.generator.width, size)
        if p.closes_lips:
            self.closure = nn.Linear(width, 1)
        self._register_statistics()

    def _register_statistics(self) -> None:
        p = self.parameters_used
        for name, size in (("motion", p.layout.size), ("source", p.source_size)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("neutral_emotion", torch.zeros(p.emotion_size))
        self.register_buffer("affective_vectors", torch.zeros(len(EMOTION_NAMES), p.emotion_size))

    def normalise(self, motion: Tensor) -> Tensor:
        """Motion vectors (..., size) in the space's units -> z-scores."""
        return (motion - self.motion_mean) / self.motion_std

    def denormalise(self, scores: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return scores * self.motion_std + self.motion_mean

    def emotion_rows(self, weights: Tensor, base: Tensor | None = None) -> Tensor:
        """Return the emotion (..., emotion size) of named weights times strength (..., 7).

        base: where neutral is; None is the training's neutral mean, another may be a face's own resting expression.
        """
        neutral = self.neutral_emotion if base is None else base
        return neutral + weights.to(self.affective_vectors) @ self.affective_vectors

    def at_frames(self, hidden_states: Tensor) -> Tensor:
        """Return features (B, N, encoder width) at 25 Hz of hidden states (B, L, 2N, C) at 50 Hz."""
        return self.halve(self.layers(hidden_states))

    def heard(self, hidden_states: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the speech (B, N, encoder width) of hidden states (B, L, 2N, C). valid: bool (B, N)."""
        return self.encoder(self.at_frames(hidden_states), valid)

    def closure_logits(self, speech: Tensor) -> Tensor:
        """Return (B, N): the log-odds that the lips touch; for a model with `closes_lips`."""
        return self.closure(speech)[..., 0]

    def conditioned(
        self, speech: Tensor, given: Mapping[str, Tensor | None], memory: Mapping[str, AdapterMemory]
    ) -> tuple[Tensor, Tensor, dict[str, AdapterMemory]]:
        """Return the speech with head control added, the emotion's part that guidance leaves out, and the memory.

        given: "emotion" and the layout's controls, (B, N, size) z-scores, for those that are not to be predicted.
        memory: after the frames before; empty at the start of a clip.
        """
        parts, after = {}, {}
        for name, adapter in self.adapters.items():
            before = memory.get(name, AdapterMemory())
            predicted, predictor_state = adapter.predict(speech, before.predictor)
            values = given.get(name)
            parts[name], encoder_state = adapter.encode(
                predicted if values is None else values, before.encoder
            )
            after[name] = AdapterMemory(predictor_state, encoder_state)
        emotion = parts.pop("emotion")
        return speech + sum(parts.values()), emotion, after

    def tokens(self, x: Tensor, timesteps: Tensor, conditions: Conditions) -> Tensor:
        """Return the generator's input (B, N, generator width) for noisy scores x (B, N, size), timesteps (B,)."""
        p, frames = self.parameters_used, x.shape[1]
        start = self.no_start.expand(len(x), -1) if conditions.start is None else conditions.start
        once = [self.start(start)]
        if p.source_size:
            source = conditions.source
            if source is None:
                raise ValueError(f"the model needs {p.source_size} numbers of the source, and none are given")
            once.append(self.source(source))
        once.append(self.time(sinusoidal_embedding(timesteps, p.token_width).to(x.dtype)))
        repeated = [row[:, None].expand(-1, frames, -1) for row in once]
        return torch.cat([conditions.speech, *repeated, self.motion(x)], dim=-1)

    def predicted(
        self, x: Tensor, timesteps: Tensor, conditions: Conditions, valid: Tensor | None = None
    ) -> Tensor:
        """Return the noise seen in x (B, N, size) at timesteps (B,), or the clean scores, as `prediction` says.

        valid: bool (B, N).
        """
        return self.output(self.generator(self.tokens(x, timesteps, conditions), valid))
