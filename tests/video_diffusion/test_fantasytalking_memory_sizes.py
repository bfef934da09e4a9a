"""What FantasyTalking's networks take, by their sizes, against tensors that live."""

from contextlib import ExitStack
from dataclasses import replace
from typing import ClassVar
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.loading import stays_in_float32
from talking_portrait.core_models.video_diffusion.fantasytalking.memory_sizes import (
    AS_COMPUTED,
    EIGHT_BIT_FILE,
    EIGHT_BITS,
    WindowSize,
    activation_bytes,
    kept_key_bytes,
    model_bytes,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.model import (
    DenoiserConditions,
    FantasyTalkingModel,
    FantasyTalkingParameters,
)
from talking_portrait.core_models.video_diffusion.memory_sizes import NetworkBytes
from talking_portrait.core_models.video_diffusion.wan.autoencoder import (
    WanAutoencoderParameters,
    decoded_frame,
    encode_video,
    fresh_cache,
    new_wan_autoencoder,
)
from talking_portrait.core_models.video_diffusion.wan.clip_vision import new_clip_vision
from talking_portrait.core_models.video_diffusion.wan.float8_linear import (
    Float8Linear,
    packed_weight,
    replace_linear,
    store_in_float8,
)
from talking_portrait.core_models.video_diffusion.wan.memory_sizes import (
    EIGHT_BIT_READING_BYTES,
    READING_BYTES,
    SEEING_BYTES,
    clip_vision_bytes,
    decoding_bytes,
    encoding_bytes,
    text_encoder_bytes,
    tiled_decoding_bytes,
)
from talking_portrait.core_models.video_diffusion.wan.text_encoder import (
    TextEncoderParameters,
    load_text_encoder,
    may_stay_packed,
    new_text_encoder,
)
from talking_portrait.core_models.video_diffusion.wan.tiled_decoding import RELEASED_TILES
from talking_portrait.core_models.video_diffusion.wan.transformer import WanParameters
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..live_bytes import LiveBytes

PUBLISHED, RELEASED_COLOURS = FantasyTalkingParameters(), WanAutoencoderParameters()
SMALL = FantasyTalkingParameters(
    wan=WanParameters(6, 32, 36, 16, 16, 256, 768, 6, (1, 1, 1), None, 1),
    audio=AudioProjectionParameters(192, 128, 6),
)
SMALL_COLOURS = WanAutoencoderParameters(32, None, 16, (1, 2, 2), 1, (True, True), patch_size=2)
HALF, FULL = torch.bfloat16, torch.float32
TOLERANCE = 0.1


class PretendedAutocast:
    """In place of torch.autocast, which does not know the meta device."""

    current: ClassVar = [None]

    def __init__(self, device_type, dtype=None, enabled=True):
        self.dtype = dtype if enabled else None

    def __enter__(self):
        self.current.append(self.dtype)

    def __exit__(self, *_):
        self.current.pop()


def cast(values, dtype):
    return [v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in values]


class Casting(TorchFunctionMode):
    """What autocast does on CUDA to the functions that the network calls."""

    HALVED = (functional.linear, torch.conv3d, functional.conv3d)
    RAISED = (functional.layer_norm, torch.layer_norm, functional.rms_norm, torch.rms_norm)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        dtype, kwargs = PretendedAutocast.current[-1], kwargs or {}
        if dtype is not None and function in (*self.HALVED, *self.RAISED):
            to = dtype if function in self.HALVED else FULL
            args, kwargs = cast(args, to), dict(zip(kwargs, cast(kwargs.values(), to), strict=True))
        return function(*args, **kwargs)


def without_scores(query, key, value, *_, **__):
    """Attention as kernels do it: nothing but the result is made."""
    dtype = PretendedAutocast.current[-1]
    query, key, value = cast((query, key, value), dtype) if dtype is not None else (query, key, value)
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def on_meta(parameters, dtype):
    """A model of two blocks without weights; the others would take what these take, one after the other."""
    with torch.device("meta"):
        model = FantasyTalkingModel(replace(parameters, wan=replace(parameters.wan, num_layers=2)))
    model = model.eval().requires_grad_(False).to("meta")
    for name, value in list(model.named_parameters()):
        owner, _, last = name.rpartition(".")
        made = torch.empty_like(value, dtype=FULL if stays_in_float32(name) else dtype)
        setattr(model.get_submodule(owner), last, torch.nn.Parameter(made, requires_grad=False))
    return model


def live_bytes_of_pass(parameters, frames, height, width, dtype, streams=1):
    """The most bytes alive at once in a pass with sound, weights not counted."""
    model, wan = on_meta(parameters, dtype), parameters.wan
    with torch.device("meta"):
        conditions = DenoiserConditions(
            image=torch.empty(1, wan.condition_channels, frames, height, width).expand(
                streams, -1, -1, -1, -1
            ),
            text=torch.empty(streams, wan.text_length, wan.text_dim),
            picture=None if wan.image_dim is None else torch.empty(streams, 257, wan.image_dim),
            audio=torch.empty(streams, frames, 17, parameters.audio.width),
            audio_lengths=torch.empty(streams, frames, dtype=torch.long),
        )
        latents = torch.empty(streams, wan.out_channels, frames, height, width)
    counter = LiveBytes(*model.parameters(), *model.buffers())
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "autocast", PretendedAutocast))
        stack.enter_context(mock.patch.object(functional, "scaled_dot_product_attention", without_scores))
        for context in (torch.no_grad(), torch.device("meta"), Casting(), counter):
            stack.enter_context(context)
        model(latents, torch.empty(streams), conditions)
    return counter.peak


