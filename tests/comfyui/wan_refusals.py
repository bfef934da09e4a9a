"""What a user reads who connects what does not fit FantasyTalking on a core Wan: a part of `wan_checks`."""

# ruff: noqa: I001
# ComfyUI's parts can be imported once the first module has put it on the path.

from small_core_wan import (
    FOLDER,
    IMAGE,
    LATENTS,
    NEGATIVE,
    PICTURE,
    PROMPT,
    SHAPE,
    adapter_file,
    conditioning,
    core,
    core_guider,
    core_weights,
    embedding,
    evaluated,
    in_place,
    new_wan,
    patched,
    sampled,
    scales,
)
import comfy.samplers as samplers
import torch
from comfy.model_patcher import ModelPatcher


def message_of(work):
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the message is what is checked
        return f"{type(error).__name__}: {error}"
    return "no error"


def with_other_forward(model):
    model = model.clone()
    model.add_object_patch("diffusion_model.blocks.1.cross_attn.forward", lambda *_, **__: None)
    return model


def with_other_block(model):
    model = model.clone()
    model.add_object_patch("diffusion_model.blocks.0", torch.nn.Identity())
    return model


def with_replaced_method():
    model = new_wan()
    model.model.diffusion_model.blocks[1].cross_attn.forward = lambda *_, **__: None
    return model


def refusals():
    """What a user reads who connects what does not fit."""
    base = new_wan()
    small = core_weights.load_core_adapter(adapter_file(FOLDER.name, 3, 128))
    wide = core_weights.load_core_adapter(adapter_file(FOLDER.name, 2, 64))
    other = ModelPatcher(torch.nn.Linear(2, 2), torch.device("cpu"), torch.device("cpu"))
    ready = patched(base)
    four = torch.zeros(1, 16, 4, *SHAPE[3:])
    later = ready.clone()
    later.add_object_patch("diffusion_model.blocks.0.cross_attn.forward", lambda *_, **__: None)
    options = core.SoundOptions(frames=9)
    guider = samplers.CFGGuider(ready)
    guider.set_conds(conditioning(PROMPT, 4), conditioning(NEGATIVE, 4))
    return {
        "not_wan": message_of(lambda: patched(other)),
        "text_to_video": message_of(lambda: patched(new_wan("t2v", in_dim=16))),
        "blocks": message_of(lambda: core.patched_model(base, small, embedding(), options)),
        "width": message_of(lambda: core.patched_model(base, wide, embedding(), options)),
        "twice": message_of(lambda: patched(ready)),
        "other_forward": message_of(lambda: patched(with_other_forward(base))),
        "other_block": message_of(lambda: patched(with_other_block(base))),
        "other_method": message_of(lambda: patched(with_replaced_method())),
        "replaced_later": message_of(lambda: evaluated(later, 500.0)),
        "other_length": message_of(lambda: sampled(ready, guider, frames=4)),
        "unknown_frames": message_of(lambda: evaluated(ready, 500.0, four[:, :, :2])),
        "guider_without_sound": message_of(
            lambda: core_guider.new_guider(base, conditioning(), conditioning(), scales(5, 5))
        ),
        "past_the_wrappers": message_of(
            lambda: (
                in_place(ready)
                .blocks[0]
                .cross_attn(torch.zeros(1, 72, 128), torch.zeros(1, 769, 128), context_img_len=257)
            )
        ),
        "reference_frames": message_of(
            lambda: in_place(ready)(
                torch.cat([LATENTS, IMAGE], dim=1),
                torch.tensor([500.0]),
                PROMPT,
                clip_fea=PICTURE,
                time_dim_concat=torch.zeros(1, 36, 1, *SHAPE[3:]),
                transformer_options={"wrappers": ready.wrappers},
            )
        ),
    }
