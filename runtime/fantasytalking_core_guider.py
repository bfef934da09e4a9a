"""FantasyTalking's guidance by prompt and by sound for ComfyUI's custom samplers."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .fantasytalking_core import PATCHING_NODE, STREAMS_THAT_HEAR, sound_of
from .fantasytalking_core_weights import require_comfyui

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.video_diffusion.fantasytalking.guidance import GuidanceSchedule, Stream

logger = logging.getLogger(__name__)

GUIDER_NODE = "FantasyTalking Guider"
POSITIVE, PROMPT_ALONE, NEGATIVE = "positive", "prompt_without_sound", "negative"
"""Names of the conditions. Each has its own, for what keeps things by condition over the steps, as EasyCache does."""
_LEFT_OUT = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_calc_cond_batch_function")
"""Options of a model that replace or feed ComfyUI's own guidance."""
_SAME_LEVEL = 1e-4
"""Relative difference within which a noise level is one of the schedule's."""


def new_guider(model: Any, positive: Any, negative: Any, schedule: GuidanceSchedule) -> Any:
    """Return a GUIDER: v = v(negative) + s_p (v(prompt) - v(negative)) + s_a (v(prompt, sound) - v(prompt)).

    model: from `patched_model`. positive, negative: CONDITIONING. schedule: the scales, which may be switched off for a
    part of the steps. Streams that weigh nothing are not computed.
    Raises ValueError for a model that hears nothing, and OutsideComfyUIError.
    """
    require_comfyui(GUIDER_NODE)
    if sound_of(model) is None:
        raise ValueError(f"the model hears no sound: connect the one from {PATCHING_NODE}")
    replaced = [name for name in _LEFT_OUT if model.model_options.get(name)]
    if replaced:
        logger.warning("%s leaves out what other nodes do to guidance (%s)", GUIDER_NODE, ", ".join(replaced))
    guider = _guider_class()(model)
    guider.set_conds(positive, negative)
    guider.schedule = schedule
    return guider


def condition_of(stream: Stream) -> str:
    """Return the name of the conditions that a stream is given."""
    if not stream.prompted:
        return NEGATIVE
    return POSITIVE if stream.hears else PROMPT_ALONE


def step_number(level: float, levels: Sequence[float]) -> int:
    """Return which step, from 0, a noise level belongs to; levels: of the steps, decreasing, and the end.

    A level between two is of the earlier step, as samplers of higher order ask for.
    """
    reached = sum(level <= start * (1 + _SAME_LEVEL) for start in levels[:-1])
    return max(0, reached - 1)


@functools.cache
def _guider_class() -> type:
    """Return the guider's class, made where ComfyUI is."""
    from ..core_models.video_diffusion.fantasytalking.guidance import GuidanceScales, combined, stream_weights

    samplers = sys.modules["comfy.samplers"]

    class FantasyTalkingGuider(samplers.CFGGuider):
        """Up to three evaluations a step, those that hear the sound marked for the model."""

        schedule: GuidanceSchedule

        def set_conds(self, positive: Any, negative: Any) -> None:
            self.inner_set_conds({POSITIVE: positive, PROMPT_ALONE: positive, NEGATIVE: negative})

        def predict_noise(
            self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: Any = None
        ) -> Tensor:
            options = {} if model_options is None else model_options
            scales = self._scales(float(timestep.flatten()[0]), options)
            weights = stream_weights(scales, hears=sound_of(self.model_patcher).hears)
            found = self._evaluated(list(weights), x, timestep, options)
            guided = combined(weights, found).to(x.dtype)
            return self._after_guidance(guided, found, scales, x, timestep, options)

        def _scales(self, level: float, options: dict[str, Any]) -> GuidanceScales:
            levels = options["transformer_options"]["sample_sigmas"].tolist()
            return self.schedule.at(step_number(level, levels), len(levels) - 1)

        def _evaluated(
            self, streams: list[Stream], x: Tensor, timestep: Tensor, options: dict[str, Any]
        ) -> dict[Stream, Tensor]:
            marks = {STREAMS_THAT_HEAR: tuple(stream.hears for stream in streams)}
            marked = {**options, "transformer_options": {**options.get("transformer_options", {}), **marks}}
            conditions = [self.conds[condition_of(stream)] for stream in streams]
            found = samplers.calc_cond_batch(self.inner_model, conditions, x, timestep, marked)
            return dict(zip(streams, found, strict=True))

        def _after_guidance(
            self,
            guided: Tensor,
            found: dict[Stream, Tensor],
            scales: GuidanceScales,
            x: Tensor,
            timestep: Tensor,
            options: dict[str, Any],
        ) -> Tensor:
            """Return what other nodes make of the guided prediction, such as those that rescale it."""
            prompted = max(found)
            negative = next((value for stream, value in found.items() if not stream.prompted), None)
            for function in options.get("sampler_post_cfg_function", []):
                guided = function(
                    {
                        "denoised": guided,
                        "cond": self.conds[condition_of(prompted)],
                        "uncond": None if negative is None else self.conds[NEGATIVE],
                        "cond_scale": scales.prompt,
                        "model": self.inner_model,
                        "uncond_denoised": negative,
                        "cond_denoised": found[prompted],
                        "sigma": timestep,
                        "model_options": options,
                        "input": x,
                    }
                )
            return guided

    return FantasyTalkingGuider
