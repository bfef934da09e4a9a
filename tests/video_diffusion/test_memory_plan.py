"""ACTalker's memory plan: its estimates against live tensors, what it chooses, what it refuses."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
from talking_portrait.core_models.video_diffusion.actalker import controls as controls_module
from talking_portrait.core_models.video_diffusion.actalker.controls import ControlSignal, Region, UNetControls
from talking_portrait.core_models.video_diffusion.actalker.memory_plan import (
    DECODE_CHUNKS,
    RESERVE_SHARE,
    ClipSize,
    activation_bytes,
    autoencoder_count,
    chunk_bytes,
    decoding_bytes,
    encoding_bytes,
    fitting_chunk,
    memory_estimate,
    offloadable_blocks,
    plan_for,
)
from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerParameters
from talking_portrait.core_models.video_diffusion.actalker.unet import ACTalkerUNet, UNetParameters
from talking_portrait.core_models.video_diffusion.autoencoder import (
    PUBLISHED_AUTOENCODER,
    VideoAutoencoderParameters,
    new_video_autoencoder,
)
from torch.nn import functional

from ..live_bytes import LiveBytes
from .actalker_networks import SMALL, new_unet

GIGABYTE = 10**9
PUBLISHED = ACTalkerParameters()
SIZE = (576, 576)
GOLDENS = UNetParameters(channels=(32, 64, 64, 64), heads=(2, 2, 2, 2))
OVERESTIMATE = 0.15
"""Most that an estimate may lie above what lives; what it lies below must be within the reserve."""
HALF, FULL = torch.float16, torch.float32


def assert_safe(estimated, measured):
    """What lives fits into the estimate with its reserve, and the estimate wastes little."""
    assert measured <= (1 + RESERVE_SHARE) * estimated
    assert estimated <= (1 + OVERESTIMATE) * measured


def without_scores(queries, keys, values, *_, **__):
    """Attention as kernels do it: nothing but the result is made."""
    return queries.new_empty(*queries.shape[:-1], values.shape[-1])


def whole_picture(mask, count, grid=None):
    """All tokens: which these are depends on values, and meta tensors have none."""
    return mask.new_empty(count), torch.arange(count)


def live_bytes(module, evaluate):
    """The most bytes alive at once while `evaluate` runs on the meta device, weights not counted."""
    counter = LiveBytes(*module.parameters(), *module.buffers())
    with (
        mock.patch.object(functional, "scaled_dot_product_attention", without_scores),
        mock.patch.object(controls_module, "region_on_tokens", whole_picture),
        torch.no_grad(),
        torch.device("meta"),
        counter,
    ):
        evaluate()
    return counter.peak


def live_bytes_of_unet(parameters, frames, height, width, dtype, streams=1):
    with torch.device("meta"):
        unet = ACTalkerUNet(parameters).to("meta", dtype).eval().requires_grad_(False)

        def empty(*shape):
            return torch.empty(streams, *shape, dtype=dtype)

        regions = (Region(torch.empty(8 * height, 8 * width)),)
        audio, motion = (
            ControlSignal(empty(frames, t, parameters.condition_width), regions) for t in (32, 1)
        )
        steering = UNetControls(empty(frames, 1, parameters.condition_width), audio, motion)
        pose = empty(1, parameters.channels[0], height, width).expand(-1, frames, -1, -1, -1)
        inputs = (empty(frames, 8, height, width), torch.empty(()), steering, empty(3), pose)
    return live_bytes(unet, lambda: unet(*inputs))


@pytest.mark.parametrize(
    ("parameters", "frames", "height", "width", "dtype"),
    [
        (UNetParameters(), 25, 72, 72, HALF),
        (UNetParameters(layers=1), 8, 33, 21, HALF),
        (UNetParameters(layers=1), 25, 16, 16, FULL),
        (UNetParameters(layer="joint", layers=1), 6, 16, 16, HALF),
        (UNetParameters(layer="none"), 25, 72, 128, HALF),
        (GOLDENS, 4, 16, 16, FULL),
        (SMALL, 6, 8, 8, FULL),
    ],
)
def test_activations_are_those_that_live(parameters, frames, height, width, dtype):
    measured = live_bytes_of_unet(parameters, frames, height, width, dtype)
    estimated = activation_bytes(parameters, frames, (height, width), dtype.itemsize)
    assert_safe(estimated, measured)


def test_streams_add_up():
    one, three = (live_bytes_of_unet(SMALL, 2, 8, 8, HALF, streams) for streams in (1, 3))
    assert three == pytest.approx(3 * one, rel=0.02)


@pytest.mark.parametrize(
    ("parameters", "frames", "height", "width", "dtype"),
    [
        (PUBLISHED_AUTOENCODER, 10, 72, 72, HALF),
        (PUBLISHED_AUTOENCODER, 2, 64, 96, FULL),
        (VideoAutoencoderParameters((32, 64), groups=8), 4, 16, 16, FULL),
        (VideoAutoencoderParameters((32, 128, 128)), 4, 6, 6, HALF),
    ],
)
def test_encoding_and_decoding_take_what_lives(parameters, frames, height, width, dtype):
    clip = ClipSize(
        height * parameters.reduction, width * parameters.reduction, frames, frames, dtype.itemsize
    )
    with torch.device("meta"):
        autoencoder = new_video_autoencoder(parameters).to(device="meta").requires_grad_(False)
        picture = torch.empty(1, 3, clip.height, clip.width)
        latents = torch.empty(frames, 4, height, width, dtype=dtype)
    encoding = live_bytes(autoencoder, lambda: autoencoder.encode(picture).latent_dist.mode())
    raised = (FULL.itemsize - dtype.itemsize) * autoencoder_count(parameters)
    assert_safe(encoding_bytes(parameters, clip) - raised, encoding)
    autoencoder.to(dtype)
    decoding = live_bytes(autoencoder, lambda: autoencoder.decode(latents, num_frames=frames).sample)
    assert_safe(frames * decoding_bytes(parameters, clip), decoding)


def test_weights_are_those_of_the_published_files():
    estimate = memory_estimate(PUBLISHED, PUBLISHED_AUTOENCODER, ClipSize(*SIZE, 25, 25, 2))
    numbers = 1_775_460_842 + 1_086_480 + 54_300_672 + 2_624_512 + 524_270
    assert estimate.weights == 2 * numbers
    assert estimate.autoencoder == 2 * 97_742_847
    assert estimate.weights_by_block < estimate.weights / 5


def planned(free, size=SIZE, frames=25, dtype="float16", **changed):
    return plan_for(PUBLISHED, PUBLISHED_AUTOENCODER, size, frames, dtype, int(free * GIGABYTE), **changed)


@pytest.mark.parametrize("frames", [25, 500])
def test_one_window_fits_in_12_gigabytes(frames):
    plan = planned(12, frames=frames)
    assert not plan.by_block
    assert plan.streams_at_once == 2
    assert plan.needed_bytes < 12 * GIGABYTE
    for part in (
        "25 frames at 576x576",
        "float16, on the device",
        "2 streams at a time",
        "of 12.0 GB free",
    ):
        assert part in plan.describe()
    assert "float16, offloaded by block" in planned(6, frames=frames).describe()


def test_more_memory_is_put_to_use():
    plans = [planned(free) for free in (5, 8, 12, 16, 24)]
    assert [plan.by_block for plan in plans] == [True, False, False, False, False]
    assert [plan.streams_at_once for plan in plans] == [1, 1, 2, 3, 4]
    assert all(plan.needed_bytes <= plan.free_bytes for plan in plans)
    assert "on the device; " in plans[-1].describe()


def test_what_is_chosen_is_the_first_that_fits():
    """Whatever is free, nothing that comes before the choice would fit."""
    order = [(by_block, s, c) for by_block in (False, True) for s in (4, 3, 2, 1) for c in DECODE_CHUNKS]
    for free in range(5, 20):
        plan = planned(free)
        chosen = (plan.by_block, plan.streams_at_once, plan.decode_chunk)
        earlier = order[: order.index(chosen)]
        assert all(plan.estimate.needed(*form) > plan.free_bytes for form in earlier)


def test_decoding_goes_in_smaller_chunks_when_the_window_is_short():
    chunks = [planned(free, window=2).decode_chunk for free in (12, 5, 3.1, 2.3)]
    assert chunks == list(DECODE_CHUNKS)


def test_longer_clips_take_a_little_more():
    short, long = planned(12, frames=25), planned(12, frames=500)
    assert 0 < long.needed_bytes - short.needed_bytes < GIGABYTE


def test_refusal_says_what_is_needed_and_what_fits():
    with pytest.raises(ValueError, match="needs at least") as error:
        planned(3)
    message = str(error.value)
    for part in ("25 frames at 576x576", "4.1 GB", "3.0 GB are free", "image_size to 256", "window to 9"):
        assert part in message
    assert "choose float16" not in message
    assert planned(3, size=(256, 256)).streams_at_once == 1
    assert planned(3, window=9).streams_at_once == 1
    with pytest.raises(ValueError, match="image_size"):
        planned(3, window=10)


def test_refusal_when_nothing_smaller_fits():
    with pytest.raises(ValueError, match=r"no smaller image_size or window fits; .*choose float16"):
        planned(0.5, dtype="float32")


def test_chosen_streams_are_kept_and_the_rest_chosen_for_them():
    assert (planned(14).by_block, planned(14).streams_at_once) == (False, 3)
    plan = planned(14, streams=4)
    assert (plan.by_block, plan.streams_at_once) == (True, 4)
    assert plan.needed_bytes <= plan.free_bytes
    one = planned(24, streams=1)
    assert (one.by_block, one.streams_at_once, one.decode_chunk) == (False, 1, 10)


def test_refusal_of_chosen_streams_says_how_many_fit():
    with pytest.raises(ValueError, match="for 4 streams at once") as error:
        planned(8, streams=4)
    assert "lower streams_at_once to 2" in str(error.value)
    assert planned(8, streams=2).by_block
    with pytest.raises(ValueError, match="needs at least"):
        planned(8, streams=3)


@pytest.mark.parametrize("streams", [0, 5])
def test_streams_there_are_not(streams):
    with pytest.raises(ValueError, match=r"expected 1\.\.4"):
        planned(24, streams=streams)


def test_advice_counts_in_the_sizes_that_a_model_can_take():
    """A small model halves twice and its autoencoder once: steps of 8 pixels, where the published one has 64."""
    unet = UNetParameters(channels=(32, 64, 64), heads=(2, 2, 2), layers=1)
    small = replace(PUBLISHED, unet=unet, pose=replace(PUBLISHED.pose, channels=32))
    coder = VideoAutoencoderParameters((32, 64), groups=8)
    window = {"window": 25, "can_offload": False}
    needed = plan_for(small, coder, (72, 72), 25, "float32", 10**11, streams=1, **window).needed_bytes
    with pytest.raises(ValueError, match=r"lower image_size to 72 ") as error:
        plan_for(small, coder, (80, 80), 25, "float32", needed, **window)
    assert "streams_at_once" not in str(error.value)


def test_frames_decoded_together_are_the_most_that_fit():
    clip = ClipSize(*SIZE, 100, 25, 2)
    for chunk in DECODE_CHUNKS:
        free = chunk_bytes(PUBLISHED_AUTOENCODER, clip, chunk)
        assert fitting_chunk(PUBLISHED_AUTOENCODER, clip, free) == chunk
        assert (
            fitting_chunk(PUBLISHED_AUTOENCODER, clip, free - 1)
            == (DECODE_CHUNKS[min(DECODE_CHUNKS.index(chunk) + 1, 3)])
        )
    one = replace(clip, frames=1)
    assert fitting_chunk(PUBLISHED_AUTOENCODER, one, chunk_bytes(PUBLISHED_AUTOENCODER, clip, 1)) == 10


def test_where_nothing_can_be_offloaded_the_weights_count_whole():
    with pytest.raises(ValueError, match=r"3\.9 GB of weights"):
        planned(6, can_offload=False)
    assert not planned(8, can_offload=False).by_block


@pytest.mark.parametrize("changed", [{"frames": 0}, {"window": 0}, {"size": (0, 576)}])
def test_sizes_of_nothing(changed):
    with pytest.raises(ValueError, match="at least 1"):
        planned(12, **changed)


def test_blocks_hold_nearly_everything_and_none_lies_in_another():
    unet = new_unet()
    blocks = offloadable_blocks(unet)
    counted = [id(value) for block in blocks for value in block.parameters()]
    assert len(counted) == len(set(counted))
    between = {name.split(".")[0] for name, value in unet.named_parameters() if id(value) not in set(counted)}
    assert between <= {"conv_in", "time_embedding", "add_embedding", "conv_norm_out", "conv_out"}