class TestActivations:
    @pytest.mark.parametrize(
        ("parameters", "frames", "height", "width", "dtype"),
        [
            (PUBLISHED, 21, 64, 64, HALF),
            (PUBLISHED, 21, 64, 64, FULL),
            (PUBLISHED, 21, 90, 160, HALF),
            (PUBLISHED, 5, 32, 48, torch.float16),
            (replace(PUBLISHED, wan=replace(PUBLISHED.wan, ffn_dim=20480)), 9, 32, 32, HALF),
            (replace(PUBLISHED, wan=replace(PUBLISHED.wan, ffn_dim=5120)), 9, 32, 32, FULL),
            (SMALL, 10, 8, 8, FULL),
            (SMALL, 10, 16, 16, HALF),
        ],
    )
    def test_are_those_that_live(self, parameters, frames, height, width, dtype):
        measured = live_bytes_of_pass(parameters, frames, height, width, dtype)
        window = WindowSize(frames, height, width, 17)
        assert activation_bytes(parameters, window, dtype.itemsize) == pytest.approx(measured, rel=TOLERANCE)

    def test_streams_add_up(self):
        one, three = (live_bytes_of_pass(PUBLISHED, 9, 32, 32, HALF, streams) for streams in (1, 3))
        assert three == pytest.approx(3 * one, rel=0.03)

    def test_eight_bits_are_unpacked_a_layer_at_a_time(self):
        little, much = WindowSize(2, 8, 8), WindowSize(21, 64, 64)
        for window, more in ((little, True), (much, False)):
            packed, plain = (activation_bytes(PUBLISHED, window, 2, s) for s in (EIGHT_BITS, AS_COMPUTED))
            assert (packed > plain) is more

    @pytest.mark.parametrize("sizes", [(0, 8, 8), (1, 0, 8), (1, 8, 8, 0)])
    def test_sizes_of_nothing(self, sizes):
        with pytest.raises(ValueError, match="at least 1"):
            WindowSize(*sizes)


