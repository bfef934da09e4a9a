"""HuBERT (Hsu et al. 2021, arXiv 2106.07447): all hidden states of a published model, 50 times a second.

Step i is centred on (i + 0.5) / 50 s. HuBERT's convolutions hear 400 samples for each step of 320 and pad nothing, so
40 samples of silence go before and after: step i hears samples 320 i - 40 to 320 i + 359.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from ..strict_loading import load_strict
from ..types import ProgressCallback
from .listening_windows import (
    STEP_SAMPLES,
    ListeningWindows,
    WindowEncoder,
    features_in_blocks,
    sound_samples,
    step_count,
)
from .mel import SAMPLE_RATE
from .waveform_networks import (
    CONFIG_FILE,
    HEARD_SAMPLES,
    LONG_CLIP_WINDOWS,
    MASKED_STEPS,
    PREPROCESSOR_FILE,
    WHOLE_CLIP_STEPS,
    normalised,
    position_names,
    read_config,
    wants_normalised_sound,
    weight_file,
)

SIDE_SAMPLES = (HEARD_SAMPLES - STEP_SAMPLES) // 2
"""Of those, the ones before and after the step's own."""
NAME = "HuBERT"
"""What messages call the model."""


class Hubert(nn.Module):
    """A HuBERT that gives what enters its first layer and what leaves each, the last one as the model gives it.

    normalises: whether it was trained on sound of mean 0 and variance 1.
    """

    def __init__(self, network: HubertModel, normalises: bool) -> None:
        super().__init__()
        self.network = network
        self.normalises = normalises

    @property
    def layers(self) -> int:
        """Hidden states: one more than layers."""
        return self.network.config.num_hidden_layers + 1

    @property
    def width(self) -> int:
        """Numbers of a hidden state per step."""
        return self.network.config.hidden_size

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Return `layers` hidden states (B, T, width) of sound (B, 320 T + 80), which is used as it is.

        The last one is after the final layer norm, which newer versions of transformers leave out there.
        """
        heard = self.network(waveform, output_hidden_states=True, return_dict=True)
        return (*heard.hidden_states[:-1], heard.last_hidden_state)


def load_hubert(
    folder_or_file: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    config_file: str | os.PathLike[str] | None = None,
    preprocessor_file: str | os.PathLike[str] | None = None,
) -> Hubert:
    """Return a published HuBERT, on the CPU, in evaluation mode.

    folder_or_file: a folder with model.safetensors or pytorch_model.bin, or such a file. config_file,
    preprocessor_file: None takes config.json and preprocessor_config.json beside the weights. The latter says whether
    sound is normalised; without it, sound is for models with layer norm in their convolutions (large), and not for
    those with group norm (base), as they were trained.
    Raises FileNotFoundError naming what is missing, ValueError for a configuration of another kind of model, and what
    `load_strict` raises.
    """
    weights = weight_file(Path(folder_or_file), NAME)
    config = read_config(Path(config_file or weights.with_name(CONFIG_FILE)), HubertConfig, NAME)
    with torch.device("meta"):
        network = HubertModel(config)
    table = {MASKED_STEPS: None, **position_names(network)}
    network = load_strict(lambda: network, weights, table, dtype).requires_grad_(False)
    preprocessor = Path(preprocessor_file or weights.with_name(PREPROCESSOR_FILE))
    untold = config.feat_extract_norm == "layer"
    return Hubert(network, wants_normalised_sound(preprocessor, untold)).eval()


def hidden_states(
    hubert: Hubert,
    waveform: np.ndarray,
    sample_rate: int = SAMPLE_RATE,
    total_frames: int | None = None,
    layer_weights: Tensor | np.ndarray | None = None,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return the hidden states (T, layers, width), float32 on the CPU, of sound at 50 Hz.

    waveform: (n,), one channel at 16 kHz, n > 0. total_frames: its video frames at 25 fps, None means
    frame_clock.frame_count(n / 16000, 25); T is twice that, what is missing at the end being silence. layer_weights:
    (layers,) >= 0 with sum 1, such as WeightedLayers.shares(); with them the result is the weighted sum (T, 1, width).
    All states of the large model take 5 MB for each second, their sum 0.2 MB.
    Sound of more than 18 s is heard in windows, so that memory does not grow with it beside the result; the sound is
    normalised as a whole first. progress: called as (steps done, T).
    Raises ValueError for another rate, sound that is empty or not finite, or weights that do not fit.
    """
    if sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"the sound is at {sample_rate} Hz, but HuBERT hears {SAMPLE_RATE} Hz: resample it first"
        )
    waveform = sound_samples(waveform)
    shares = _layer_shares(hubert, layer_weights)
    steps = step_count(len(waveform), total_frames)
    windows = LONG_CLIP_WINDOWS if steps > WHOLE_CLIP_STEPS else ListeningWindows(steps, 0, 0)
    heard = normalised(waveform) if hubert.normalises else waveform
    return features_in_blocks(
        lambda window: _states(hubert, window, shares), heard, windows, total_frames, progress
    )


def window_encoder(hubert: Hubert, layer_weights: Tensor | np.ndarray | None = None) -> WindowEncoder:
    """Return the encoder for `features_in_blocks` and `FeatureStream`: (n,) to (n / 320, layers or 1, width).

    Each window is normalised by itself where the model wants it: a stream does not know the sound as a whole.
    layer_weights: as of `hidden_states`. Raises ValueError for weights that do not fit.
    """
    shares = _layer_shares(hubert, layer_weights)

    def encode(window: np.ndarray) -> Tensor:
        return _states(hubert, normalised(window) if hubert.normalises else window, shares)

    return encode


def _states(hubert: Hubert, window: np.ndarray, shares: Tensor | None) -> Tensor:
    """Return (n / 320, layers or 1, width) float32 on the CPU of samples (n,), which are not normalised."""
    weight = next(hubert.parameters())
    padded = torch.from_numpy(np.pad(window, SIDE_SAMPLES)).to(weight)[None]
    with torch.no_grad():
        states = hubert(padded)
    if shares is None:
        return torch.stack([state[0].float().cpu() for state in states], dim=1)
    weighted = (share * state[0].float() for share, state in zip(shares.tolist(), states, strict=True))
    return sum(weighted).cpu()[:, None]


def _layer_shares(hubert: Hubert, layer_weights: Tensor | np.ndarray | None) -> Tensor | None:
    if layer_weights is None:
        return None
    shares = torch.as_tensor(layer_weights).detach().float().cpu()
    if shares.shape != (hubert.layers,):
        raise ValueError(
            f"layer_weights has shape {tuple(shares.shape)}, expected ({hubert.layers},): one for each hidden state "
            "of this HuBERT"
        )
    if not ((shares >= 0).all() and abs(shares.sum().item() - 1) < 1e-3):
        raise ValueError(f"layer_weights are {shares.tolist()}, expected numbers >= 0 that add up to 1")
    return shares
