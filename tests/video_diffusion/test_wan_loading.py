"""Wan's transformer from files: both forms, shards, 8 bits, other models; every fault by its name."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.video_diffusion.wan.float8_linear import (
    Float8Linear,
    packed_weight,
    store_in_float8,
    unpacked_weight,
)
from talking_portrait.core_models.video_diffusion.wan.loading import (
    WAN_ORIGINAL,
    in_diffusers_names,
    load_wan_transformer,
)
from talking_portrait.core_models.video_diffusion.wan.transformer import (
    WAN_I2V_14B,
    Float32Linear,
    WanParameters,
    keep_float32_residual,
    kept_in_float32,
    new_wan_transformer,
)
from talking_portrait.core_models.video_diffusion.wan.weight_shards import weight_files

from .fantasytalking_models import SMALL_WAN

BIG_ENOUGH = 2
"""Dimensions of the weights that fp8 files hold in 8 bits."""


@pytest.fixture(scope="module")
def state():
    """A small transformer's state by diffusers' names."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_wan_transformer(SMALL_WAN).state_dict()


def original_names(state):
    """The state by the names of the original release."""
    tagged = {}
    for pair in WAN_ORIGINAL.items():
        for block in range(SMALL_WAN.num_layers):
            for ending in ("weight", "bias"):
                old, new = (name.replace("{}", str(block)).replace("*", ending) for name in pair)
                tagged[new] = old
    return {tagged.get(name, name): value for name, value in state.items()}


def assert_same(transformer, state, dtype=torch.float32):
    found = transformer.state_dict()
    assert found.keys() == state.keys()
    for name, value in state.items():
        wanted = value if kept_in_float32(name) else value.to(dtype)
        assert torch.equal(found[name], wanted), name


def written(path, tensors):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("renamed", [dict, original_names])
def test_both_forms_of_keys_load(tmp_path, state, renamed, prefix):
    names = renamed(state)
    assert renamed is dict or "blocks.0.self_attn.q.weight" in names
    path = written(tmp_path / "wan.safetensors", {prefix + name: value for name, value in names.items()})
    found = load_wan_transformer(path, torch.float32, SMALL_WAN)
    assert_same(found, state)
    assert not found.training
    assert not any(value.requires_grad for value in found.parameters())


def test_half_precision_leaves_in_float32_what_computes_in_it(tmp_path, state):
    found = load_wan_transformer(written(tmp_path / "wan.safetensors", state), torch.bfloat16, SMALL_WAN)
    assert_same(found, state, torch.bfloat16)
    kept = {name for name, value in found.state_dict().items() if value.dtype == torch.float32}
    assert "proj_out.weight" in kept
    assert "condition_embedder.time_proj.weight" in kept
    assert "blocks.1.norm2.weight" in kept
    assert "blocks.0.attn2.norm_q.weight" not in kept
    assert isinstance(found.proj_out, Float32Linear)
    assert found.rope.freqs_cos.dtype == torch.float32