class TestWeights:
    def test_are_those_of_the_published_files(self):
        """The facts: 16.39 billion numbers of Wan, 0.840 of the audio branch; some in float32."""
        numbers = model_bytes(PUBLISHED, 4).whole / 4
        assert numbers == pytest.approx(16.39e9 + 0.840e9, rel=0.002)
        halved = model_bytes(PUBLISHED, 2)
        assert halved.whole == pytest.approx(2 * numbers, rel=0.02)
        assert len(halved.blocks) == 40
        assert halved.by_block == halved.between + 2 * halved.blocks[0]
        assert halved.main_memory == 41 * halved.blocks[0]

    @pytest.mark.parametrize("number_bytes", [2, 4])
    @pytest.mark.parametrize("storage", [AS_COMPUTED, EIGHT_BITS])
    def test_are_those_of_a_model_that_is_there(self, number_bytes, storage):
        dtype = HALF if number_bytes == 2 else FULL
        torch.manual_seed(0)
        model = FantasyTalkingModel(SMALL).requires_grad_(False)
        for name, value in model.named_parameters():
            value.data = value.data.to(FULL if stays_in_float32(name) else dtype)
        if storage == EIGHT_BITS:
            store_in_float8(model.transformer.blocks, dtype)
        found = sum(v.numel() * v.element_size() for v in (*model.parameters(), *model.buffers()))
        assert model_bytes(SMALL, number_bytes, storage).whole == found

    def test_eight_bits_are_half(self):
        plain, packed, file = (
            model_bytes(PUBLISHED, 2, one) for one in (AS_COMPUTED, EIGHT_BITS, EIGHT_BIT_FILE)
        )
        assert packed.whole < file.whole < 0.56 * plain.whole
        assert packed.between == file.between == plain.between

    def test_other_storages(self):
        with pytest.raises(ValueError, match="expected one of as computed"):
            model_bytes(PUBLISHED, 2, "4 bits")

    def test_of_what_reads_and_sees(self):
        assert text_encoder_bytes(2).whole == pytest.approx(11.4e9, rel=0.01)
        assert clip_vision_bytes(2).whole == pytest.approx(1.26e9, rel=0.02)
        assert NetworkBytes(5, ()).by_block == NetworkBytes(5, ()).whole == 5

    def test_of_a_text_encoder_in_eight_bits_are_those_of_one_that_is_loaded(self, tmp_path):
        sizes = TextEncoderParameters(40, 16, 2, 2, 8, 32)
        state = eight_bit_state(new_text_encoder(sizes))
        save_file(state, tmp_path / "t5.safetensors")
        for dtype in (HALF, FULL):
            loaded = load_text_encoder(tmp_path / "t5.safetensors", dtype, sizes)
            found = sum(v.numel() * v.element_size() for v in (*loaded.parameters(), *loaded.buffers()))
            assert text_encoder_bytes(dtype.itemsize, True, sizes).whole == found

    def test_of_a_text_encoder_in_eight_bits_are_less(self):
        """4096 numbers of each of 256384 tokens, and a matrix of 10240 x 4096 of each block, stay in 16 bits."""
        plain, packed = text_encoder_bytes(2), text_encoder_bytes(2, True)
        halved = plain.whole - 2 * 4096 * (256384 + 24 * 10240)
        scales = 4 * 24 * (4 * 4096 + 2 * 10240)
        assert plain.whole - packed.whole == pytest.approx(halved / 2 - scales, rel=0.001)
        assert packed.between == plain.between
        assert packed.blocks[0] == pytest.approx(0.61 * plain.blocks[0], rel=0.01)

    def test_keys_are_kept_for_prompts_picture_and_sound(self):
        """The facts: 0.92 GB for one prompt, the picture and the sound of 81 frames; the negative prompt adds 0.42."""
        kept = kept_key_bytes(PUBLISHED, WindowSize(21, 64, 64, 17), 1, 2)
        assert kept == pytest.approx(0.92e9 + 512 * 5120 * 40 * 2 * 2, rel=0.02)


def eight_bit_state(encoder):
    """A file's weights of a text encoder: those of linear layers in 8 bits, with a scale for each row."""
    state = {name: value for name, value in encoder.state_dict().items() if "embed_tokens" not in name}
    for name, layer in encoder.named_modules():
        if type(layer) is torch.nn.Linear:
            state[f"{name}.weight"], state[f"{name}.weight_scale"] = packed_weight(layer.weight)
    return state


