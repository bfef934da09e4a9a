"""Runs in ComfyUI's interpreter, not in pytest: FantasyTalking on a small Wan that ComfyUI builds.

Usage: python wan_checks.py CHECKOUT_OF_COMFYUI THIS_PACKAGE GOLDEN_FOLDER RESULT.json

Every check writes what it found; the test that runs this program judges. One check's failure does not end the others.
"""

# ruff: noqa: I001
# ComfyUI's parts can be imported once the first module has put it on the path.

import gc
import json
import os
import traceback
import weakref

from small_core_wan import (
    ADAPTER,
    CONFIG,
    FOLDER,
    FRAMES,
    NEGATIVE,
    PROMPT,
    RESULT,
    adapter_file,
    conditioning,
    core,
    core_guider,
    core_weights,
    embedding,
    evaluated,
    new_wan,
    ours,
    patched,
    same,
    sampled,
    scales,
    weights_of,
)
from wan_golden_checks import (
    attention_of_the_release,
    batched_elements,
    guidance_of_the_release,
    network_of_the_release,
)
from wan_refusals import message_of, refusals
import comfy.context_windows as context_windows
import comfy.model_management as management
import comfy.samplers as samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP


def evaluations():
    """How many elements each step evaluates, by scales and schedule."""
    counted = []

    def count(executor, x, *rest, **named):
        counted.append(len(x))
        return executor(x, *rest, **named)

    def of(schedule, steps=4, **options):
        model = patched(new_wan(), **options)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
        counted.clear()
        sampled(model, schedule=schedule, steps=steps)
        return sum(counted)

    return {
        "three": of(scales(3, 7)),
        "equal": of(scales(5, 5)),
        "prompt_off": of(scales(1, 4.5)),
        "both_off": of(scales(1, 1)),
        "no_audio_guidance": of(scales(5, None)),
        "half_the_audio": of(scales(3, 7, (0.0, 0.5))),
        "no_sound": of(scales(3, 7), scale=0.0),
    }


def unchanged_afterwards():
    """The given model gives what it gave, and its weights are its own, after a patched clone has sampled."""
    model = new_wan()
    before, state = evaluated(model, 712.5), weights_of(model)
    clone = patched(model)
    heard = evaluated(clone, 712.5)
    sampled(clone)
    loaded_in_clone = "forward" in vars(model.model.diffusion_model.blocks[0].cross_attn)
    after = evaluated(model, 712.5)
    management.unload_all_models()
    forward = model.model.diffusion_model.blocks[0].cross_attn.forward
    return {
        "same": torch.equal(before, after),
        "sound_mattered": float((heard - before).abs().max()),
        "was_patched": loaded_in_clone,
        "weights": same(state, weights_of(model)),
        "own_method": forward.__func__ is type(model.model.diffusion_model.blocks[0].cross_attn).forward,
        "patched_again": torch.equal(heard, evaluated(patched(model), 712.5)),
    }


def with_lora():
    """A LoRA on cross-attention's output weighs as much under sound as without, before or after our node."""
    key = "diffusion_model.blocks.0.cross_attn.o.weight"
    generator = torch.Generator().manual_seed(3)
    change = 0.05 * torch.randn(CONFIG["dim"], CONFIG["dim"], generator=generator)

    def changed(model):
        model = model.clone()
        model.add_patches({key: ("diff", (change,))}, 1.0)
        return model

    base = new_wan()
    before, after = patched(changed(base)), changed(patched(base))
    first, second, plain = evaluated(before, 712.5), evaluated(after, 712.5), evaluated(patched(base), 712.5)
    by_hand = new_wan()
    by_hand.model.diffusion_model.blocks[0].cross_attn.o.weight.data += change
    expected = evaluated(patched(by_hand), 712.5)
    samples = sampled(after)
    management.unload_all_models()
    untouched = new_wan().model.state_dict()
    return {
        "difference": max(float((one - expected).abs().max()) for one in (first, second)),
        "mattered": float((expected - plain).abs().max()),
        "finite": bool(torch.isfinite(samples).all()),
        "weights": same(untouched, weights_of(base)),
    }


