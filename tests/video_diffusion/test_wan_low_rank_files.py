"""LoRA files for Wan's transformer: every layout by its closed form; every fault by its name."""

import json

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.low_rank_file import LowRankFile
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError, map_keys
from talking_portrait.core_models.video_diffusion.wan.loading import WAN_ORIGINAL, in_diffusers_names
from talking_portrait.core_models.video_diffusion.wan.low_rank_files import (
    changeable_weights,
    read_low_rank_file,
    refuse_other_low_rank_files,
    wan_weight_shapes,
)
from talking_portrait.core_models.video_diffusion.wan.transformer import WAN_I2V_14B

from ..small_low_rank import drawn_pairs, pair_tensors, written
from .fantasytalking_models import SMALL_WAN
from .low_rank_checks import LAYERS, RANK, expect_changed, merged, products

PREFIXES = (
    "",
    "diffusion_model.",
    "model.diffusion_model.",
    "transformer.",
    "base_model.model.",
    "pipe.dit.",
)
PAIR_ENDINGS = (
    ("lora_A.weight", "lora_B.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"),
    ("lora_down.weight", "lora_up.weight"),
)


class TestLayouts:
    @pytest.mark.parametrize("endings", PAIR_ENDINGS)
    @pytest.mark.parametrize("prefix", PREFIXES)
    @pytest.mark.parametrize("original", [True, False])
    def test_pairs(self, tmp_path, model, untouched, pairs, original, prefix, endings):
        named = {LAYERS[layer] if original else layer: pair for layer, pair in pairs.items()}
        path = written(tmp_path / "x.safetensors", pair_tensors(named, endings, prefix + "{}"))
        expect_changed(merged(model, (str(path), 0.5)), untouched, products(pairs, 0.5))

    @pytest.mark.parametrize("prefix", ["lora_unet_", "lora_unet__", "lora_transformer_", "lycoris_"])
    @pytest.mark.parametrize("original", [True, False])
    def test_names_with_underscores_for_dots(self, tmp_path, model, untouched, pairs, original, prefix):
        named = {
            (LAYERS[layer] if original else layer).replace(".", "_"): pair for layer, pair in pairs.items()
        }
        tensors = pair_tensors(named, PAIR_ENDINGS[2], prefix + "{}")
        tensors |= {f"{prefix}{name}.alpha": torch.tensor(1.0) for name in named}
        path = written(tmp_path / "x.safetensors", tensors)
        expect_changed(merged(model, (str(path), 1.0)), untouched, products(pairs, 1 / RANK))

    @pytest.mark.parametrize("alpha", [torch.tensor(6.0), torch.tensor([6.0]), torch.tensor(6)])
    def test_alpha(self, tmp_path, model, untouched, pairs, alpha):
        first = next(iter(pairs))
        tensors = pair_tensors(pairs) | {f"diffusion_model.{first}.alpha": alpha}
        path = written(tmp_path / "x.safetensors", tensors)
        wanted = products(pairs) | products({first: pairs[first]}, 6 / RANK)
        expect_changed(merged(model, (str(path),)), untouched, wanted)

    def test_alpha_that_diffusers_states_beside_the_tensors(self, tmp_path, model, untouched, pairs):
        first = next(iter(pairs))
        tensors = pair_tensors(pairs, form="transformer.{}") | {f"transformer.{first}.alpha": torch.ones(())}
        entry = json.dumps(
            {"transformer.lora_alpha": 8, "transformer.r": RANK, "transformer.use_rslora": False}
        )
        path = written(tmp_path / "x.safetensors", tensors, {"lora_adapter_metadata": entry})
        wanted = products(pairs, 8 / RANK) | products({first: pairs[first]}, 1 / RANK)
        expect_changed(merged(model, (str(path),)), untouched, wanted)

    def test_differences_of_weights_biases_norms_and_modulation(self, tmp_path, model, untouched):
        """As in LoRAs that were taken from a whole model: what is no product comes as it is."""
        keys = {
            "blocks.0.norm3.diff": "blocks.0.norm2.weight",
            "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
            "blocks.1.self_attn.norm_q.diff": "blocks.1.attn1.norm_q.weight",
            "blocks.1.cross_attn.norm_k_img.diff": "blocks.1.attn2.norm_added_k.weight",
            "blocks.0.self_attn.k.diff_b": "blocks.0.attn1.to_k.bias",
            "blocks.1.diff_m": "blocks.1.scale_shift_table",
            "blocks.0.modulation.diff": "blocks.0.scale_shift_table",
            "head.diff_m": "scale_shift_table",
            "head.head.diff": "proj_out.weight",
            "img_emb.proj.0.diff_b": "condition_embedder.image_embedder.norm1.bias",
            "patch_embedding.diff": "patch_embedding.weight",
            "patch_embedding.diff_b": "patch_embedding.bias",
        }
        weights, drawn = untouched.transformer.state_dict(), torch.Generator().manual_seed(0)
        values = {key: torch.randn(weights[name].shape, generator=drawn) for key, name in keys.items()}
        tensors = {f"diffusion_model.{key}": value for key, value in values.items()}
        path = written(tmp_path / "x.safetensors", tensors)
        wanted = {name: -0.5 * values[key] for key, name in keys.items()}
        expect_changed(merged(model, (str(path), -0.5)), untouched, wanted)

    def test_a_convolution(self, tmp_path, model, untouched):
        weight = untouched.transformer.patch_embedding.weight
        down, up = torch.randn(RANK, *weight.shape[1:]), torch.randn(len(weight), RANK, 1, 1, 1)
        named = {"patch_embedding": (down, up)}
        path = written(tmp_path / "x.safetensors", pair_tensors(named, PAIR_ENDINGS[2]))
        added = torch.einsum("or,rcthw->octhw", up.flatten(1), down)
        expect_changed(merged(model, (str(path),)), untouched, {"patch_embedding.weight": added})

    def test_a_pair_and_a_difference_of_one_weight_add_up(self, tmp_path, model, untouched, pairs):
        layer = "blocks.0.attn1.to_q"
        pair = {layer: pairs[layer]}
        difference = torch.randn(untouched.transformer.get_submodule(layer).weight.shape)
        tensors = pair_tensors(pair) | {f"{layer}.diff": difference}
        path = written(tmp_path / "x.safetensors", tensors)
        wanted = {f"{layer}.weight": products(pair)[f"{layer}.weight"] + difference}
        expect_changed(merged(model, (str(path),)), untouched, wanted)

    def test_the_published_size_takes_every_key_of_a_file_of_all_its_layers(self, golden_folder):
        """By shapes alone: names and shapes of all 1303 weights are those of the published file."""
        path = golden_folder / "fantasytalking" / "state_dict_wan21_i2v_14b.json"
        if not path.is_file():
            pytest.skip(f"the key list {path} is not here")
        shapes = json.loads(path.read_text())
        published = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        weights = wan_weight_shapes(WAN_I2V_14B)
        wanted = in_diffusers_names(published, "published")
        assert {name: value.shape for name, value in weights.items()} == {
            name: value.shape for name, value in wanted.items()
        }

    def test_shapes_without_memory_are_those_of_the_network(self, untouched):
        weights = changeable_weights(untouched.transformer)
        shapes = wan_weight_shapes(SMALL_WAN)
        assert all(value.is_meta for value in shapes.values())
        assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in weights.items()}


