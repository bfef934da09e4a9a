"""Wan's video autoencoder: the release's numbers, frame by frame as the whole, bounded memory, files, refusals."""

import re
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.video_diffusion.wan.autoencoder import (
    PUBLISHED_LATENTS_STD,
    WanAutoencoderParameters,
    decode_video,
    decoded_chunks,
    encode_video,
    encoded_condition,
    encoded_distribution,
    exported_wan_autoencoder,
    latent_statistics,
    load_wan_autoencoder,
    new_wan_autoencoder,
    normalised_latents,
    raw_latents,
    wan_autoencoder_parameters,
)
from talking_portrait.core_models.video_diffusion.wan.tiled_decoding import tiled_chunks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .wan_golden import assert_agrees, read_case, weight_tools

TOLERANCE = 1e-5
SMALL = WanAutoencoderParameters.unmeasured(
    base_dim=4, z_dim=2, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2
)
"""8 pixels and 4 frames to a latent, as the published ones."""
TINY = WanAutoencoderParameters(
    base_dim=16, z_dim=4, latents_mean=(-0.7, -0.2, 0.1, 0.3), latents_std=(2.8, 1.4, 2.3, 1.9)
)
"""The golden case's."""


def made(parameters=SMALL, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return new_wan_autoencoder(parameters).eval().requires_grad_(False)


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def golden(golden_folder):
    """The case, its arrays and inputs, and its weights under the original key names."""
    case, arrays, inputs = read_case(golden_folder, "vae_tiny")
    assert [case["scale"]["mean"], case["scale"]["std"]] == [list(TINY.latents_mean), list(TINY.latents_std)]
    tools = weight_tools(golden_folder)
    state = {
        name: torch.from_numpy(tools.tensor_for(name, tuple(shape), case["gain"]))
        for name, shape in case["state_dict"].items()
    }
    return case, arrays, inputs, state


@pytest.fixture(scope="module")
def released(golden, tmp_path_factory):
    """The golden case's network, read from a file in the original key names."""
    path = tmp_path_factory.mktemp("released") / "vae.pth"
    torch.save(golden[3], path)
    return load_wan_autoencoder(path, parameters=TINY)


def test_other_files_in_the_original_names(golden, released, tmp_path):
    save_file(golden[3], tmp_path / "vae.safetensors")
    torch.save({"model_state": golden[3]}, tmp_path / "saved_with_training.pth")
    for path in tmp_path.iterdir():
        state = load_wan_autoencoder(path, parameters=TINY).state_dict()
        assert all(torch.equal(state[name], value) for name, value in released.state_dict().items())


def test_encodes_as_the_release(golden, released):
    case, arrays, inputs, _ = golden
    assert_agrees(case, arrays, "encoded", encode_video(released, inputs["x"]), TOLERANCE)
    single = encoded_condition(released, inputs["x"][0])
    assert_agrees(case, arrays, "encoded", single[None], TOLERANCE)


def test_decodes_as_the_release(golden, released):
    case, arrays, inputs, _ = golden
    decoded = decode_video(released, inputs["z"])
    assert_agrees(case, arrays, "decoded", decoded, TOLERANCE)
    chunks = list(decoded_chunks(released, inputs["z"][0]))
    assert [chunk.shape[1] for chunk in chunks] == [1, 4, 4]
    assert torch.equal(torch.cat(chunks, dim=1), decoded[0].clamp(-1, 1))


@pytest.mark.parametrize("residual", [False, True])
def test_frame_by_frame_is_the_whole_bit_for_bit(residual):
    """And diffusers' own decode and encode of the clip, which mixes the channels of all latents at once."""
    autoencoder = made(replace(SMALL, is_residual=residual))
    latents = noise(2, 5, 3, 4)
    parts = torch.cat(list(decoded_chunks(autoencoder, latents)), dim=1)
    assert torch.equal(parts, decode_video(autoencoder, latents[None])[0].clamp(-1, 1))
    whole = autoencoder.decode(latents[None]).sample[0]
    assert whole.shape == (3, 17, 24, 32)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    video = noise(2, 3, 9, 16, 24).clamp(-1, 1)
    mean, log_variance = encoded_distribution(autoencoder, video)
    found = autoencoder.encode(video).latent_dist
    assert torch.equal(mean, found.mean)
    assert torch.equal(log_variance.clamp(-30, 20), found.logvar)


def test_the_past_does_not_depend_on_the_future():
    autoencoder = made()
    latents = noise(2, 4, 2, 2)
    changed = latents.clone()
    changed[:, 2:] += 1
    first, second = (torch.cat(list(decoded_chunks(autoencoder, each)), 1) for each in (latents, changed))
    assert torch.equal(first[:, :5], second[:, :5])
    assert not torch.equal(first[:, 5:], second[:, 5:])
    video = noise(1, 3, 9, 16, 16)
    later = torch.cat([video[:, :, :5], -video[:, :, 5:]], dim=2)
    assert torch.equal(encode_video(autoencoder, video)[:, :, :2], encode_video(autoencoder, later)[:, :, :2])


class LiveTensors(TorchDispatchMode):
    """The most bytes that tensors made meanwhile held at once, beside those given."""

    def __init__(self, given):
        super().__init__()
        self.now, self.peak, self.known = 0, 0, {given.untyped_storage()._cdata}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.count(value.untyped_storage())
        return result

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key, size):
        self.known.discard(key)
        self.now -= size


