"""Runs in ComfyUI's interpreter, not in pytest: writes a small Wan, a video autoencoder and audio weights for it.

Usage: python made_wan_files.py CHECKOUT_OF_COMFYUI MODELS_FOLDER
All have random weights, under the names that the workflow on ComfyUI's own Wan asks for, in ComfyUI's models folder.
"""

# ruff: noqa: E402
# ComfyUI reads the command line when its first module is imported.

import sys
from pathlib import Path

COMFYUI, MODELS = (Path(argument).resolve() for argument in sys.argv[1:3])
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, str(COMFYUI))

import comfy.options

comfy.options.enable_args_parsing()

import comfy.ldm.wan.model
import comfy.ldm.wan.vae
import comfy.ops
import torch
from safetensors.torch import save_file

WIDTH, BLOCKS, AUDIO_WIDTH, HEARD = 256, 2, 32, 16
"""Of the network, whose heads ComfyUI takes to be 128 wide; of projected sound; of what the small wav2vec 2.0 gives."""


def drawn(shape, generator, spread=0.05):
    return (spread * torch.randn(shape, generator=generator)).bfloat16()


def write_wan(path, generator):
    network = comfy.ldm.wan.model.WanModel(
        model_type="i2v",
        in_dim=36,
        dim=WIDTH,
        ffn_dim=2 * WIDTH,
        num_heads=WIDTH // 128,
        num_layers=BLOCKS,
        operations=comfy.ops.disable_weight_init,
    )
    state = {name: drawn(value.shape, generator) for name, value in network.state_dict().items()}
    save_file(state, path)


def write_autoencoder(path, generator):
    sizes = {"dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    network = comfy.ldm.wan.vae.WanVAE(**sizes, temperal_downsample=[False, True, True], dropout=0.0)
    state = {name: kept_in_scale(name, value, generator) for name, value in network.state_dict().items()}
    save_file(state, path)


def kept_in_scale(name, value, generator):
    """Weights that neither shrink nor blow up what goes through."""
    if name.endswith("gamma"):
        return torch.ones(value.shape).half()
    if value.ndim == 1:
        return torch.zeros(value.shape).half()
    return drawn(value.shape, generator, value[0].numel() ** -0.5).half()


def write_audio_weights(path, generator):
    attention = {
        f"blocks.{block}.cross_attn.processor.{part}_proj.weight": drawn((WIDTH, AUDIO_WIDTH), generator, 0.3)
        for block in range(BLOCKS)
        for part in "kv"
    }
    projection = {
        "proj.weight": drawn((AUDIO_WIDTH, HEARD), generator, 0.3),
        "norm.weight": torch.ones(AUDIO_WIDTH),
        "norm.bias": torch.zeros(AUDIO_WIDTH),
    }
    torch.save({"proj_model": projection, "audio_processor": attention}, path)


def main():
    generator = torch.Generator().manual_seed(0)
    for folder in ("diffusion_models", "vae"):
        (MODELS / folder).mkdir(parents=True, exist_ok=True)
    write_wan(MODELS / "diffusion_models" / "wan2.1_i2v_480p_14B_fp16.safetensors", generator)
    write_autoencoder(MODELS / "vae" / "wan_2.1_vae.safetensors", generator)
    write_audio_weights(MODELS / "diffusion_models" / "fantasytalking_model.ckpt", generator)


main()
