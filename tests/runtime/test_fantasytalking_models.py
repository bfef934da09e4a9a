"""Wan's and FantasyTalking's files as handles: found in every form, missing ones named; networks from the cache."""

import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.low_rank_file import LowRankFile
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.core_models.video_diffusion.fantasytalking import loading
from talking_portrait.core_models.video_diffusion.fantasytalking.parameters import FantasyTalkingParameters
from talking_portrait.core_models.wan_types import FantasyTalkingModels, WanModels
from talking_portrait.nodes import NODE_CLASS_MAPPINGS
from talking_portrait.runtime import fantasytalking_models, model_parts, weight_files
from talking_portrait.runtime.fantasytalking_models import (
    ADAPTER_ROWS,
    FANTASYTALKING_ENTRY,
    PUBLISHED_LISTENING,
    WAN_CHOICE,
    WAN_PARTS,
    adapter_choices,
    fantasytalking_model,
    identity_encoder,
    listening_encoder,
    parameters_of,
    wan_autoencoder,
    wan_choices,
    wan_models,
    wan_stamp,
)
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.runtime.speech_encoders import wanted_encoder
from talking_portrait.runtime.weights import WeightNotFoundError
from talking_portrait.weights_manifest.manifest import weight_row

from ..small_fantasytalking import HEARING_ONLY, PARAMETERS, write_small_fantasytalking

ORIGINAL_SHARDS = [f"wan21_i2v_14b_original_{number}_of_7" for number in range(1, 8)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_small_fantasytalking(folder / "fantasytalking")
    write_small_fantasytalking(folder / "fantasytalking", "hearing", parameters=HEARING_ONLY)
    yield folder
    model_cache().clear()


@pytest.fixture
def models_folder(monkeypatch, files):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(files))
    return files