class TestFaults:
    def expect(self, tmp_path, model, tensors, *texts, metadata=None):
        """By the weights and by the header alone the same is said."""
        path = written(tmp_path / "x.safetensors", tensors, metadata)
        with pytest.raises(WeightMismatchError) as found:
            read_low_rank_file(path, changeable_weights(model.transformer))
        with pytest.raises(WeightMismatchError) as by_header:
            refuse_other_low_rank_files(path, SMALL_WAN)
        assert str(by_header.value) == str(found.value)
        assert "x.safetensors" in str(found.value)
        for text in texts:
            assert text in str(found.value)
        return str(found.value)

    def test_all_are_named_at_once(self, tmp_path, untouched, pairs):
        tensors = pair_tensors(pairs, form="{}") | {
            "strange.lora_A.weight": torch.zeros(2, 3),
            "blocks.2.attn1.to_q.diff_b": torch.zeros(24),
            "blocks.0.self_attn.q.lora_up.weight": torch.zeros(24, 2),
            "blocks.1.attn1.to_q.lora_A.weight": torch.zeros(2, 24),
            "blocks.1.attn1.to_k.alpha": torch.ones(()),
            "blocks.0.norm3.diff": torch.zeros(25),
            "blocks.0.attn1.to_q.alpha": torch.ones(2),
            "blocks.1.attn2.to_q.lora_A.weight": torch.zeros(2, 24),
            "blocks.1.attn2.to_q.lora_B.weight": torch.zeros(24, 3),
            "blocks.1.norm3.lora_A.weight": torch.zeros(2, 24),
            "blocks.1.norm3.lora_B.weight": torch.zeros(24, 2),
            "blocks.0.attn2.processor.k_proj.diff": torch.zeros(24, 9),
        }
        message = self.expect(
            *(tmp_path, untouched, tensors),
            "blocks.0.norm3.diff is (25,), for blocks.0.norm2.weight of (24,)",
            "blocks.0.attn1.to_q.alpha is (2,), expected one number",
            "blocks.1.attn2.to_q.lora_A.weight is (2, 24) and blocks.1.attn2.to_q.lora_B.weight (24, 3), for "
            "blocks.1.attn2.to_q.weight of (24, 24)",
            "for blocks.1.norm2.weight of (24,)",
            "Load a LoRA that was made for this model",
        )
        unknown = message.partition("no place in it: [")[2].partition("]")[0]
        assert unknown == (
            "'blocks.0.attn2.processor.k_proj.diff', 'blocks.0.self_attn.q.lora_up.weight', "
            "'blocks.2.attn1.to_q.diff_b', 'strange.lora_A.weight'"
        )
        lone = message.partition("half is missing: [")[2].partition("]")[0]
        assert lone == "'blocks.1.attn1.to_k.alpha', 'blocks.1.attn1.to_q.lora_A.weight'"

    def test_the_lora_of_a_wan_of_another_width(self, tmp_path, untouched):
        pair = {"blocks.0.self_attn.q": (torch.zeros(2, 1536), torch.zeros(1536, 2))}
        text = "It was made for Wan 1.3B: its layers take 1536 numbers, this model's 24."
        self.expect(tmp_path, untouched, pair_tensors(pair), text)

    def test_the_lora_of_another_model(self, tmp_path, untouched):
        pair = {"single_blocks.0.linear1": (torch.zeros(2, 24), torch.zeros(24, 2))}
        self.expect(tmp_path, untouched, pair_tensors(pair), "No key of it is of a layer of Wan")

    def test_text_to_video_leaves_the_layers_for_pictures_alone(self, tmp_path, model, untouched):
        """Such a file fits where it changes the layers that both have."""
        pairs = drawn_pairs(untouched.transformer)
        path = written(tmp_path / "x.safetensors", pair_tensors(pairs))
        expect_changed(merged(model, (str(path),)), untouched, products(pairs))
        taken = {"diffusion_model.patch_embedding.diff": torch.zeros(24, 16, 1, 2, 2)}
        self.expect(
            tmp_path, untouched, pair_tensors(pairs) | taken, "patch_embedding.weight of (24, 36, 1, 2, 2)"
        )

    def test_a_whole_model(self, tmp_path, untouched):
        state = {name: value.detach() for name, value in changeable_weights(untouched.transformer).items()}
        self.expect(tmp_path, untouched, state, "holds no LoRA", "named in transformer_file of Load Wan")

    @pytest.mark.parametrize(
        ("key", "kind"), [("q.hada_w1_a", "LoHa"), ("q.lokr_w1", "LoKr"), ("q.dora_scale", "DoRA")]
    )
    def test_other_kinds_of_additions(self, tmp_path, untouched, pairs, key, kind):
        other = {f"blocks.0.self_attn.{key}": torch.zeros(2, 2)}
        text = f"It holds {kind}, which is not read: pairs and differences are."
        self.expect(tmp_path, untouched, other, "holds no LoRA", text)
        self.expect(tmp_path, untouched, other | pair_tensors(pairs), "does not fit this Wan", text)

    def test_scalings_that_are_not_read(self, tmp_path, untouched, pairs):
        entry = {"lora_adapter_metadata": json.dumps({"transformer.use_rslora": True})}
        self.expect(tmp_path, untouched, pair_tensors(pairs), "scaled by use_rslora", metadata=entry)
        entry = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": "much"})}
        self.expect(tmp_path, untouched, pair_tensors(pairs), "is 'much', expected a finite", metadata=entry)

    def test_an_entry_that_cannot_be_read(self, tmp_path, untouched, pairs):
        for text in ("{", "3"):
            path = written(tmp_path / "x.safetensors", pair_tensors(pairs), {"lora_adapter_metadata": text})
            with pytest.raises(UnreadableWeightsError, match="its lora_adapter_metadata cannot be read"):
                refuse_other_low_rank_files(path, SMALL_WAN)

    def test_an_alpha_that_is_no_number(self, tmp_path, untouched, pairs):
        tensors = pair_tensors(pairs) | {"blocks.0.attn1.to_q.alpha": torch.tensor(torch.nan)}
        path = written(tmp_path / "x.safetensors", tensors)
        with pytest.raises(WeightMismatchError, match=r"to_q\.alpha is nan, expected a finite number"):
            read_low_rank_file(path, changeable_weights(untouched.transformer))

    def test_numbers_that_are_none_are_found_when_they_are_merged(self, tmp_path, model):
        path = written(tmp_path / "x.safetensors", {"blocks.0.norm3.diff": torch.full((24,), torch.inf)})
        with pytest.raises(ValueError, match=r"blocks\.0\.norm2\.weight, merged .* not a number"):
            merged(model, (str(path),))

    def test_files_that_are_none(self, tmp_path, untouched, pairs):
        weights = changeable_weights(untouched.transformer)
        torch.save(pair_tensors(pairs), tmp_path / "x.pt")
        whole = written(tmp_path / "x.safetensors", pair_tensors(pairs))
        (tmp_path / "half.safetensors").write_bytes(whole.read_bytes()[:-10])
        (tmp_path / "page.safetensors").write_text("<!doctype html>")
        for name, error, message in (
            ("none.safetensors", FileNotFoundError, "there is no weight file"),
            ("x.pt", UnreadableWeightsError, "LoRAs are read from these only"),
            ("half.safetensors", UnreadableWeightsError, "not a whole safetensors file"),
            ("page.safetensors", UnreadableWeightsError, "a web page"),
        ):
            with pytest.raises(error, match=message):
                read_low_rank_file(tmp_path / name, weights)
            with pytest.raises(error, match=message):
                refuse_other_low_rank_files(tmp_path / name, SMALL_WAN)

    def test_an_empty_file(self, tmp_path, untouched):
        save_file({}, tmp_path / "x.safetensors")
        with pytest.raises(WeightMismatchError, match="of its 0 keys none"):
            read_low_rank_file(tmp_path / "x.safetensors", changeable_weights(untouched.transformer))

    @pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", True, None])
    def test_a_strength_that_is_no_number(self, strength):
        with pytest.raises(ValueError, match="strength is"):
            LowRankFile("x", strength)


def test_names_are_told_apart_when_they_are_flattened():
    """No name of a weight, in either form, is another's once its dots are underscores."""
    weights = wan_weight_shapes(SMALL_WAN)
    forms = {*weights, *map_keys(weights, {new: old for old, new in WAN_ORIGINAL.items()}, "Wan")}
    assert len(forms) > 1.5 * len(weights)
    assert len({form.removesuffix(".weight").replace(".", "_") for form in forms}) == len(forms)
