"""Small HuBERTs with random weights in the two published forms, and folders of their files."""

import json

import torch
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel

WIDTH, LAYERS = 16, 2
OLD_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def small_network(norm="layer", seed=0, **changes):
    """A HubertModel like the large one (layer norm) or the base one (group norm)."""
    settings = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": (8,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "conv_bias": norm == "layer",
    }
    torch.manual_seed(seed)
    network = HubertModel(HubertConfig(**{**settings, **changes})).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "norm" in name:
                value += 0.3 * torch.randn(value.shape)
    return network


def with_old_names(state):
    """The state with the names that PyTorch gave to weight norm when the published files were made."""
    renamed = {}
    for name, value in state.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        renamed[name] = value
    return renamed


def save_hubert(folder, network, layout="safetensors", preprocessor=None, old_names=False, **config_changes):
    """Write a folder as published: weights, config.json and, if given, preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    state = network.state_dict()
    state = with_old_names(state) if old_names else state
    if layout == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    else:
        torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({**network.config.to_dict(), **config_changes}))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
