"""FantasyTalking on ComfyUI's own Wan: a MODEL whose cross-attentions hear sound, beside loaders, LoRA and samplers.

The model is cloned and the forward method of every cross-attention replaced by an object patch. Keys and values of
sound are a model of their own beside it, which ComfyUI loads and unloads with it. What is heard, at which frames and in
which element of a batch, is decided anew for every evaluation of the network.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .fantasytalking_core_weights import CoreAdapter, require_comfyui

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.types import AudioEmbedding
    from ..core_models.video_diffusion.fantasytalking.clip_conditions import FrameAudio
    from ..core_models.video_diffusion.fantasytalking.core_attention import HeardSound
    from ..core_models.video_diffusion.fantasytalking.parameters import FantasyTalkingParameters

SOUND = "talking_portrait_sound"
"""Our name among ComfyUI's wrappers and additional models, and of what is heard in its transformer_options."""
STREAMS_THAT_HEAR = "talking_portrait_streams_that_hear"
"""Entry of transformer_options, from our guider: whether each of the conditions it has evaluated hears the sound."""
TIME = 2
"""The dimension of latents (B, C, F, h, w) that frames lie along."""
PATCHING_NODE = "FantasyTalking for Wan"
_REMEDY = f"leave that node out, or connect the model to {PATCHING_NODE} without it"


@dataclass(frozen=True)
class SoundOptions:
    """How a model hears.

    frames: of the video, None lasts as long as the sound; others than 4 k + 1 are rounded up. fps: frames per second.
    scale: how strongly sound acts in the network; 0 is no sound. timing: "exact" or "release" (stretched over the
    1 to 5 frames more that the release makes; `frames` is then the most there may be). masked: leave places without
    sound out of the attention.
    """

    frames: int | None = None
    fps: float = 23.0
    scale: float = 1.0
    timing: str = "exact"
    masked: bool = True


@dataclass(frozen=True)
class _Listener:
    """What `clip_audio` asks of a model: its sizes, and tokens of features."""

    parameters_used: FantasyTalkingParameters
    audio_projection: Any

    def audio_tokens(self, features: Tensor) -> Tensor:
        return self.audio_projection(features)


def heard_clip(
    adapter: CoreAdapter, audio: AudioEmbedding, options: SoundOptions | None = None
) -> FrameAudio:
    """Return the windows of a clip's latent frames, made with an adapter.

    Raises ValueError for features of another encoder than wav2vec2 base, or options out of range.
    """
    import torch

    from ..core_models.video_diffusion.fantasytalking.parameters import (
        PUBLISHED_FANTASYTALKING,
        ClipDefaults,
    )
    from ..core_models.video_diffusion.fantasytalking.performance import clip_audio
    from ..core_models.video_diffusion.fantasytalking.scene_options import FantasyTalkingOptions, scene_length

    options = options or SoundOptions()
    projection = adapter.weights.projection
    parameters = replace(
        PUBLISHED_FANTASYTALKING,
        audio=projection.parameters_used,
        defaults=ClipDefaults(fps=options.fps),
    )
    choices = FantasyTalkingOptions(frames=options.frames, timing=options.timing, masked_audio=options.masked)
    frames = scene_length(parameters, audio, choices).frames
    with torch.no_grad():
        return clip_audio(_Listener(parameters, projection), audio, choices, frames)


def patched_model(
    model: Any, adapter: CoreAdapter, audio: AudioEmbedding, options: SoundOptions | None = None
) -> tuple[Any, int]:
    """Return a clone of a core MODEL that hears, and how many video frames its latents must hold.

    Without our guider every evaluation hears the sound; with it only those of the formula that do. The given model
    stays as it is. Raises ValueError for a model that is no Wan2.1 image-to-video model, one that the weights do not
    fit, or one whose cross-attention somebody else has changed; and what `heard_clip` raises.
    """
    require_comfyui(PATCHING_NODE)
    from ..core_models.video_diffusion.wan.frame_rules import video_frames

    kinds = sys.modules["comfy.patcher_extension"].WrappersMP
    options = options or SoundOptions()
    network = require_fitting_network(model, adapter.weights.branch)
    clip = heard_clip(adapter, audio, options)
    forwards = _hearing_forwards(network, adapter.weights.branch)
    sound = SoundOnWan(clip, options.scale, tuple(forwards.values()))
    patched = model.clone()
    for name, forward in forwards.items():
        patched.add_object_patch(name, forward)
    patched.set_additional_models(SOUND, [adapter.patcher.clone()])
    patched.add_wrapper_with_key(kinds.DIFFUSION_MODEL, SOUND, sound.around_network)
    patched.add_wrapper_with_key(kinds.APPLY_MODEL, SOUND, sound.around_model)
    patched.add_wrapper_with_key(kinds.OUTER_SAMPLE, SOUND, sound.around_sampling)
    return patched, video_frames(len(clip.windows))


