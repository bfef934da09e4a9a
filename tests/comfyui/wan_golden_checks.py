"""A core Wan that hears against the released code's numbers: a part of `wan_checks`."""

# ruff: noqa: I001
# ComfyUI's parts can be imported once the first module has put it on the path.

import re

from small_core_wan import (
    AUDIO_WIDTH,
    DIT,
    DIT_ARRAYS,
    LATENTS,
    SHAPE,
    TOOLS,
    case_and_arrays,
    core,
    core_attention,
    evaluated,
    furthest,
    made,
    new_wan,
    patched,
    sampled,
    scales,
)
import comfy.ldm.wan.model as wan
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise


def attention_of_the_release():
    """Cross-attention against the release's numbers, frame by frame and of the whole clip."""
    case, arrays = case_and_arrays("cross_attention_processor")
    inputs = case["inputs"]
    x, context, audio, clip = (made(inputs[key]) for key in ("x", "context", "audio_proj", "clip_audio_proj"))
    lengths, clip_lengths = (torch.tensor(inputs[key]) for key in ("audio_context_lens", "clip_lens"))
    for frame, length in enumerate(lengths.tolist()):
        audio[0, frame, length:] = 0
    clip[0, int(clip_lengths) :] = 0
    attention = new_wan().model.diffusion_model.blocks[0].cross_attn
    projections = core_attention.SoundProjections(128, AUDIO_WIDTH)
    state = {key.removeprefix("cross_attn."): shape for key, shape in case["state_dict"].items()}
    values = {
        key: torch.from_numpy(TOOLS.tensor_for(f"cross_attn.{key}", tuple(shape), case["gain"]))
        for key, shape in state.items()
    }
    attention.load_state_dict({key: value for key, value in values.items() if "processor" not in key})
    projections.load_state_dict(
        {key.removeprefix("processor."): value for key, value in values.items() if "processor" in key}
    )
    worst = 0.0
    for name in case["outputs"]:
        level, masked, scale = re.fullmatch(r"(frame|clip)_(masked|unmasked)_scale([\d.]+)", name).groups()
        tokens, counted = (audio[0], lengths) if level == "frame" else (clip[0], clip_lengths)
        heard = core_attention.HeardSound(
            tokens, torch.tensor([float(scale)]), counted if masked == "masked" else None
        )
        with torch.no_grad():
            found = core_attention.cross_attention_with_sound(
                attention, projections, x, context, 257, heard, wan.optimized_attention, {}
            )
        worst = max(worst, furthest(case, arrays, name, found))
    return {"difference": worst, "cases": len(case["outputs"])}


def network_of_the_release():
    """The whole network against the release's numbers, every one of its ten outputs."""
    differences = {}
    for name in DIT["outputs"]:
        quiet, masked, scale, timestep = re.fullmatch(
            r"(?:(no_audio)|audio_(masked|unmasked)_s([\d.]+))_t([\d.]+)", name
        ).groups()
        model = new_wan()
        if not quiet:
            model = patched(model, scale=float(scale), masked=masked == "masked")
        differences[name] = furthest(DIT, DIT_ARRAYS, name, evaluated(model, float(timestep)))
    return {"difference": max(differences.values()), "cases": len(differences), "each": differences}


def batched_elements():
    """In one batch, elements that hear and that do not are each what they are alone."""
    model = patched(new_wan())
    marks = {core.STREAMS_THAT_HEAR: (False, True), "cond_or_uncond": [1, 0]}
    both = evaluated(model, 712.5, LATENTS.expand(2, *SHAPE[1:]), **marks)
    hearing = furthest(DIT, DIT_ARRAYS, "audio_masked_s1.0_t712.5", both[:1])
    quiet = furthest(DIT, DIT_ARRAYS, "no_audio_t712.5", both[1:])
    four = evaluated(model, 712.5, LATENTS.expand(4, *SHAPE[1:]), **marks)
    pairs = max(float((four[0] - both[0]).abs().max()), float((four[3] - both[1]).abs().max()))
    return {"difference": max(hearing, quiet), "in_pairs": pairs}


def guidance_of_the_release():
    """Sampling by core's own sampler, our guider and sigmas against the release's loop."""
    case, arrays = case_and_arrays("cfg_loop")
    settings = {
        "cfg5_audio5": (scales(5, 5), 1.0),
        "cfg1_audio4_5": (scales(1, 4.5), 1.0),
        "cfg5_noaudiocfg": (scales(5, None), 1.0),
        "cfg3_audio7_scale0_5": (scales(3, 7), 0.5),
    }
    model, found = new_wan(), {}
    for name, (schedule, scale) in settings.items():
        result = sampled(patched(model, scale=scale), schedule=schedule, seed=case["seed"])
        found[name] = furthest(case, arrays, name, result)
    noise = Noise_RandomNoise(case["seed"]).generate_noise({"samples": torch.zeros(SHAPE)})
    return {
        "difference": max(found.values()),
        "each": found,
        "noise": furthest(case, arrays, "noise", noise),
    }