def peak_of_decoding(autoencoder, frames):
    latents = noise(2, frames, 2, 2)
    with LiveTensors(latents) as live:
        count = sum(chunk.shape[1] for chunk in decoded_chunks(autoencoder, latents))
    assert count == 2 * (frames - 1) + 1
    return live.peak


def test_memory_of_decoding_does_not_grow_with_the_clip():
    autoencoder = made(replace(SMALL, dim_mult=(1, 2), temporal_downsample=(True,)))
    peak = peak_of_decoding(autoencoder, 5)
    assert peak == peak_of_decoding(autoencoder, 50) > 0


class Stopped(Exception):
    pass


def test_work_ends_between_latent_frames():
    autoencoder, calls = made(), []

    def check():
        calls.append(None)
        if len(calls) == 3:
            raise Stopped

    chunks = decoded_chunks(autoencoder, noise(2, 9, 2, 2), check)
    assert [next(chunks).shape[1], next(chunks).shape[1]] == [1, 4]
    with pytest.raises(Stopped):
        next(chunks)
    for work, argument in ((encode_video, noise(1, 3, 33, 16, 16)), (decode_video, noise(1, 2, 9, 2, 2))):
        calls.clear()
        with pytest.raises(Stopped):
            work(autoencoder, argument, check)
    kept = torch.is_grad_enabled()
    assert kept, "a decoding that was left off must not leave gradients off"


def test_gradients_reach_every_weight_and_the_video():
    autoencoder = made().requires_grad_(True)
    video = noise(1, 3, 5, 16, 16).requires_grad_(True)
    mean, log_variance = encoded_distribution(autoencoder, video)
    rebuilt = decode_video(autoencoder, normalised_latents(autoencoder, mean))
    assert rebuilt.shape == video.shape
    ((rebuilt - video).square().mean() + log_variance.square().mean()).backward()
    without = {name for name, value in autoencoder.named_parameters() if value.grad is None}
    assert not without
    assert video.grad.abs().sum() > 0


def test_statistics_normalise():
    autoencoder = made()
    raw = encoded_distribution(autoencoder, noise(3, 3, 5, 32, 32))[0]
    assert torch.equal(normalised_latents(autoencoder, raw), raw)  # not measured yet
    mean, std = latent_statistics([raw[:1], raw[1:]])
    measured = made(SMALL.with_statistics(mean, std))
    values = normalised_latents(measured, raw)
    torch.testing.assert_close(values.mean((0, 2, 3, 4)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std((0, 2, 3, 4), unbiased=False), torch.ones(2))
    torch.testing.assert_close(raw_latents(measured, values), raw)
    with pytest.raises(ValueError, match="no latents"):
        latent_statistics([])


@pytest.mark.parametrize("half", [False, True])
def test_own_file_round_trip(tmp_path, half):
    autoencoder = made()
    measured = SMALL.with_statistics([0.5, -0.25], [2.0, 0.5])
    tensors, metadata = exported_wan_autoencoder(autoencoder, measured, half)
    save_file(tensors, tmp_path / "small.safetensors", metadata)
    assert wan_autoencoder_parameters(tmp_path / "small.safetensors") == measured
    loaded = load_wan_autoencoder(tmp_path / "small.safetensors")
    assert not any(value.requires_grad for value in loaded.parameters())
    assert loaded.dtype == torch.float32
    raw = noise(1, 2, 2, 2, 2)
    for name, value in autoencoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float() if half else value), name
    expected = (raw - torch.tensor([0.5, -0.25]).view(1, 2, 1, 1, 1)) / torch.tensor([2, 0.5]).view(
        1, 2, 1, 1, 1
    )
    torch.testing.assert_close(normalised_latents(loaded, raw), expected)