def sound_of(model: Any) -> SoundOnWan | None:
    """Return what a MODEL of `patched_model` hears; None for other models."""
    kinds = sys.modules["comfy.patcher_extension"].WrappersMP
    found = model.wrappers.get(kinds.DIFFUSION_MODEL, {}).get(SOUND, [])
    return found[0].__self__ if found else None


def _windows_frames(options: Mapping[str, Any]) -> list[int] | None:
    """Return the numbers of the latent frames of ComfyUI's context window; None without one along time."""
    window = options.get("context_window")
    if window is None or getattr(window, "dim", TIME) != TIME:
        return None
    numbers = getattr(window, "index_list", None)
    return None if numbers is None else list(numbers)


def _place(block: int) -> str:
    return f"diffusion_model.blocks.{block}.cross_attn.forward"


def require_fitting_network(model: Any, branch: Any) -> Any:
    """Return the network of a core MODEL; raise ValueError unless the branch fits it and its attention is its own."""
    wan = sys.modules["comfy.ldm.wan.model"]
    whole = getattr(model, "model", None)
    network = getattr(whole, "diffusion_model", whole)
    if not isinstance(network, wan.WanModel):
        raise ValueError(
            f"the model is a {type(network).__name__}, not a Wan: FantasyTalking's weights fit Wan2.1 image to video "
            "(14B), such as wan2.1_i2v_480p_14B, from Load Diffusion Model"
        )
    if not all(isinstance(block.cross_attn, wan.WanI2VCrossAttention) for block in network.blocks):
        raise ValueError(
            "this Wan does not look at a picture through CLIP in its cross-attention (a text-to-video model, or "
            "Wan2.2): FantasyTalking's weights fit Wan2.1 image to video (14B), such as wan2.1_i2v_480p_14B"
        )
    if (len(network.blocks), network.dim) != (len(branch.blocks), branch.width):
        raise ValueError(
            f"this Wan has {len(network.blocks)} blocks of width {network.dim}, the audio weights fit "
            f"{len(branch.blocks)} of width {branch.width}: choose the Wan that they were made for (14B)"
        )
    _require_own_attention(model, network, wan.WanI2VCrossAttention)
    return network


def _require_own_attention(model: Any, network: Any, attention_class: type) -> None:
    """Raise ValueError where a forward method of cross-attention is not ComfyUI's own."""
    own = attention_class.forward
    if sound_of(model) is not None:
        raise ValueError(f"the model hears a sound already: connect the one from before {PATCHING_NODE}")
    if "transformer_options" not in inspect.signature(own).parameters:
        raise ValueError(
            "this ComfyUI is too old for FantasyTalking on its own Wan: update it (0.3.64 will do)"
        )
    if own.__module__ != attention_class.__module__:
        raise ValueError(
            f"{own.__module__} has replaced Wan's cross-attention for all models: switch that pack off"
        )
    for block in range(len(network.blocks)):
        place = _place(block)
        for name in model.object_patches:
            if place == name or place.startswith(f"{name}."):
                raise ValueError(
                    f"another node has replaced {name} of this model, which is where sound is heard: {_REMEDY}"
                )
        if getattr(model.get_model_object(place), "__func__", None) is not own:
            raise ValueError(
                f"something else has replaced {place} of this model, where sound is heard: {_REMEDY}"
            )


def _hearing_forwards(network: Any, branch: Any) -> dict[str, Callable[..., Tensor]]:
    return {
        _place(number): _hearing_forward(block.cross_attn, projections)
        for number, (block, projections) in enumerate(zip(network.blocks, branch.blocks, strict=True))
    }