def sharded(folder, state, count=3, index=True):
    names = sorted(state)
    files = [f"diffusion_pytorch_model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    parts = {file: names[i::count] for i, file in enumerate(files)}
    for file, held in parts.items():
        written(folder / file, {name: state[name] for name in held})
    if index:
        where = {name: file for file, held in parts.items() for name in held}
        path = folder / "diffusion_pytorch_model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return [folder / file for file in files]


class TestShards:
    @pytest.mark.parametrize("index", [True, False])
    @pytest.mark.parametrize("renamed", [dict, original_names])
    def test_a_folder_loads(self, tmp_path, state, renamed, index):
        sharded(tmp_path, renamed(state), index=index)
        (tmp_path / "config.json").write_text("{}")
        assert_same(load_wan_transformer(tmp_path, torch.float32, SMALL_WAN), state)

    def test_index_one_shard_all_shards_and_a_pipelines_folder_are_the_same_files(self, tmp_path, state):
        folder = tmp_path / "transformer"
        folder.mkdir()
        files = tuple(sharded(folder, state))
        index = folder / "diffusion_pytorch_model.safetensors.index.json"
        for given in (tmp_path, folder, index, files[1], files, files[:1], files[:2]):
            assert weight_files(given) == files

    @pytest.mark.parametrize("index", [True, False])
    def test_missing_shards_are_named_and_what_says_so(self, tmp_path, state, index):
        files = sharded(tmp_path, state, 4, index)
        files[1].unlink()
        files[3].unlink()
        says_so = "index.json" if index else "the name of"
        with pytest.raises(FileNotFoundError, match=rf"2 of 4 shards are missing: .*00002.*00004.*{says_so}"):
            load_wan_transformer(tmp_path, torch.float32, SMALL_WAN)

    def test_a_half_downloaded_shard_is_named(self, tmp_path, state):
        files = sharded(tmp_path, state)
        files[2].write_bytes(files[2].read_bytes()[:-100])
        with pytest.raises(UnreadableWeightsError, match=r"00003-of-00003.* is not a whole safetensors file"):
            load_wan_transformer(tmp_path, torch.float32, SMALL_WAN)

    def test_a_key_in_two_shards_is_refused(self, tmp_path, state):
        files = sharded(tmp_path, state)
        written(files[2], state)
        with pytest.raises(WeightMismatchError, match="another shard holds too"):
            load_wan_transformer(tmp_path, torch.float32, SMALL_WAN)

    def test_folders_and_paths_that_say_too_little(self, tmp_path, state):
        with pytest.raises(FileNotFoundError, match="holds no weights"):
            weight_files(tmp_path)
        with pytest.raises(FileNotFoundError, match="there is no weight file"):
            weight_files(tmp_path / "absent.safetensors")
        with pytest.raises(ValueError, match="no weight files are given"):
            weight_files([])
        for name in ("a.safetensors", "b.safetensors"):
            written(tmp_path / name, {"x": torch.zeros(1)})
        with pytest.raises(ValueError, match=r"more than one model: .*a\.safetensors, b\.safetensors"):
            weight_files(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
    def test_an_index_that_is_none_is_refused(self, tmp_path, text):
        path = tmp_path / "wan.safetensors.index.json"
        path.write_text(text)
        with pytest.raises(UnreadableWeightsError, match="not an index of shards"):
            weight_files(path)

    def test_an_index_reads_nothing_outside_of_its_folder(self, tmp_path):
        path = tmp_path / "wan.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
        with pytest.raises(UnreadableWeightsError, match="outside of its folder"):
            weight_files(path)


def test_every_fault_is_named_at_once(tmp_path, state):
    changed = dict(state)
    changed.pop("blocks.1.attn1.to_q.weight")
    changed["blocks.0.attn2.to_k.bias"] = torch.zeros(3)
    changed["strange"] = torch.zeros(1)
    path = written(tmp_path / "wan.safetensors", changed)
    with pytest.raises(WeightMismatchError) as error:
        load_wan_transformer(path, torch.float32, SMALL_WAN)
    for name in ("blocks.1.attn1.to_q.weight", "blocks.0.attn2.to_k.bias is (3,)", "strange"):
        assert name in str(error.value)


class TestFloat8:
    @staticmethod
    def in_float8(state, kind=torch.float8_e4m3fn, scale=None):
        """What an fp8 file of the state holds: all weights with several dimensions in 8 bits; scale: by its number."""
        found = {}
        for name, value in state.items():
            linear = value.ndim == BIG_ENOUGH and name.endswith(".weight")
            found[name] = (value / (scale or 1)).to(kind) if linear else value.half()
            if linear and scale is not None:
                found[name.removesuffix(".weight") + ".scale_weight"] = torch.tensor(scale)
        if scale is not None:
            found["scaled_fp8"] = torch.zeros(0, dtype=kind)
        return found

    @pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
    def test_weights_become_the_computing_precision_at_once(self, tmp_path, state, kind):
        tensors = self.in_float8(original_names(state), kind)
        path = written(tmp_path / "wan.safetensors", tensors)
        found = load_wan_transformer(path, torch.bfloat16, SMALL_WAN, keep_float8=False)
        names = in_diffusers_names(tensors, "file")
        assert_same(found, {name: value.float() for name, value in names.items()}, torch.bfloat16)

    @pytest.mark.parametrize("scale", [None, 0.25])
    def test_weights_that_stay_in_8_bits_compute_the_same(self, tmp_path, state, scale):
        path = written(tmp_path / "wan.safetensors", self.in_float8(original_names(state), scale=scale))
        kept, upcast = (
            load_wan_transformer(path, torch.float32, SMALL_WAN, keep_float8=keep) for keep in (True, False)
        )
        assert isinstance(kept.blocks[0].attn1.to_q, Float8Linear)
        assert kept.blocks[1].ffn.net[2].weight.dtype == torch.float8_e4m3fn
        assert isinstance(kept.proj_out, Float32Linear)
        assert kept.proj_out.weight.dtype == torch.float32
        given = (
            torch.randn(1, 36, 2, 4, 4),
            torch.tensor([500.0]),
            torch.randn(1, 512, 8),
            torch.randn(1, 6, 10),
        )
        assert torch.equal(kept(*given, return_dict=False)[0], upcast(*given, return_dict=False)[0])

    def test_scales_are_multiplied_in(self, tmp_path, state):
        path = written(tmp_path / "wan.safetensors", self.in_float8(state, scale=1 / 64))
        found = load_wan_transformer(path, torch.float32, SMALL_WAN, keep_float8=False)
        name = "blocks.0.attn1.to_q.weight"
        torch.testing.assert_close(found.state_dict()[name], state[name], rtol=0.07, atol=1e-3)

    @pytest.mark.parametrize("shape", [(24,), (24, 1)])
    def test_scales_of_rows_and_other_names_of_scales_are_read(self, tmp_path, state, shape):
        name = "blocks.0.attn1.to_q"
        packed, scale = packed_weight(state[f"{name}.weight"])
        changed = state | {f"{name}.weight": packed, f"{name}.weight_scale": scale.reshape(shape)}
        changed[f"{name}.input_scale"] = torch.ones(())
        path = written(tmp_path / "wan.safetensors", changed)
        found = load_wan_transformer(path, torch.float32, SMALL_WAN, keep_float8=False)
        torch.testing.assert_close(found.blocks[0].attn1.to_q.weight, packed.float() * scale)

    @pytest.mark.parametrize(
        ("removed", "added", "message"),
        [
            ("blocks.0.ffn.net.2.scale_weight", {}, r"without a scale: \['blocks.0.ffn.net.2.weight'\]"),
            (None, {"x.scale_weight": torch.ones(())}, r"without a weight: \['x.weight'\]"),
            (
                None,
                {"blocks.0.ffn.net.2.scale_weight": torch.ones(2, 3)},
                r"blocks.0.ffn.net.2.weight has shape \(2, 3\)",
            ),
        ],
    )
    def test_scales_that_are_not_clear_are_refused_by_name(self, tmp_path, state, removed, added, message):
        tensors = self.in_float8(state, scale=0.5)
        tensors.pop(removed, None)
        path = written(tmp_path / "wan.safetensors", tensors | added)
        with pytest.raises(WeightMismatchError, match=message):
            load_wan_transformer(path, torch.float32, SMALL_WAN)

    def test_other_quantisations_are_refused_by_name(self, tmp_path, state):
        def marked(text):
            note = torch.tensor(list(text.encode()), dtype=torch.uint8)
            return written(tmp_path / "wan.safetensors", state | {"blocks.0.attn1.to_q.comfy_quant": note})

        load_wan_transformer(marked('{"format": "float8_e4m3fn"}'), torch.float32, SMALL_WAN)
        with pytest.raises(WeightMismatchError, match=r"blocks\.0\.attn1\.to_q\.comfy_quant says 'nvfp4'"):
            load_wan_transformer(marked('{"format": "nvfp4"}'), torch.float32, SMALL_WAN)
        with pytest.raises(UnreadableWeightsError, match="does not say how it is stored"):
            load_wan_transformer(marked("nonsense"), torch.float32, SMALL_WAN)

    def test_packing_keeps_three_binary_places_and_zeros(self):
        weight = torch.randn(6, 50) * torch.logspace(-4, 4, 6)[:, None]
        weight[2] = 0
        packed, scale = packed_weight(weight)
        found = unpacked_weight(packed, scale, torch.float32)
        error = (found - weight).abs() / weight.abs().amax(1, keepdim=True).clamp(min=1e-30)
        assert error.max() <= 1 / 16
        assert not found[2].any()
        assert torch.isfinite(found).all()

    def test_store_in_float8_packs_plain_layers_only(self):
        layers = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.ReLU(), Float32Linear(3, 2))
        x = torch.randn(5, 4)
        wanted = layers(x)
        packed = store_in_float8(layers, torch.float32)
        assert [type(layer).__name__ for layer in packed] == ["Float8Linear", "ReLU", "Float32Linear"]
        torch.testing.assert_close(packed(x), wanted, atol=0.15, rtol=0.1)


class TestOtherModels:
    def test_unknown_sizes_are_compared_key_by_key(self, tmp_path):
        other = new_wan_transformer(replace(SMALL_WAN, num_attention_heads=4))
        path = written(tmp_path / "wan.safetensors", other.state_dict())
        with pytest.raises(
            WeightMismatchError, match=r"Misshapen: .*blocks\.1\.scale_shift_table is \(1, 6, 48\)"
        ):
            load_wan_transformer(path, torch.float32, SMALL_WAN)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (
                {"patch_embedding.weight": (24, 16, 1, 2, 2)},
                "Wan T2V .text to video; its input has 16 channels",
            ),
            ({"patch_embedding.weight": (1536, 36, 1, 2, 2)}, "Wan 1.3B"),
            ({"patch_embedding.weight": (1536, 16, 1, 2, 2)}, "Wan 1.3B T2V"),
            ({"patch_embedding.weight": (3072, 48, 1, 2, 2)}, "Wan2.2 TI2V 5B"),
            ({"patch_embedding.weight": (24, 52, 1, 2, 2)}, "input has 52 channels, not 36"),
            ({"vace_blocks.0.self_attn.q.weight": (24, 24)}, "Wan VACE"),
            ({"img_emb.emb_pos": (1, 514, 10)}, "FLF2V"),
            ({"blocks.0.attn1.to_q.lora_A.weight": (4, 24)}, "a LoRA"),
            ({"face_adapter.fuser_blocks.0.q_norm.weight": (24,)}, "Wan2.2 Animate"),
            ({"casual_audio_encoder.encoder.conv2.conv.weight": (24,)}, "Wan2.2 S2V"),
            ({"blocks.0.audio_cross_attn.q_linear.weight": (24, 24)}, "MultiTalk or InfiniteTalk"),
            ({"control_adapter.conv.weight": (24, 24)}, "Fun Control Camera"),
            ({"blocks.0.attn2.processor.k_proj.weight": (24, 9)}, "FantasyTalking's audio attention"),
        ],
    )
    @pytest.mark.parametrize("renamed", [dict, original_names])
    def test_known_ones_are_named_with_what_to_load(self, tmp_path, state, renamed, changed, message):
        tensors = renamed(state) | {name: torch.zeros(shape) for name, shape in changed.items()}
        path = written(tmp_path / "wan.safetensors", tensors)
        with pytest.raises(WeightMismatchError, match=f"{message}.* load wan2.1_i2v_480p_14B"):
            load_wan_transformer(path, torch.float32, SMALL_WAN)

    def test_a_network_without_clip_is_named(self, tmp_path, state):
        pictures = ("image_embedder", "add_k_proj", "add_v_proj", "norm_added_k")
        tensors = {name: value for name, value in state.items() if not any(one in name for one in pictures)}
        path = written(tmp_path / "wan.safetensors", tensors)
        with pytest.raises(WeightMismatchError, match=r"Wan2\.2 I2V, which does not look at the picture"):
            load_wan_transformer(path, torch.float32, SMALL_WAN)

    def test_another_kind_of_file_is_refused(self, tmp_path):
        path = written(tmp_path / "vae.safetensors", {"encoder.conv1.weight": torch.zeros(1)})
        with pytest.raises(WeightMismatchError, match="the file of another model"):
            load_wan_transformer(path, torch.float32, SMALL_WAN)
        (tmp_path / "wan.gguf").write_bytes(b"GGUF")
        with pytest.raises(UnreadableWeightsError, match="not a weight file this package reads"):
            load_wan_transformer(tmp_path / "wan.gguf", torch.float32, SMALL_WAN)