@pytest.fixture
def empty_folder(monkeypatch, tmp_path):
    """A models folder with nothing in it."""
    for variable in ("TALKING_PORTRAIT_MODELS", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    return tmp_path


def put(folder, *names):
    """Put a file of each manifest row into a models folder: without content, of the size that is known."""
    for name in names:
        row = weight_row(name)
        path = folder / row.comfyui_folder / row.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(row.bytes or 0)


def small(name="mine.safetensors", **settings):
    return fantasytalking_models.fantasytalking_models(wan_models(name, **settings))


class TestChoices:
    def test_models_trained_here_are_listed_and_nothing_else(self, models_folder):
        assert wan_choices() == [
            *("pocket (embedded)", "Wan 2.1 I2V 14B"),
            *("hearing.safetensors", "mine.safetensors"),
        ]

    def test_the_entry_is_the_one_that_is_written(self):
        assert FANTASYTALKING_ENTRY == loading.FANTASYTALKING_ENTRY

    def test_a_model_that_went_away_is_named(self, empty_folder):
        with pytest.raises(ValueError, match=r"no model 'gone\.safetensors'; here are: pocket"):
            wan_models("gone.safetensors")

    def test_written_again_it_is_another_model(self, empty_folder):
        write_small_fantasytalking(empty_folder / "fantasytalking")
        before, stamp = small(), wan_stamp("mine.safetensors")
        write_small_fantasytalking(empty_folder / "fantasytalking", seed=1)
        assert wan_stamp("mine.safetensors") != stamp
        assert small().adapter != before.adapter
        assert wan_stamp(WAN_CHOICE) == ""

    def test_without_an_autoencoder_of_its_own_it_takes_the_embedded_one(self, empty_folder, monkeypatch):
        write_small_fantasytalking(empty_folder / "fantasytalking")
        own = empty_folder / "fantasytalking" / "mine_autoencoder.safetensors"
        embedded = own.rename(empty_folder / "embedded")
        monkeypatch.setattr(fantasytalking_models, "find_weight", lambda name: embedded)
        assert small().wan.autoencoder.path == str(embedded)

    def test_what_does_not_go_together_is_refused(self, models_folder):
        with pytest.raises(ValueError, match="precision is 'int8'"):
            wan_models("mine.safetensors", precision="int8")
        with pytest.raises(ValueError, match="attention is 'slow'"):
            wan_models("mine.safetensors", attention="slow")
        with pytest.raises(ValueError, match=r"goes with 'Wan 2.1 I2V 14B' only"):
            wan_models("mine.safetensors", transformer="wan.safetensors")
        wan = wan_models("mine.safetensors")
        with pytest.raises(ValueError, match="belongs on the published Wan"):
            fantasytalking_models.fantasytalking_models(wan, "fantasytalking_model.ckpt")
        with pytest.raises(ValueError, match="no audio weights 'other'"):
            fantasytalking_models.fantasytalking_models(wan, "other")


class TestPocket:
    def test_is_found_in_the_package(self, monkeypatch, tmp_path):
        monkeypatch.setattr(
            fantasytalking_models, "find_weight", lambda name: tmp_path / f"{name}.safetensors"
        )
        wan = wan_models("pocket (embedded)")
        assert wan.transformer == ModelHandle(
            "fantasytalking_pocket", str(tmp_path / "fantasytalking_pocket.safetensors")
        )
        assert wan.autoencoder.name == "fantasytalking_pocket_autoencoder"
        assert not wan.reads_prompts
        models = fantasytalking_models.fantasytalking_models(wan)
        assert models.adapter is wan.transformer

    def test_its_rows_ship_with_the_package(self):
        for name in ("fantasytalking_pocket", "fantasytalking_pocket_autoencoder"):
            assert weight_row(name).source.path == f"core_models/embedded/{name}.safetensors"


class TestPublishedWan:
    def test_every_missing_part_is_named_with_whence_it_comes_and_where_it_belongs(self, empty_folder):
        with pytest.raises(WeightNotFoundError) as missing:
            wan_models(WAN_CHOICE)
        message = str(missing.value)
        for part, name in WAN_PARTS.items():
            assert f"the {part}:\n- {weight_row(name).file}" in message
        for text in (
            "huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged",
            str(empty_folder),
            "or Wan2.1_VAE.pth",
            "and its 6 further shards",
            "'talking-portrait weights fetch wan21_i2v_14b'",
            "'download_if_missing' in Load Wan",
            "choose 'pocket (embedded)'",
        ):
            assert text in message

    def test_shards_that_lack_are_named(self, empty_folder):
        put(empty_folder, *ORIGINAL_SHARDS[:4], *list(WAN_PARTS.values())[1:])
        with pytest.raises(WeightNotFoundError) as missing:
            wan_models(WAN_CHOICE)
        message = str(missing.value)
        assert "the transformer, of which 4 of 7 files are here" in message
        for number in range(1, 8):
            named = f"diffusion_pytorch_model-{number:05d}-of-00007.safetensors (" in message
            assert named == (number > 4)
        assert "the autoencoder" not in message

    def test_core_folders_and_their_subfolders_are_searched(self, empty_folder):
        names = list(WAN_PARTS.values())
        put(empty_folder, *names[1:])
        row = weight_row(names[0])
        place = empty_folder / row.comfyui_folder / "video" / row.file
        place.parent.mkdir(parents=True)
        place.touch()
        wan = wan_models(WAN_CHOICE)
        assert wan.transformer.path == str(place)
        assert wan.autoencoder.path == str(empty_folder / "vae" / "wan_2.1_vae.safetensors")
        text = str(empty_folder / "text_encoders" / "umt5_xxl_fp16.safetensors")
        assert (wan.text_encoder.path, wan.text_encoder.further_paths) == (text, (text,))
        assert wan.clip_vision.path == str(empty_folder / "clip_vision" / "clip_vision_h.safetensors")
        assert {handle.dtype for handle in (wan.transformer, wan.autoencoder)} == {"bfloat16"}

    def test_any_whole_form_will_do(self, empty_folder):
        others = ("vae_original", "text_encoder_original", "clip_original")
        put(empty_folder, *ORIGINAL_SHARDS, *(f"wan21_i2v_14b_{name}" for name in others))
        tokeniser = empty_folder / "text_encoders" / "tokenizer.json"
        with pytest.raises(WeightNotFoundError, match=r"tokenizer\.json from .*google/umt5-xxl"):
            wan_models(WAN_CHOICE)
        tokeniser.touch()
        wan = wan_models(WAN_CHOICE)
        assert len(wan.transformer.further_paths) == 6
        assert wan.text_encoder.further_paths == (str(tokeniser),)

    def test_another_transformer_file_may_be_named(self, empty_folder):
        put(empty_folder, *list(WAN_PARTS.values())[1:])
        other = empty_folder / "diffusion_models" / "wan_480p.safetensors"
        other.parent.mkdir()
        save_file({"weights": torch.zeros(1)}, other)
        for text in (str(other), "wan_480p.safetensors"):
            assert wan_models(WAN_CHOICE, transformer=text).transformer.path == str(other)
        with pytest.raises(FileNotFoundError, match="no weight file gone"):
            wan_models(WAN_CHOICE, transformer="gone")

    @pytest.mark.parametrize("name", ["wan.safetensors", "wan-00001-of-00002.safetensors"])
    def test_another_model_that_is_named_is_refused_by_its_header(self, empty_folder, name):
        """Before anything is loaded: the patches of a T2V have the channels of latents alone."""
        put(empty_folder, *list(WAN_PARTS.values())[1:])
        path = empty_folder / name
        patches = torch.zeros(1, dtype=torch.uint8).expand(5120 * 16 * 4).clone()
        weights = {"patch_embedding.weight": patches.view(5120, 16, 1, 2, 2)}
        save_file({"blocks.0.self_attn.q.bias": torch.zeros(1)}, path)
        save_file(weights, empty_folder / name.replace("00001", "00002"))
        with pytest.raises(WeightMismatchError, match=r"holds Wan T2V \(text to video.*wan2\.1_i2v_480p_14B"):
            wan_models(WAN_CHOICE, transformer=str(path))

    def test_half_a_file_that_is_named_is_refused_at_once(self, empty_folder):
        path = empty_folder / "wan.safetensors"
        save_file({"weights": torch.zeros(100)}, path)
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(UnreadableWeightsError, match="not a whole safetensors file"):
            wan_models(WAN_CHOICE, transformer=str(path))

    def test_a_file_replaced_under_its_name_is_another_model(self, empty_folder):
        put(empty_folder, *WAN_PARTS.values(), ADAPTER_ROWS[0])
        named = empty_folder / "named.safetensors"
        save_file({"weights": torch.zeros(1)}, named)
        changed = NODE_CLASS_MAPPINGS["TP_LoadWan"].IS_CHANGED

        def known():
            wan = wan_models(WAN_CHOICE)
            models = fantasytalking_models.fantasytalking_models(wan)
            own = wan_models(WAN_CHOICE, transformer=str(named))
            handles = (wan.transformer, wan.autoencoder, wan.text_encoder, wan.clip_vision, models.adapter)
            return (*handles, own.transformer)

        def stamps():
            return changed(WAN_CHOICE), changed(WAN_CHOICE, transformer_file=str(named)), adapter_stamps()

        def adapter_stamps():
            ids = ("TP_LoadFantasyTalking", "TP_LoadFantasyTalkingAdapter")
            automatic = [NODE_CLASS_MAPPINGS[name].IS_CHANGED("automatic") for name in ids]
            return *automatic, NODE_CLASS_MAPPINGS[ids[0]].IS_CHANGED("fantasytalking_model.ckpt")

        before = known()
        for place, path in enumerate([*(one.path for one in before[:5]), str(named)]):
            handles, seen = known(), stamps()
            assert (handles, seen) == (known(), stamps())
            os.utime(path, ns=(place, place))
            assert known()[place] != handles[place]
            if path == before[4].path:
                assert all(now != then for now, then in zip(stamps()[2], seen[2], strict=True))
            else:
                assert stamps() != seen

    def test_half_a_set_of_shards_that_is_named_says_which_lack(self, empty_folder):
        shard = empty_folder / "wan-00001-of-00003.safetensors"
        shard.touch()
        with pytest.raises(FileNotFoundError, match=r"2 of 3 shards are missing: .*wan-00002-of-00003"):
            wan_models(WAN_CHOICE, transformer=str(shard))

    def test_only_what_lacks_is_fetched_when_asked(self, empty_folder, monkeypatch, tmp_path):
        put(empty_folder, *ORIGINAL_SHARDS[:6], *list(WAN_PARTS.values())[2:])
        fetched = []

        def fetch(name, _):
            fetched.append(name)
            (tmp_path / name).touch()
            return tmp_path / name

        monkeypatch.setattr(model_parts, "fetch_weight", fetch)
        wan = wan_models(WAN_CHOICE, download=True)
        assert fetched == [ORIGINAL_SHARDS[6], "wan21_i2v_14b_vae"]
        assert wan.transformer.further_paths[-1] == str(tmp_path / ORIGINAL_SHARDS[6])


@pytest.fixture
def published_wan(empty_folder):
    put(empty_folder, *WAN_PARTS.values())
    return wan_models(WAN_CHOICE, precision="float16")


class TestPublishedFantasyTalking:
    def test_missing_weights_are_named(self, published_wan):
        with pytest.raises(WeightNotFoundError) as missing:
            fantasytalking_models.fantasytalking_models(published_wan)
        message = str(missing.value)
        for text in (
            "fantasytalking_model.ckpt",
            "huggingface.co/acvlab/FantasyTalking",
            "or fantasytalking_fp16.safetensors",
            "'talking-portrait weights fetch fantasytalking'",
        ):
            assert text in message

    @pytest.mark.parametrize("name", ADAPTER_ROWS)
    def test_each_form_is_found_and_can_be_chosen(self, empty_folder, published_wan, name):
        put(empty_folder, name)
        file = weight_row(name).file
        assert file in adapter_choices()
        for choice in ("automatic", file):
            models = fantasytalking_models.fantasytalking_models(published_wan, choice)
            assert models.adapter.path == str(empty_folder / "diffusion_models" / file)
        assert models.adapter.further_paths == (published_wan.transformer.path,)
        assert (models.kind, models.adapter.dtype) == ("fantasytalking", "float16")

    def test_its_loras_and_8_bits_are_the_wans(self, empty_folder, published_wan):
        put(empty_folder, "fantasytalking")
        added = (LowRankFile("style.safetensors", 0.5, "stamp"),)
        changed = replace(published_wan.transformer, low_rank_files=added, eight_bits=True)
        models = fantasytalking_models.fantasytalking_models(replace(published_wan, transformer=changed))
        assert (models.adapter.low_rank_files, models.adapter.eight_bits) == (added, True)
        assert fantasytalking_models.fantasytalking_models(published_wan).adapter.low_rank_files == ()

    def test_a_form_that_is_not_here_says_where_it_comes_from(self, published_wan):
        with pytest.raises(WeightNotFoundError, match="Kijai/WanVideo_comfy"):
            fantasytalking_models.fantasytalking_models(published_wan, "fantasytalking_fp16.safetensors")

    def test_sizes_and_hearing_are_known_without_the_weights(self, empty_folder, published_wan):
        put(empty_folder, "fantasytalking")
        models = fantasytalking_models.fantasytalking_models(published_wan)
        assert parameters_of(models) == FantasyTalkingParameters()
        assert listening_encoder(models) == PUBLISHED_LISTENING == FantasyTalkingParameters().listening
        with pytest.raises(ValueError, match=r"no identity branch \(the release has none"):
            identity_encoder(models)


class TestNetworks:
    def test_the_model_comes_from_the_cache(self, models_folder):
        models = small()
        with fantasytalking_model(models) as first, fantasytalking_model(models) as second:
            assert first is second
            assert first.parameters_used == parameters_of(models) == PARAMETERS

    def test_half_precision_leaves_in_float32_what_lies_outside_of_the_blocks(self, models_folder):
        with fantasytalking_model(small(precision="bfloat16")) as model:
            dtypes = {name: value.dtype for name, value in model.named_parameters()}
        assert dtypes["transformer.blocks.0.attn1.to_q.weight"] == torch.bfloat16
        assert dtypes["audio_projection.proj.weight"] == torch.float32

    def test_the_autoencoder_is_in_the_models_precision(self, models_folder):
        with wan_autoencoder(wan_models("mine.safetensors", "bfloat16")) as network:
            assert network.dtype == torch.bfloat16

    def test_what_a_model_does_not_have_is_not_given(self, models_folder):
        wan = wan_models("mine.safetensors")
        with (
            pytest.raises(ValueError, match="reads no prompts"),
            fantasytalking_models.prompt_encoder(wan),
        ):
            pass
        with pytest.raises(ValueError, match="through CLIP"), fantasytalking_models.clip_vision(wan):
            pass

    def test_a_file_that_is_no_fantasytalking_is_named(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        handle = ModelHandle("fantasytalking_pocket", str(tmp_path / "x.safetensors"))
        models = FantasyTalkingModels(
            "fantasytalking_pocket", WanModels("wan_pocket", handle, handle), handle
        )
        with pytest.raises(ValueError, match=r"x\.safetensors is not a FantasyTalking model"):
            parameters_of(models)
        with pytest.raises(ValueError, match="does not say what it listens with"):
            listening_encoder(models)


def test_identities_belong_to_what_made_them(models_folder):
    assert identity_encoder(small()) == "mine"
    with pytest.raises(ValueError, match="no identity branch"):
        identity_encoder(small("hearing.safetensors"))


def test_automatic_listening_follows_the_connected_model(models_folder):
    assert wanted_encoder(None, None, small()) == "pocket_listener"
    with pytest.raises(ValueError, match="fantasytalking"):
        wanted_encoder(object(), None, small())


def test_systems_have_names():
    for system in ("fantasytalking", "wan21_i2v_14b"):
        assert system in weight_files.SYSTEM_NAMES