def test_published_sizes_under_both_names(golden, tmp_path):
    """The published network's keys, without memory: each original key has its place, once."""
    published = WanAutoencoderParameters()
    assert (published.pixels_per_latent, published.frames_per_latent) == (8, 4)
    with torch.device("meta"):
        network = new_wan_autoencoder(published)
    state = network.state_dict()
    assert sum(value.numel() for value in state.values()) == 126_892_531
    assert len(state) == len(golden[3])  # the golden's depth is the published one
    save_file({name: torch.zeros(1) for name in state}, tmp_path / "diffusers.safetensors")
    with pytest.raises(WeightMismatchError, match=r"Missing: none\. Unexpected: none\. Misshapen") as error:
        load_wan_autoencoder(tmp_path / "diffusers.safetensors")
    assert "decoder.conv_in.weight is (1,), expected (384, 16, 3, 3, 3)" in str(error.value)


def test_bfloat16_stays_near_float32():
    exact = made()
    coarse = made().to(torch.bfloat16)
    latents = noise(2, 3, 2, 2)
    first, second = (torch.cat(list(decoded_chunks(each, latents)), 1) for each in (exact, coarse))
    assert second.dtype == torch.float32
    assert (first - second).abs().max() < 0.05


@pytest.mark.parametrize("chunks", [decoded_chunks, tiled_chunks])
@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        (torch.float16, "in float16: choose bfloat16 or float32 as precision"),
        (torch.bfloat16, "in bfloat16: choose float32 as precision, or sample again with lower guidance"),
        (torch.float32, "in float32: sample again with lower guidance, or load the weights again"),
    ],
)
def test_overflow_is_reported_with_what_helps_in_that_precision(chunks, dtype, advice):
    """Tiles are blended in float32, which is not what they were computed in."""
    autoencoder = made().to(dtype)
    autoencoder.decoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=advice):
        next(iter(chunks(autoencoder, noise(2, 1, 2, 2))))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 16, 16), "8 frames, expected 1 more than a multiple of 4"),
        ((1, 3, 0, 16, 16), "0 frames"),
        ((1, 3, 5, 12, 16), "16 x 12 pixels, expected multiples of 8"),
        ((1, 3, 5, 0, 16), "multiples of 8"),
        ((1, 4, 5, 16, 16), r"expected \(batch, 3, frames"),
        ((3, 5, 16, 16), r"expected \(batch, 3, frames"),
    ],
)
def test_videos_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        encode_video(made(), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 1, 2, 2), (2, 0, 2, 2), (2, 2, 2), (2, 1, 0, 2)])
def test_latents_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"expected \(2, frames, height, width\)"):
        next(decoded_chunks(made(), torch.zeros(shape)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_dim": 0}, "base_dim is 0"),
        ({"dim_mult": ()}, "one for each level"),
        ({"temporal_downsample": (True,)}, "2 steps between levels"),
        ({"latents_mean": (0.0,)}, r"latents_mean has 1 numbers, expected 2"),
        ({"latents_std": (0.0, 1.0)}, "numbers above 0"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_files_that_do_not_fit(tmp_path, golden):
    with pytest.raises(FileNotFoundError):
        load_wan_autoencoder(tmp_path / "none.safetensors")
    save_file({"blocks.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightMismatchError, match="file of another model"):
        load_wan_autoencoder(tmp_path / "other.safetensors")
    state = dict(golden[3])
    state["surplus"] = state.pop("decoder.upsamples.11.resample.1.bias")
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightMismatchError) as error:
        load_wan_autoencoder(tmp_path / "odd.pth", parameters=TINY)
    assert "Missing: ['decoder.up_blocks.2.upsamplers.0.resample.1.bias']" in str(error.value)
    assert "Unexpected: ['surplus']" in str(error.value)
    for entry in ("[]", "{", '{"colour": 3}', '{"base_dim": 0}'):
        save_file({"a": torch.zeros(1)}, tmp_path / "sizes.safetensors", {"wan_autoencoder": entry})
        with pytest.raises(UnreadableWeightsError, match=re.escape(entry)):
            load_wan_autoencoder(tmp_path / "sizes.safetensors")


def test_published_statistics_are_the_default():
    assert WanAutoencoderParameters().latents_std == PUBLISHED_LATENTS_STD
    assert WanAutoencoderParameters.from_dict(SMALL.to_dict()) == SMALL
