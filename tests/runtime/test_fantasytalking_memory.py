"""FantasyTalking's clips and memory: levels, forms of the models and tiles, on a small model and a pretended card."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.core_models.video_diffusion.fantasytalking.memory_plan import (
    SceneSize,
    plan_for,
    scene_estimate,
)
from talking_portrait.core_models.video_diffusion.wan import clip_frames
from talking_portrait.core_models.video_diffusion.wan.float8_linear import Float8Linear
from talking_portrait.core_models.video_diffusion.wan.transformer import new_wan_transformer
from talking_portrait.core_models.wan_types import MEMORY_LEVELS, WanModels
from talking_portrait.runtime import (
    device_memory,
    fantasytalking_clips,
    fantasytalking_encodings,
    fantasytalking_memory,
)
from talking_portrait.runtime.encoding_memory import encoding_memory
from talking_portrait.runtime.fantasytalking_clips import SceneChoices, sampled_clip
from talking_portrait.runtime.fantasytalking_latents import decoded_clip
from talking_portrait.runtime.fantasytalking_memory import holds_float8, planned_model, planned_scene
from talking_portrait.runtime.fantasytalking_models import (
    fantasytalking_model,
    fantasytalking_models,
    parameters_of,
    wan_models,
)
from talking_portrait.runtime.host import host
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.runtime.progress import PreviewedProgress
from talking_portrait.runtime.wan_low_rank import with_low_rank_file
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.portrait import draw_portrait

from ..small_fantasytalking import PARAMETERS, write_small_fantasytalking
from ..small_low_rank import drawn_pairs, pair_tensors, written

PLENTY = 10**12
SIZE = SceneSize(32, 32, 6, 3)
PRETENDED = "meta"
"""A device that is not the CPU, for which blocks may wait in main memory."""


@pytest.fixture
def models_folder(tmp_path, monkeypatch):
    deep = replace(PARAMETERS, wan=replace(PARAMETERS.wan, num_layers=8, ffn_dim=256))
    write_small_fantasytalking(tmp_path / "fantasytalking", parameters=deep)
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
    yield tmp_path
    model_cache().clear()
    encoding_memory().clear()


@pytest.fixture
def free(monkeypatch):
    """Says how many bytes the device and main memory have free."""

    def say(device, main=PLENTY):
        monkeypatch.setattr(fantasytalking_memory, "bytes_for", lambda handles: device)
        monkeypatch.setattr(fantasytalking_memory, "available_main_memory", lambda: main)

    return say


@pytest.fixture
def card(monkeypatch):
    """What is planned is planned for a card that this machine does not have; networks stay on its own device."""
    pretended = SimpleNamespace(in_comfyui=False, device=lambda requested="auto": torch.device("cuda:0"))
    monkeypatch.setattr(fantasytalking_memory, "host", lambda: pretended)


def small_models(**changed):
    return fantasytalking_models(wan_models("mine.safetensors", **changed))


def forms_needed(models, size=SIZE):
    """The least bytes in which the small model is whole, and streamed, with one stream at once."""
    estimate = scene_estimate(planned_model(models, parameters_of(models)), size)
    return [max(estimate.sampling(form, 1), estimate.preparing(form)) for form in (False, True)]


def planned(models, streams=None):
    found, count = planned_scene(models, parameters_of(models), SIZE, streams, 3)
    return found.adapter.cpu_offload, count


def sampled(models, **settings):
    choices = SceneChoices("", "", "whole picture", 0, "automatic", {"frames": 5, **settings})
    progress = PreviewedProgress(host().progress(1))
    return sampled_clip(models, draw_portrait(made_identity(5), 64), choices, progress)


@pytest.mark.usefixtures("models_folder")
class TestPlan:
    def test_is_logged_before_the_run_with_the_level(self, caplog):
        caplog.set_level("INFO", "talking_portrait")
        sampled(small_models(memory="fits in 8 GB"))
        assert "memory (fits in 8 GB): windows of 2 latent frames at 32x32: weights" in caplog.text

    @pytest.mark.usefixtures("card")
    def test_little_memory_means_blocks_in_main_memory(self, free):
        models = small_models()
        whole, streamed = forms_needed(models)
        assert streamed < whole
        free(PLENTY)
        assert planned(models) == (False, 3)
        free(whole)
        assert planned(models) == (False, 1)
        free(whole - 1)
        assert planned(models)[0]
        free(streamed // 2)
        with pytest.raises(ValueError, match="needs at least"):
            planned(models)

    @pytest.mark.usefixtures("card")
    def test_main_memory_counts_where_blocks_wait_there(self, free):
        models = small_models()
        free(forms_needed(models)[0] - 1, main=1000)
        with pytest.raises(ValueError, match="would be streamed from main memory"):
            planned(models)
        free(PLENTY, main=1000)
        assert planned(models) == (False, 3)

    @pytest.mark.usefixtures("card")
    def test_everything_on_the_card_is_that_or_nothing(self, free):
        models = small_models(memory="everything on the card")
        whole, _ = forms_needed(models)
        free(whole)
        assert planned(models) == (False, 1)
        free(whole - 1)
        with pytest.raises(ValueError, match="choose another memory level"):
            planned(models)

    @pytest.mark.usefixtures("card")
    def test_a_level_is_the_most_that_may_be_used(self, free, monkeypatch):
        models = small_models(memory="fits in 8 GB")
        rooms = []
        monkeypatch.setattr(
            "talking_portrait.core_models.video_diffusion.fantasytalking.memory_plan.plan_for",
            lambda model, size, room, *rest: rooms.append(room.device) or plan_for(model, size, room, *rest),
        )
        for count in (PLENTY, 5 * 10**9):
            free(count)
            planned(models)
        assert rooms == [8 * 10**9, 5 * 10**9]

    def test_on_the_cpu_nothing_is_streamed_whatever_the_level(self, free):
        free(10**8)
        assert planned(small_models(memory="fits in 8 GB")) == (False, 3)

    def test_where_memory_cannot_be_told_nothing_is_refused(self, free):
        free(None)
        assert planned(small_models()) == (False, 3)
        assert planned(small_models(), streams=2) == (False, 2)

    @pytest.mark.usefixtures("card")
    def test_a_model_leaves_for_the_same_with_other_loras(self, free, tmp_path):
        free(PLENTY)
        plain = small_models()
        pairs = drawn_pairs(new_wan_transformer(parameters_of(plain).wan))
        wan = with_low_rank_file(
            plain.wan, str(written(tmp_path / "loras" / "a.safetensors", pair_tensors(pairs)))
        )
        other = fantasytalking_models(wan)
        assert planned_model(other, parameters_of(other)).merged
        sampled(plain)
        sampled(other)
        assert [len(handle.low_rank_files) for handle in held(plain)] == [1]

    @pytest.mark.usefixtures("card")
    def test_the_form_of_the_last_clip_leaves_for_that_of_the_next(self, free):
        models = small_models()
        whole, _ = forms_needed(models, SceneSize(32, 32, 2, 2))
        clips, forms = [], []
        for count in (PLENTY, whole - 1):
            free(count)
            clips.append(sampled(models).latents)
            forms.append([handle.cpu_offload for handle in held(models)])
        assert forms == [[False], [True]]
        assert torch.allclose(clips[0], clips[1], atol=1e-4)

    def test_a_clip_that_cannot_fit_is_refused_before_any_network_works(self, free, monkeypatch):
        free(10_000)
        for module, network in (
            (fantasytalking_encodings, "wan_autoencoder"),
            (fantasytalking_clips, "fantasytalking_model"),
        ):
            monkeypatch.setattr(module, network, lambda *_: pytest.fail("a network was loaded"))
        with pytest.raises(ValueError, match="needs at least"):
            sampled(small_models())


def held(models):
    return [one for one in model_cache().loaded_bytes() if one.path == models.adapter.path]


@pytest.mark.usefixtures("models_folder")
class TestForms:
    def test_streamed_blocks_wait_in_main_memory(self, monkeypatch):
        monkeypatch.setattr(host(), "device", lambda requested="auto": torch.device(PRETENDED))
        models = small_models()
        models = replace(models, adapter=model_cache().offloaded_handle(models.adapter))
        with fantasytalking_model(models) as model:
            assert {one.device.type for one in model.transformer.blocks.parameters()} == {"cpu"}
            assert next(model.parameters()).device.type == PRETENDED
            assert model.transformer.patch_embedding.weight.device.type == PRETENDED
        blocks = sum(one.nbytes for one in model.transformer.blocks.parameters())
        assert device_memory.bytes_in_main_memory((models.adapter,)) == blocks
        assert device_memory.bytes_in_main_memory((ModelHandle("other", "elsewhere"),)) == 0

    def test_eight_bits_are_another_model_that_is_nearly_the_same(self):
        plain, packed = small_models(), small_models(eight_bits=True)
        assert plain.adapter != packed.adapter
        assert planned_model(packed, parameters_of(packed)).storage == "8 bits"
        with fantasytalking_model(packed) as model:
            linear = [one for one in model.transformer.blocks.modules() if isinstance(one, torch.nn.Linear)]
            assert {type(one) for one in linear} == {Float8Linear}
        clips = [sampled(one).latents for one in (plain, packed)]
        assert 0 < float((clips[0] - clips[1]).norm() / clips[0].norm()) < 0.1

    def test_levels_there_are_not(self):
        with pytest.raises(ValueError, match="memory is '6 GB', expected one of automatic, everything"):
            small_models(memory="6 GB")
        assert [small_models(memory=level).wan.memory for level in MEMORY_LEVELS] == list(MEMORY_LEVELS)

    def test_the_form_is_no_part_of_what_is_remembered(self, models_folder):
        handle = ModelHandle("text", "nowhere")
        encoding_memory().remembered((handle, "hello"), lambda: torch.ones(2, 3))
        streamed = ModelHandle("text", "nowhere", cpu_offload=True)
        wan = WanModels("wan", handle, handle, streamed)
        assert torch.equal(fantasytalking_encodings.encoded_prompts(wan, "hello").prompt, torch.ones(2, 3))


def test_files_in_eight_bits_are_known_by_their_header(tmp_path):
    weights = {"blocks.0.ffn.0.weight": torch.ones(2, 2)}
    save_file(weights, tmp_path / "plain.safetensors")
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in weights.items()}, tmp_path / "packed.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    (tmp_path / "other.pth").write_bytes(b"")
    known = {path.stem: holds_float8(str(path)) for path in tmp_path.iterdir()}
    assert known == {"plain": False, "packed": True, "broken": False, "other": False}
    assert not holds_float8(str(tmp_path / "missing.safetensors"))


@pytest.mark.usefixtures("models_folder")
def test_a_text_encoder_is_planned_for_as_its_header_says(tmp_path):
    """The header alone: the files hold one matrix, and no encoder."""
    models = small_models()
    assert not planned_model(models, parameters_of(models)).text_encoder
    planned_bytes = []
    for name, dtype in (("plain", torch.bfloat16), ("packed", torch.float8_e4m3fn)):
        path = tmp_path / f"{name}.safetensors"
        save_file({"blocks.0.attn.q.weight": torch.ones(2, 2).to(dtype)}, path)
        handle = ModelHandle("wan", str(path), "bfloat16", further_paths=(str(tmp_path / "tokenizer.json"),))
        reading = replace(models, wan=replace(models.wan, text_encoder=handle))
        plan = planned_model(reading, parameters_of(models))
        assert plan.eight_bit_text is (name == "packed")
        assert plan.storage == "as computed"
        planned_bytes.append(scene_estimate(replace(plan, dtype="bfloat16"), SIZE).text_encoder.whole)
    assert planned_bytes == pytest.approx([11.36e9, 7.74e9], rel=0.001)


def test_models_in_main_memory_make_way_for_a_large_one(tmp_path, monkeypatch):
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(1000))
    forgotten = []
    monkeypatch.setattr(model_cache(), "forget", forgotten.append)
    for available in (None, 1000, 999):
        monkeypatch.setattr(fantasytalking_memory, "available_main_memory", lambda count=available: count)
        fantasytalking_memory.make_main_memory_room(ModelHandle("large", str(path)))
    (unwanted,) = forgotten
    assert unwanted(ModelHandle("streamed", "", cpu_offload=True))
    assert not unwanted(ModelHandle("whole", ""))


@pytest.mark.usefixtures("models_folder")
class TestDecoding:
    @pytest.fixture
    def tiled(self, monkeypatch):
        """Whether clips were decoded in tiles."""
        seen, decode = [], clip_frames.decoded_frames

        def spy(*given):
            seen.append(given[5] is not None)
            return decode(*given)

        monkeypatch.setattr(clip_frames, "decoded_frames", spy)
        return seen

    def decode(self, models, tiling="automatic"):
        return decoded_clip(models, {"samples": torch.zeros(1, 4, 2, 4, 4)}, 0.0, tiling)

    def test_takes_whole_frames_where_they_fit(self, free, tiled, caplog):
        caplog.set_level("INFO", "talking_portrait")
        models, latents = small_models(), torch.zeros(4, 2, 4, 4)
        whole, _ = fantasytalking_memory._decoding_bytes(models.wan.autoencoder, latents)
        for count in (whole, whole - 1):
            free(count)
            self.decode(models)
        assert tiled == [False, True]
        assert "decoding whole frames" in caplog.text
        assert "tiles differ slightly" in caplog.text

    def test_what_was_chosen_and_what_cannot_be_told(self, free, tiled):
        models = small_models()
        free(1)
        self.decode(models, "off")
        self.decode(models, "release")
        free(None)
        self.decode(models)
        self.decode(models, "release")
        assert tiled == [False, True, False, True]
        with pytest.raises(ValueError, match="tiling is 'some'"):
            self.decode(models, "some")

    def test_the_transformer_leaves_only_when_its_memory_is_wanted(self, free, monkeypatch):
        models = small_models()
        with fantasytalking_model(models):
            pass
        free(PLENTY)
        self.decode(models)
        assert held(models)
        free(1)
        self.decode(models)
        assert not held(models)
