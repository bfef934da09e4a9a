"""Small wav2vec 2.0 networks with random weights, and folders of their files as published: in a speech recogniser."""

import json

import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from .small_hubert import with_old_names

WIDTH, LAYERS = 16, 2
WITHIN = "wav2vec2."


def small_network(seed=0, **changes):
    """A Wav2Vec2Model like the base one (group norm)."""
    settings = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": (8,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    torch.manual_seed(seed)
    network = Wav2Vec2Model(Wav2Vec2Config(**{**settings, **changes})).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "norm" in name:
                value += 0.3 * torch.randn(value.shape)
    return network


def published_state(network):
    """The weights as facebook/wav2vec2-base-960h has them: PyTorch's old names, and the head of the recogniser."""
    state = {WITHIN + name: value for name, value in with_old_names(network.state_dict()).items()}
    return {**state, "lm_head.weight": torch.ones(32, WIDTH), "lm_head.bias": torch.ones(32)}


def save_wav2vec2(folder, network, state=None, preprocessor=None, **config_changes):
    """Write a folder as published: weights, config.json and, if given, preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    state = published_state(network) if state is None else state
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**network.config.to_dict(), **config_changes}))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