class TestParameters:
    def test_they_survive_json(self):
        for parameters in (SMALL_WAN, WAN_I2V_14B):
            assert WanParameters.from_dict(json.loads(json.dumps(parameters.to_dict()))) == parameters
        assert (WAN_I2V_14B.width, WAN_I2V_14B.condition_channels) == (5120, 20)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"num_layers": 0}, "num_layers is 0"),
            ({"ffn_dim": 2.5}, "ffn_dim is 2.5"),
            ({"image_dim": 0}, "image_dim is 0"),
            ({"freq_dim": 15}, "freq_dim is 15, expected an even number"),
            ({"attention_head_dim": 7}, "attention_head_dim is 7"),
            ({"patch_size": (2, 2, 2)}, "a patch has one latent frame"),
            ({"patch_size": (1, 2)}, "patch_size is"),
            ({"in_channels": 16}, "in_channels is 16 and out_channels 16"),
            ({"eps": 0.0}, "eps is 0.0"),
        ],
    )
    def test_sizes_that_do_not_fit_are_refused(self, changed, message):
        with pytest.raises(ValueError, match=message):
            replace(SMALL_WAN, **changed)


def test_the_float32_residual_changes_nothing_in_float32_and_may_be_asked_for_twice():
    transformer = new_wan_transformer(SMALL_WAN).eval().requires_grad_(False)
    given = (
        torch.randn(1, 36, 2, 4, 4),
        torch.tensor([500.0]),
        torch.randn(1, 512, 8),
        torch.randn(1, 6, 10),
    )
    wanted = transformer(*given, return_dict=False)[0]
    for _ in range(2):
        assert keep_float32_residual(transformer) is transformer
        assert torch.equal(transformer(*given, return_dict=False)[0], wanted)
    assert len(transformer.patch_embedding._forward_hooks) == 1


def test_float32_layers_compute_in_float32_under_autocast_and_of_any_precision():
    layer, x = Float32Linear(4, 3), torch.randn(2, 4)
    wanted = torch.nn.functional.linear(x, layer.weight, layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), wanted)
    assert layer(x.bfloat16()).dtype == torch.float32