def in_context_windows():
    """Core's context windows hear the sound of their own frames: what is seen in each window is counted."""
    frames, length = 7, 3
    model = patched(new_wan(), frames=frames, seed=5)
    sound, seen = core.sound_of(model), []
    expected, lengths = sound.clip.windows.of(range(frames))
    model.model_options["context_handler"] = context_windows.IndexListContextHandler(
        context_windows.get_matching_context_schedule("standard_static"),
        context_windows.get_matching_fuse_method("pyramid"),
        context_length=length,
        context_overlap=1,
        dim=2,
    )
    context_windows.create_prepare_sampling_wrapper(model)
    whole = sound.heard

    def noted(shape, patch_size, options):
        heard = whole(shape, patch_size, options)
        numbers = options["context_window"].index_list
        seen.append((numbers, heard is None or torch.equal(heard.tokens, expected[numbers])))
        return heard

    sound.heard = noted
    result = sampled(model, schedule=scales(3, 7), frames=frames)
    return {
        "windows": sorted({tuple(numbers) for numbers, _ in seen}),
        "own_sound": all(right for _, right in seen),
        "evaluations": len(seen),
        "finite": bool(torch.isfinite(result).all()),
        "frames": result.shape[2],
        "lengths": lengths.tolist(),
    }


def with_easy_cache():
    """Core's EasyCache, which keeps results by condition, skips evaluations and knows the three streams apart."""
    from comfy_extras.nodes_easycache import EasyCacheNode

    (model,) = EasyCacheNode.execute(patched(new_wan()), 3.0, 0.0, 1.0, False).args
    counted, conditions = [], set()

    def count(executor, x, timestep, context, clip_fea, concat, options, **named):
        counted.append(len(x))
        conditions.update(options["uuids"])
        return executor(x, timestep, context, clip_fea, concat, options, **named)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
    result = sampled(model, steps=8, schedule=scales(3, 7))
    return {
        "finite": bool(torch.isfinite(result).all()),
        "computed": sum(counted),
        "conditions": len(conditions),
    }


def as_nodes():
    """The four nodes one after the other, as a graph runs them, give what their parts give."""
    table = ours("nodes").NODE_CLASS_MAPPINGS
    os.environ["TALKING_PORTRAIT_MODELS"] = FOLDER.name
    os.replace(adapter_file(FOLDER.name), os.path.join(FOLDER.name, "fantasytalking_model.ckpt"))
    (adapter,) = table["TP_LoadFantasyTalkingAdapter"]().load("automatic")
    model, frames, fps = table["TP_FantasyTalkingForWan"]().patch(
        new_wan(), adapter, embedding(), 1.0, 23.0, 0
    )
    (guider,) = table["TP_FantasyTalkingGuider"]().guide(
        model, conditioning(PROMPT), conditioning(NEGATIVE), 3.0, 7.0
    )
    (sigmas,) = table["TP_WanSigmas"]().make(3, 5.0)
    expected = sampled(patched(new_wan()), schedule=scales(3, 7))
    return {
        "frames": frames,
        "fps": fps,
        "source": adapter.source,
        "sigmas": sigmas.tolist(),
        "difference": float((sampled(model, guider) - expected).abs().max()),
    }


def through_the_loader():
    """A Wan that core's loader recognises by its keys, in its own precision or in 8 bits, hears and samples."""
    import comfy.sd

    network = new_wan(dim=256, num_heads=2, text_dim=4096, freq_dim=256).model.diffusion_model
    generator = torch.Generator().manual_seed(0)
    state = {
        name: (0.05 * torch.randn(value.shape, generator=generator)).bfloat16()
        for name, value in network.state_dict().items()
    }
    adapter = core_weights.load_core_adapter(adapter_file(FOLDER.name, width=256))
    text, found = torch.zeros(1, CONFIG["text_len"], 4096), {}
    for name, dtype in (("core_chooses", None), ("float8", torch.float8_e4m3fn)):
        options = {} if dtype is None else {"dtype": dtype}
        loaded = comfy.sd.load_diffusion_model_state_dict(dict(state), model_options=options)
        results = []
        for scale in (1.0, 0.0):
            choices = core.SoundOptions(frames=4 * (FRAMES - 1) + 1, scale=scale)
            model, _ = core.patched_model(loaded, adapter, embedding(), choices)
            given = (conditioning(text), conditioning(text + 0.1), scales(3, 7))
            results.append(sampled(model, core_guider.new_guider(model, *given)))
        found[name] = {
            "weights": str(loaded.model.diffusion_model.blocks[0].cross_attn.o.weight.dtype),
            "finite": bool(torch.isfinite(results[0]).all()),
            "sound_mattered": float((results[0] - results[1]).abs().max()),
        }
    return found