def live_bytes_of_coding(parameters, height, width, dtype):
    """The most bytes alive at once while a video of four latent frames is encoded, and while it is decoded."""
    side = parameters.pixels_per_latent
    with torch.device("meta"):
        autoencoder = new_wan_autoencoder(parameters).to("meta", dtype).eval().requires_grad_(False)
        video = torch.empty(1, 3, 1 + 3 * parameters.frames_per_latent, height, width, dtype=dtype)
        latents = torch.empty(1, parameters.z_dim, 4, height // side, width // side)
        counters = [LiveBytes(*autoencoder.parameters(), video, latents) for _ in range(2)]
        with torch.no_grad(), counters[0]:
            encode_video(autoencoder, video)
        with torch.no_grad(), counters[1]:
            cache = fresh_cache(autoencoder.decoder)
            for index in range(4):
                decoded_frame(autoencoder, latents[:, :, index : index + 1], cache, index == 0)
    return [counter.peak for counter in counters]


class TestColours:
    @pytest.mark.parametrize(
        ("parameters", "height", "width", "dtype"),
        [
            (RELEASED_COLOURS, 512, 512, HALF),
            (RELEASED_COLOURS, 128, 192, FULL),
            (SMALL_COLOURS, 64, 64, FULL),
            (SMALL_COLOURS, 128, 64, torch.float16),
            (replace(SMALL_COLOURS, dim_mult=(1, 1, 2), temporal_downsample=(False, True)), 64, 64, HALF),
        ],
    )
    def test_encoding_and_decoding_take_what_lives(self, parameters, height, width, dtype):
        encoding, decoding = live_bytes_of_coding(parameters, height, width, dtype)
        given = (parameters, height, width, dtype.itemsize)
        assert decoding_bytes(*given) == pytest.approx(decoding, rel=TOLERANCE)
        assert encoding_bytes(*given) == pytest.approx(encoding, rel=TOLERANCE)

    def test_tiles_save_memory_where_pictures_are_larger_than_one(self):
        """A tile is 240 by 416 pixels."""
        large, one = (
            [
                decoding_bytes(RELEASED_COLOURS, *side, 2),
                tiled_decoding_bytes(RELEASED_COLOURS, *side, 2, RELEASED_TILES),
            ]
            for side in ((720, 1280), (240, 416))
        )
        assert large[1] < large[0] / 5
        assert one[0] < one[1] < 1.02 * one[0]


class TestPreparation:
    def test_reading_takes_no_more_than_is_said(self):
        assert (
            0.5 * READING_BYTES
            < self.of(new_text_encoder, lambda n: n(input_ids=self.tokens()))
            < READING_BYTES
        )

    def test_reading_with_weights_in_eight_bits_takes_no_more_than_is_said(self):
        """It is an unpacked layer that takes more than reading does without."""

        def packed():
            encoder = new_text_encoder()
            stay = {layer for name, layer in encoder.named_modules() if may_stay_packed(f"{name}.weight")}
            scale = torch.ones(())
            return replace_linear(
                encoder,
                lambda layer: (
                    Float8Linear(layer.weight.to(torch.float8_e4m3fn), None, scale, HALF)
                    if layer in stay
                    else None
                ),
            )

        peak = self.of(packed, lambda n: n(input_ids=self.tokens()))
        assert READING_BYTES < peak < EIGHT_BIT_READING_BYTES

    def test_seeing_takes_no_more_than_is_said(self):
        def see(network):
            network(pixel_values=torch.empty(1, 3, 224, 224, dtype=HALF), output_hidden_states=True)

        assert 0.5 * SEEING_BYTES < self.of(new_clip_vision, see) < SEEING_BYTES

    @staticmethod
    def tokens():
        return torch.empty(1, 512, dtype=torch.long)

    @staticmethod
    def of(make, work):
        with torch.device("meta"):
            network = make().to("meta", HALF)
            counter = LiveBytes(*network.parameters(), *network.buffers())
            with torch.no_grad(), counter:
                work(network)
        return counter.peak