def _hearing_forward(attention: Any, projections: Any) -> Callable[..., Tensor]:
    """Return what takes the place of a cross-attention's forward method."""

    def forward(
        x: Tensor,
        context: Tensor,
        context_img_len: int | None,
        transformer_options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        from ..core_models.video_diffusion.fantasytalking.core_attention import cross_attention_with_sound

        sys.modules["comfy.model_management"].throw_exception_if_processing_interrupted()
        options = {} if transformer_options is None else transformer_options
        if SOUND not in options:
            raise RuntimeError(
                "the model was evaluated past ComfyUI's wrappers, so that nothing says what is heard: leave out the "
                f"node that does so between {PATCHING_NODE} and the sampler"
            )
        # Looked up at every call: what speeds attention up for all models replaces it there.
        attend = sys.modules["comfy.ldm.wan.model"].optimized_attention
        return cross_attention_with_sound(
            attention, projections, x, context, context_img_len, options[SOUND], attend, options
        )

    return forward


class SoundOnWan:
    """What a patched model hears, and ComfyUI's wrappers that bring it to the network's attention."""

    def __init__(self, clip: FrameAudio, scale: float, forwards: Sequence[Callable[..., Tensor]]) -> None:
        """forwards: those of the blocks' attention, in order."""
        self.clip, self.scale, self.forwards = clip, scale, tuple(forwards)

    @property
    def frames(self) -> int:
        """Latent frames that have sound."""
        return len(self.clip.windows)

    @property
    def hears(self) -> bool:
        """Whether sound changes anything."""
        return self.scale != 0

    def around_sampling(self, executor: Callable[..., Any], noise: Tensor, *rest: Any, **named: Any) -> Any:
        """Sample, once the latents are as long as the sound was prepared for; raises ValueError else."""
        if noise.shape[2] != self.frames:
            raise ValueError(self._other_length(noise.shape[2]))
        return executor(noise, *rest, **named)

    def around_model(
        self,
        executor: Callable[..., Any],
        x: Tensor,
        timestep: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Tensor:
        """Evaluate the model, the picture's latents of a context window cut to its frames.

        ComfyUI 0.3.64 hands them over whole, which ends in an error.
        """
        options = {} if transformer_options is None else transformer_options
        numbers = _windows_frames(options)
        if c_concat is not None and numbers is not None and c_concat.shape[2] > x.shape[2] == len(numbers):
            c_concat = c_concat[:, :, numbers]
        return executor(x, timestep, c_concat, c_crossattn, control, options, **named)

    def around_network(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        clip_fea: Tensor | None = None,
        time_dim_concat: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> Tensor:
        """Evaluate the network, its attention told what these latents (B, C, F, h, w) hear.

        Raises ValueError when it cannot be known which frames they are, or another node took our place.
        """
        options = {} if transformer_options is None else transformer_options
        network = executor.class_obj
        self._require_in_place(network)
        heard = self.heard(x.shape, tuple(network.patch_size), options)
        given = {**options, SOUND: None if heard is None else heard.like(x)}
        return executor(x, timestep, context, clip_fea, time_dim_concat, given, **rest)

    def heard(
        self, shape: Sequence[int], patch_size: tuple[int, ...], options: Mapping[str, Any]
    ) -> HeardSound | None:
        """Return what latents of a shape (B, C, F, h, w) hear; None where none of them hears anything."""
        from ..core_models.video_diffusion.fantasytalking.core_attention import HeardSound, stream_scales

        streams = options.get("cond_or_uncond")
        scales = stream_scales(
            shape[0],
            self.scale,
            options.get(STREAMS_THAT_HEAR),
            None if streams is None else tuple(streams),
        )
        frames = self._frames_at_hand(shape[2], _windows_frames(options))
        if not scales.any():
            return None
        tokens, lengths = self.clip.windows.of(frames)
        places = -(-shape[3] // patch_size[1]) * -(-shape[4] // patch_size[2])
        return HeardSound(tokens, scales, lengths if self.clip.masked else None, places)

    def _frames_at_hand(self, count: int, of_window: list[int] | None) -> list[int]:
        """Return the numbers of the latent frames that are evaluated."""
        if of_window is not None and len(of_window) == count:
            if max(of_window) >= self.frames:
                raise ValueError(self._other_length(max(of_window) + 1))
            return of_window
        if count != self.frames:
            raise ValueError(
                f"the network is given {count} latent frames of {self.frames} and nothing says which, so their sound "
                "cannot be found: use ComfyUI's own WAN Context Windows, or none"
            )
        return list(range(count))

    def _other_length(self, latents: int) -> str:
        from ..core_models.video_diffusion.wan.frame_rules import video_frames

        return (
            f"the latents hold {latents} frames ({video_frames(latents)} of video), but the sound was prepared for "
            f"{self.frames} ({video_frames(self.frames)} of video): connect 'frame_count' of {PATCHING_NODE} to the "
            "length of the node that makes the latents, such as WanImageToVideo"
        )

    def _require_in_place(self, network: Any) -> None:
        for block, forward in zip(network.blocks, self.forwards, strict=True):
            if block.cross_attn.forward is not forward:
                raise ValueError(
                    f"another node after {PATCHING_NODE} has replaced the model's cross-attention, so that the sound "
                    "would not be heard: leave that node out"
                )
