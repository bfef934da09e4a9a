"""LoRA files for small Wans, of random numbers."""

from pathlib import Path

import torch
from safetensors.torch import save_file

ORIGINAL_LAYERS = {
    "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
    "blocks.0.attn1.to_k": "blocks.0.self_attn.k",
    "blocks.1.attn1.to_v": "blocks.1.self_attn.v",
    "blocks.1.attn2.to_out.0": "blocks.1.cross_attn.o",
    "blocks.0.ffn.net.0.proj": "blocks.0.ffn.0",
    "blocks.1.ffn.net.2": "blocks.1.ffn.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "proj_out": "head.head",
}
"""Linear layers by diffusers' names -> by those of the release."""
PICTURE_LAYERS = {
    "blocks.0.attn2.add_k_proj": "blocks.0.cross_attn.k_img",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
}
"""The same of Wans that look at pictures."""


def drawn_pairs(transformer, layers=tuple(ORIGINAL_LAYERS), rank=2, seed=0):
    """{layer: (down, up)} for linear layers of a transformer."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for layer in layers:
        rows, columns = transformer.get_submodule(layer).weight.shape
        down = torch.randn(rank, columns, generator=generator) * columns**-0.5
        pairs[layer] = down, torch.randn(rows, rank, generator=generator) * 0.3
    return pairs


def pair_tensors(pairs, endings=("lora_A.weight", "lora_B.weight"), form="diffusion_model.{}"):
    """A file's tensors of pairs. form: makes a layer's name in the file of its name here."""
    return {
        f"{form.format(layer)}.{ending}": value
        for layer, pair in pairs.items()
        for ending, value in zip(endings, pair, strict=True)
    }


def written(path: Path, tensors, metadata=None) -> Path:
    """Write tensors into a safetensors file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return path
