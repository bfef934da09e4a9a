"""FantasyTalking's way from sound to windows against numbers of the released code: sizes and inputs from the cases."""

import json
import re

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.wav2vec2 import Wav2Vec2, wav2vec2_features
from talking_portrait.core_models.audio.waveform_networks import normalised
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjection,
    AudioProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import (
    AudioWindows,
    audio_windows,
    widened,
    window_ranges,
)
from transformers import Wav2Vec2Config, Wav2Vec2Model

from .wan_golden import assert_agrees, made_input, weight_tools

TOLERANCE = 1e-5


def read(golden_folder, name):
    """Return a case and its arrays, if it has any."""
    path = golden_folder / "fantasytalking" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    arrays = {}
    if path.with_suffix(".npz").is_file():
        with np.load(path.with_suffix(".npz")) as file:
            arrays = {key: file[key] for key in file.files}
    return json.loads(path.read_text()), arrays


def test_ranges(golden_folder):
    case, _ = read(golden_folder, "split_audio_sequence")
    for row in case["rows"]:
        found = window_ranges(row["audio_length"], row["num_frames"])
        assert [list(one) for one in found] == row["ranges"], row
    for row in case["errors"]:
        with pytest.raises(ValueError, match=f"the video has {row['num_frames']} frames"):
            window_ranges(10, row["num_frames"])


def test_windows(golden_folder):
    case, arrays = read(golden_folder, "split_tensor_with_padding")
    for call in case["calls"]:
        tokens = made_input(weight_tools(golden_folder), call["input"])[0]
        ranges = tuple(map(tuple, call["ranges"]))
        assert window_ranges(len(tokens), call["num_frames"]) == ranges
        timeline = AudioWindows(tokens, widened(ranges, call["expand"]))
        windows, lengths = timeline.of(range(len(timeline)))
        name = f"nf{call['num_frames']}_ex{call['expand']}"
        assert_agrees(case, arrays, name, windows[None], 0)
        assert lengths.tolist() == call["k_lens"] == arrays[f"{name}_lens"].tolist()
        if call["expand"] == 4:
            assert torch.equal(audio_windows(tokens, call["num_frames"])[0], windows)


def test_projection(golden_folder):
    case, arrays = read(golden_folder, "audio_proj")
    tools = weight_tools(golden_folder)
    for name, (channels, width) in case["args"].items():
        projection = AudioProjection(AudioProjectionParameters(channels, width))
        assert set(projection.state_dict()) == {"proj.weight", "norm.weight", "norm.bias"}
        tools.fill(projection, case["gain"])
        features = made_input(tools, case["inputs"][name])
        with torch.no_grad():
            assert_agrees(case, arrays, name, projection(features[..., None, :]), TOLERANCE)


def test_features(golden_folder):
    case, arrays = read(golden_folder, "audio_features")
    tools = weight_tools(golden_folder)
    network = tools.fill(Wav2Vec2Model(Wav2Vec2Config(**case["config"])), case["gain"]).eval()
    call = re.match(r"input_for\('\w+', \([^)]*\)[^)]*\)", case["inputs"]["wave"])[0]
    wave = made_input(tools, call).numpy()
    fps = float(re.search(r"fps=([\d.]+)", case["reference"])[1])
    for frames in case["num_frames"]:
        heard = wave[: int(frames / fps * 16000)]  # where the release cuts it
        values = torch.from_numpy(normalised(heard))[None]
        assert_agrees(case, arrays, f"input_values_nf{frames}", values, TOLERANCE)
        features = wav2vec2_features(Wav2Vec2(network), heard)
        assert_agrees(case, arrays, f"features_nf{frames}", features[None, :, 0], TOLERANCE)
