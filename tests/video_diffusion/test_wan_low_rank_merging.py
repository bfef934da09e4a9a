"""LoRA files merged into Wan's weights: what it then computes, in every precision, 8 bits, and of several files."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.low_rank_file import LowRankFile
from talking_portrait.core_models.strict_loading import WeightMismatchError
from talking_portrait.core_models.video_diffusion.wan.float8_linear import (
    Float8Linear,
    packed_weight,
    repacked_weight,
    store_in_float8,
    unpacked_weight,
)
from talking_portrait.core_models.video_diffusion.wan.loading import load_wan_transformer
from talking_portrait.core_models.video_diffusion.wan.low_rank_files import changeable_weights
from talking_portrait.core_models.video_diffusion.wan.low_rank_merging import merge_low_rank_files
from talking_portrait.core_models.video_diffusion.wan.transformer import kept_in_float32

from ..small_low_rank import drawn_pairs, pair_tensors, written
from .fantasytalking_models import RELEASE_LIKE, SMALL_WAN, evaluated, new_inputs
from .low_rank_checks import LAYERS, RANK, expect_changed, merged, products


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(1, 5),
    strength=st.floats(-2, 2).filter(bool),
    alpha=st.none() | st.floats(0.25, 4),
    layers=st.sets(st.sampled_from(sorted(LAYERS)), min_size=1),
)
def test_merged_it_computes_what_a_branch_beside_each_layer_would(
    tmp_path_factory, untouched, seed, rank, strength, alpha, layers
):
    """W x + b + strength (alpha / rank) up (down x), in every chosen layer at once."""
    pairs = drawn_pairs(untouched.transformer, sorted(layers), rank, seed)
    tensors = pair_tensors(pairs)
    if alpha is not None:
        tensors |= {f"diffusion_model.{layer}.alpha": torch.tensor(alpha) for layer in pairs}
    path = written(tmp_path_factory.mktemp("lora") / "x.safetensors", tensors)
    branched, found, inputs = copy.deepcopy(untouched), copy.deepcopy(untouched), new_inputs(RELEASE_LIKE)
    factor = strength * (1.0 if alpha is None else alpha / rank)
    for layer, (down, up) in pairs.items():

        def beside(_, given, output, down=down, up=up):
            return output + factor * (given[0].float() @ down.T @ up.T)

        branched.transformer.get_submodule(layer).register_forward_hook(beside)
    merged(found, (str(path), strength))
    wanted = evaluated(branched, inputs)
    torch.testing.assert_close(
        evaluated(found, inputs), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
    )


class TestMerging:
    def test_what_comes_out_changes_and_what_was_there_is_not_written(
        self, tmp_path, model, untouched, pairs
    ):
        before = model.transformer.state_dict()
        path = written(tmp_path / "x.safetensors", pair_tensors(pairs))
        merged(model, (str(path),))
        inputs = new_inputs(RELEASE_LIKE)
        assert not torch.allclose(evaluated(model, inputs), evaluated(untouched, inputs), atol=1e-3)
        for name, value in untouched.transformer.state_dict().items():
            assert torch.equal(before[name], value), name
        assert not any(value.requires_grad for value in model.parameters())

    def test_strength_0_changes_no_bit_and_reads_nothing(self, model, untouched):
        found = merged(model, ("none.safetensors", 0.0), ("none.safetensors", 0))
        assert all(
            torch.equal(value, untouched.transformer.state_dict()[name]) for name, value in found.items()
        )

    def test_two_add_up(self, tmp_path, model, untouched):
        both = [drawn_pairs(untouched.transformer, LAYERS, RANK, seed) for seed in (1, 2)]
        files = [
            written(tmp_path / f"{number}.safetensors", pair_tensors(one)) for number, one in enumerate(both)
        ]
        first, second = products(both[0], 0.5), products(both[1], -2.0)
        wanted = {name: first[name] + second[name] for name in first}
        found = merged(model, (str(files[0]), 0.5), (str(files[1]), -2.0))
        expect_changed(found, untouched, wanted)

    def test_of_two_the_second_of_which_does_not_fit_none_is_merged(self, tmp_path, model, untouched, pairs):
        good = written(tmp_path / "good.safetensors", pair_tensors(pairs))
        bad = written(tmp_path / "bad.safetensors", {"x.diff": torch.zeros(1)})
        with pytest.raises(WeightMismatchError, match=r"bad\.safetensors"):
            merged(model, (str(good),), (str(bad),))
        expect_changed(model.transformer.state_dict(), untouched, {})

    def test_each_block_is_finished_once_it_is_merged(self, tmp_path, model, untouched, pairs):
        path = written(tmp_path / "x.safetensors", pair_tensors(pairs))
        seen = []

        def finish(block):
            seen.append(block.attn1.to_q.weight.clone())

        found = merged(model, (str(path),), finish=finish)
        assert [
            torch.equal(value, found[f"blocks.{i}.attn1.to_q.weight"]) for i, value in enumerate(seen)
        ] == [
            True,
            True,
        ]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_rounded_once_and_float32_stays(self, tmp_path, untouched, pairs, dtype):
        state = changeable_weights(untouched.transformer)
        wan = written(tmp_path / "wan.safetensors", {name: value.detach() for name, value in state.items()})
        transformer = load_wan_transformer(wan, dtype, SMALL_WAN)
        before = {name: value.clone() for name, value in transformer.state_dict().items()}
        mapped = load_wan_transformer(wan, torch.float32, SMALL_WAN)
        path = written(tmp_path / "x.safetensors", pair_tensors(pairs))
        for one in (transformer, mapped):
            merge_low_rank_files(one, [LowRankFile(str(path))])
        assert torch.equal(
            load_wan_transformer(wan, torch.float32, SMALL_WAN).proj_out.weight, state["proj_out.weight"]
        )
        added = products(pairs)
        for name, value in transformer.state_dict().items():
            wanted = (before[name].float() + added.get(name, 0)).to(before[name].dtype)
            assert value.dtype == (torch.float32 if kept_in_float32(name) else dtype), name
            assert torch.equal(value, wanted), name

    def test_too_large_for_half_precision_says_so(self, tmp_path, model):
        layer = model.transformer.blocks[0].attn1.to_q
        layer.half()
        difference = {"blocks.0.self_attn.q.diff": torch.full(layer.weight.shape, 1e5)}
        path = written(tmp_path / "x.safetensors", difference)
        with pytest.raises(
            ValueError, match=r"blocks\.0\.attn1\.to_q\.weight, merged .* too large for float16"
        ):
            merged(model, (str(path),))


def in_8_bits(weight, kind, form):
    """A weight as a file in 8 bits has it: plain, with one scale, or with one for each row."""
    scale = {"plain": None, "one": weight.abs().max() / 200, "rows": packed_weight(weight)[1]}[form]
    return (weight if scale is None else weight / scale).to(kind), scale


class TestFloat8:
    @pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
    @pytest.mark.parametrize("form", ["plain", "one", "rows"])
    def test_a_small_change_is_kept_in_the_mean(self, kind, form):
        """A tenth of a step: rounded to the nearest it would be gone. Rows that do not change keep their bits."""
        generator = torch.Generator().manual_seed(0)
        weight, scale = in_8_bits(torch.randn(256, 256, generator=generator), kind, form)
        known = unpacked_weight(weight, scale, torch.float32)
        change = 0.1 * torch.finfo(kind).eps * torch.randn(256, 256, generator=generator)
        change[128:] = 0
        stored, new_scale = repacked_weight(known + change, scale, kind, generator)
        found = unpacked_weight(stored, new_scale, torch.float32)
        kept = float(((found - known) * change).sum() / change.square().sum())
        assert kept == pytest.approx(1, abs=0.1)
        assert stored.dtype == kind
        assert (scale is None) == (new_scale is None)
        if scale is not None:
            assert new_scale.shape == scale.shape
        assert torch.equal(stored[128:].float(), weight[128:].float())
        nearest = known + change if scale is None else (known + change) / scale
        nearest = unpacked_weight(nearest.to(kind), scale, torch.float32)
        assert float(((nearest - known) * change).sum() / change.square().sum()) < 0.5

    @pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
    def test_never_further_than_a_step_and_smallest_numbers_too(self, kind):
        weight = torch.randn(64, 64) * torch.logspace(-8, 1, 64)
        stored, _ = repacked_weight(weight, None, kind, torch.Generator())
        numbers = torch.finfo(kind)
        step = numbers.eps * weight.abs().clamp(min=numbers.smallest_normal)
        assert bool(((stored.float() - weight).abs() <= step).all())
        again, _ = repacked_weight(stored.float(), None, kind, torch.Generator())
        assert torch.equal(again.float(), stored.float())

    def test_scales_grow_where_they_must(self):
        weight = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
        for scale in (torch.tensor(1e-3), torch.tensor([[1e-3], [1.0]])):
            stored, found = repacked_weight(weight, scale, torch.float8_e4m3fn, torch.Generator())
            assert bool((found >= scale).all())
            torch.testing.assert_close(
                unpacked_weight(stored, found, torch.float32), weight, rtol=0.13, atol=0
            )
        assert float(found[1]) == 1.0

    @pytest.mark.parametrize("scale", [torch.zeros(()), torch.tensor([[0.0], [1.0]])])
    def test_zeros_with_a_scale_of_0_stay_zeros(self, scale):
        weight = torch.zeros(2, 2)
        stored, found = repacked_weight(weight, scale, torch.float8_e4m3fn, torch.Generator())
        assert torch.equal(unpacked_weight(stored, found, torch.float32), weight)
        assert found.shape == scale.shape

    @pytest.mark.parametrize("form", ["plain", "one", "rows"])
    def test_layers_in_8_bits_stay_so_with_their_changes(self, tmp_path, model, untouched, pairs, form):
        for block in model.transformer.blocks:
            for name in ("to_q", "to_k", "to_v"):
                layer = getattr(block.attn1, name)
                weight, scale = in_8_bits(layer.weight, torch.float8_e4m3fn, form)
                setattr(block.attn1, name, Float8Linear(weight, layer.bias, scale, torch.float32))
        before = copy.deepcopy(model)
        tensors = pair_tensors(pairs) | {"blocks.0.self_attn.q.diff_b": torch.ones(24)}
        path = written(tmp_path / "x.safetensors", tensors)
        again = copy.deepcopy(model)
        found = merged(model, (str(path),))
        for layer, (down, up) in pairs.items():
            was, now = before.transformer.get_submodule(layer), model.transformer.get_submodule(layer)
            assert type(was) is type(now)
            if not isinstance(now, Float8Linear):
                continue
            assert now.weight.dtype == torch.float8_e4m3fn
            wanted = unpacked_weight(was.weight, was.weight_scale, torch.float32) + up @ down
            largest = wanted.abs().amax() if form == "one" else wanted.abs().amax(1, keepdim=True)
            error = unpacked_weight(now.weight, now.weight_scale, torch.float32) - wanted
            assert bool((error.abs() <= largest / 8).all())
        bias = untouched.transformer.blocks[0].attn1.to_q.bias
        torch.testing.assert_close(model.transformer.blocks[0].attn1.to_q.bias, bias + 1)
        for name, value in merged(again, (str(path),)).items():
            assert torch.equal(value.float(), found[name].float()), name

    def test_a_plain_weight_that_no_longer_fits_is_named(self, tmp_path, model):
        layer = model.transformer.blocks[0].attn1.to_q
        packed = Float8Linear(layer.weight.to(torch.float8_e4m3fn), layer.bias, None, torch.float32)
        model.transformer.blocks[0].attn1.to_q = packed
        difference = {"blocks.0.self_attn.q.diff": torch.full(layer.weight.shape, 600.0)}
        path = written(tmp_path / "x.safetensors", difference)
        with pytest.raises(
            ValueError, match=r"to_q\.weight, merged with its LoRAs, is too large for float8_e4m3fn"
        ):
            merged(model, (str(path),))

    def test_stored_in_8_bits_after_merging(self, tmp_path, model, untouched, pairs):
        """Weights that become 8 bits afterwards are those of the sum, rounded as without a LoRA."""
        path = written(tmp_path / "x.safetensors", pair_tensors(pairs))
        found = merged(model, (str(path),), finish=lambda block: store_in_float8(block, torch.float32))
        layer = "blocks.0.attn1.to_q"
        weight, scale = packed_weight(
            untouched.transformer.get_submodule(layer).weight + products(pairs)[f"{layer}.weight"]
        )
        assert torch.equal(found[f"{layer}.weight"].float(), weight.float())
        assert torch.equal(found[f"{layer}.weight_scale"], scale)