def loaded_in_part():
    """With most of its weights left where they were, the sound's branch gives the same."""
    base = new_wan()
    model = patched(base)
    expected = evaluated(model, 712.5)
    management.unload_all_models()
    branch = model.get_additional_models()[0]
    branch.load(torch.device("cpu"), lowvram_model_memory=1)
    found = evaluated(model, 712.5)
    branch.detach()
    return {"same": torch.equal(expected, found)}


def interrupted():
    """Cancel ends sampling within a step, and the next run is what it would have been."""
    model = patched(new_wan())
    expected = sampled(model)
    heard_blocks = []
    whole = core.sound_of(model).heard

    def cancel(*arguments):
        heard_blocks.append(1)
        management.interrupt_current_processing(True)
        return whole(*arguments)

    core.sound_of(model).heard = cancel
    message = message_of(lambda: sampled(model))
    core.sound_of(model).heard = whole
    return {
        "message": message,
        "evaluations": len(heard_blocks),
        "same_again": torch.equal(expected, sampled(model)),
    }


def memory_given_back():
    """After its last graph a patched model and its sound leave memory; the adapter's weights are shared and managed."""
    model = patched(new_wan())
    sampled(model)
    managed = [
        type(one.model.model).__name__ for one in management.current_loaded_models if one.model is not None
    ]
    shared = model.get_additional_models()[0].model is ADAPTER.patcher.model
    sound, network = weakref.ref(core.sound_of(model)), weakref.ref(model.model)
    del model
    management.unload_all_models()
    management.cleanup_models_gc()
    gc.collect()
    return {
        "managed": managed,
        "shared": shared,
        "sound_gone": sound() is None,
        "network_gone": network() is None,
        "still_loaded": len(management.current_loaded_models),
    }


def ordinary_sampler():
    """Without our guider every evaluation hears: what the release does without guidance by sound."""
    model = patched(new_wan())
    plain = samplers.CFGGuider(model)
    plain.set_conds(conditioning(PROMPT), conditioning(NEGATIVE))
    plain.set_cfg(5.0)
    found, again = sampled(model, plain), sampled(model, schedule=scales(5, None))
    return {"difference": float((found - again).abs().max())}


def in_half_precision():
    """Weights of the sound in float16 and a network in bfloat16 go together."""
    weights = core_weights.load_core_adapter(adapter_file(FOLDER.name)).weights
    weights.branch.half()
    adapter = core_weights.CoreAdapter(
        weights, ModelPatcher(weights.branch, torch.device("cpu"), torch.device("cpu")), "half"
    )
    base = new_wan()
    exact = evaluated(patched(base), 712.5)
    model, _ = core.patched_model(base, adapter, embedding(), core.SoundOptions(frames=4 * (FRAMES - 1) + 1))
    half = evaluated(model, 712.5)
    return {"difference": float((half - exact).abs().max())}


def other_samplers():
    """Samplers of higher order and of the two-call kind run through."""
    model = patched(new_wan())
    return {
        name: bool(torch.isfinite(sampled(model, sampler=name)).all())
        for name in ("heun", "uni_pc", "dpmpp_2m")
    }


CHECKS = (
    attention_of_the_release,
    network_of_the_release,
    batched_elements,
    guidance_of_the_release,
    evaluations,
    unchanged_afterwards,
    with_lora,
    in_context_windows,
    refusals,
    interrupted,
    memory_given_back,
    ordinary_sampler,
    in_half_precision,
    other_samplers,
    with_easy_cache,
    as_nodes,
    through_the_loader,
    loaded_in_part,
)


def main():
    found = {}
    for check in CHECKS:
        try:
            found[check.__name__] = check()
        except Exception:  # noqa: BLE001 - the test shows it under the check's name
            found[check.__name__] = {"error": traceback.format_exc()}
    RESULT.write_text(json.dumps(found, indent=1))


main()
