"""ACTalker's files: what can be chosen, what is missing and whence it comes, and the networks from the cache."""

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.core_models.video_diffusion.actalker import loading
from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerParameters
from talking_portrait.core_models.video_types import ACTALKER_ENTRY, PUBLISHED_PARTS, ACTalkerModels
from talking_portrait.runtime import actalker_models, weight_files
from talking_portrait.runtime.actalker_models import (
    ACTALKER_ROWS,
    actalker_autoencoder,
    actalker_choices,
    actalker_model,
    expression_and_pose_networks,
    face_recognition,
    identity_encoder,
    listening_encoder,
    parameters_of,
    trained_actalker_stamp,
)
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.runtime.speech_encoders import wanted_encoder
from talking_portrait.runtime.weights import WeightNotFoundError
from talking_portrait.weights_manifest.manifest import weight_row

from ..small_actalker import write_small_actalker

HAND_MADE = [name for name in ACTALKER_ROWS.values() if weight_row(name).source.kind == "manual"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_small_actalker(folder / "actalker")
    yield folder
    model_cache().clear()


@pytest.fixture
def models_folder(monkeypatch, files):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(files))
    return files


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    for variable in ("TALKING_PORTRAIT_MODELS", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    return tmp_path


@pytest.fixture
def all_found(monkeypatch, tmp_path):
    """Every published file is there, but those of `absent`."""
    absent = set()

    def find(name, explicit=None):
        if name in absent:
            raise WeightNotFoundError(name)
        return tmp_path / name

    monkeypatch.setattr(weight_files, "find_weight", find)
    return absent


def load(choice="mine.safetensors", **settings):
    return actalker_models.actalker_models(choice, **settings)


class TestChoices:
    def test_models_trained_here_are_listed_and_nothing_else(self, models_folder):
        save_file({"x": torch.zeros(1)}, models_folder / "actalker" / "other.safetensors", {"kdtalker": "{}"})
        assert actalker_choices() == ["pocket (embedded)", "ACTalker", "mine.safetensors"]

    def test_the_entry_is_the_one_that_is_written(self):
        assert ACTALKER_ENTRY == loading.ACTALKER_ENTRY

    def test_parts_are_those_that_the_loader_takes(self):
        assert PUBLISHED_PARTS == loading.PUBLISHED_PARTS

    def test_a_model_that_went_away_is_named(self, nothing_here):
        with pytest.raises(ValueError, match=r"no model 'gone\.safetensors'; here are: pocket"):
            load("gone.safetensors")

    def test_written_again_it_is_another_model(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
        write_small_actalker(tmp_path / "actalker")
        before, stamp = load(), trained_actalker_stamp("mine.safetensors")
        write_small_actalker(tmp_path / "actalker", seed=1)
        assert trained_actalker_stamp("mine.safetensors") != stamp
        assert load().model != before.model
        assert trained_actalker_stamp("ACTalker") == ""

    def test_without_an_autoencoder_of_its_own_it_takes_the_embedded_one(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
        write_small_actalker(tmp_path / "actalker")
        embedded = (tmp_path / "actalker" / "mine_autoencoder.safetensors").rename(tmp_path / "embedded")
        monkeypatch.setattr(actalker_models, "find_weight", lambda name: embedded)
        assert load().autoencoder.path == str(embedded)


class TestPocket:
    def test_is_found_in_the_package(self, monkeypatch, tmp_path):
        monkeypatch.setattr(actalker_models, "find_weight", lambda name: tmp_path / f"{name}.safetensors")
        models = load("pocket (embedded)")
        assert (models.kind, models.recognition, models.expression) == ("actalker_pocket", None, None)
        assert models.model == ModelHandle("actalker_pocket", str(tmp_path / "actalker_pocket.safetensors"))
        assert identity_encoder(models) == "actalker_pocket"

    def test_its_rows_ship_with_the_package(self):
        for name in ("actalker_pocket", "actalker_pocket_autoencoder"):
            assert weight_row(name).source.path == f"core_models/embedded/{name}.safetensors"


class TestPublished:
    def test_every_missing_file_is_named_with_whence_it_comes_and_where_it_belongs(self, nothing_here):
        with pytest.raises(WeightNotFoundError) as missing:
            load("ACTalker")
        message = str(missing.value)
        for name in ACTALKER_ROWS.values():
            assert weight_row(name).file.rpartition("/")[2] in message
        for part in (
            "harlanhong/ACTalker",
            "huggingface.co/stabilityai",
            "openai/whisper-tiny",
            str(nothing_here),
        ):
            assert part in message
        assert "after its licence has been accepted there" in message
        assert "'talking-portrait weights fetch actalker'" in message
        assert "choose 'pocket (embedded)'" in message

    def test_the_adapter_file_is_not_needed(self):
        assert "actalker_adapter_module" not in ACTALKER_ROWS.values()

    @pytest.mark.parametrize("name", sorted(ACTALKER_ROWS.values()))
    def test_one_missing_file_is_named_alone(self, all_found, name):
        all_found.add(name)
        with pytest.raises(WeightNotFoundError) as missing:
            load("ACTalker")
        assert str(missing.value).count("\n- ") == 1
        assert weight_row(name).role in str(missing.value)

    def test_nothing_is_fetched_while_a_hand_made_file_is_missing(self, all_found, monkeypatch):
        all_found |= {HAND_MADE[0], "whisper_tiny"}
        monkeypatch.setattr(weight_files, "fetch_weight", lambda *_: pytest.fail("fetched"))
        with pytest.raises(WeightNotFoundError, match="Whisper tiny"):
            load("ACTalker", download=True)

    def test_what_can_be_fetched_is_fetched_when_asked(self, all_found, monkeypatch, tmp_path):
        all_found.add("whisper_tiny")
        fetched = []
        monkeypatch.setattr(weight_files, "fetch_weight", lambda name, _: fetched.append(name) or tmp_path)
        load("ACTalker", download=True)
        assert fetched == ["whisper_tiny"]

    def test_handles(self, all_found, tmp_path):
        models = load("ACTalker", precision="bfloat16")
        assert (models.kind, models.model.dtype, models.autoencoder.dtype) == (
            "actalker",
            "bfloat16",
            "bfloat16",
        )
        paths = [models.model.path, *models.model.further_paths]
        assert paths == [str(tmp_path / row) for row in PUBLISHED_PARTS.values()]
        assert models.recognition.dtype == models.expression.dtype == "float32"
        assert (identity_encoder(models), listening_encoder(models)) == ("arcface", "whisper")
        assert load("ACTalker").model.dtype == ("float16" if torch.cuda.is_available() else "float32")

    def test_an_unknown_precision_is_refused(self, all_found):
        with pytest.raises(ValueError, match="precision is 'int8'"):
            load("ACTalker", precision="int8")


class TestNetworks:
    def test_the_model_comes_from_the_cache(self, models_folder):
        models = load()
        with actalker_model(models) as first, actalker_model(models) as second:
            assert first is second
            assert first.parameters_used == parameters_of(models)

    def test_half_precision_leaves_the_scan_in_float32(self, models_folder):
        """What the cache casts as a whole would lose what the scan's parameters need."""
        with actalker_model(load(precision="bfloat16")) as model:
            dtypes = {name: value.dtype for name, value in model.named_parameters()}
        kept = {name for name, dtype in dtypes.items() if dtype == torch.float32}
        assert kept == {name for name in dtypes if name.endswith(loading.KEPT_IN_FLOAT32)}
        assert kept
        assert set(dtypes.values()) == {torch.float32, torch.bfloat16}

    def test_the_autoencoder_is_in_the_models_precision(self, models_folder):
        with actalker_autoencoder(load(precision="bfloat16")) as network:
            assert network.dtype == torch.bfloat16

    def test_what_a_model_does_not_need_is_not_given(self, models_folder):
        with pytest.raises(ValueError, match="encoder of its own"), face_recognition(load()):
            pass
        with pytest.raises(ValueError, match="Motion from Video"), expression_and_pose_networks(load()):
            pass

    def test_a_file_that_is_no_actalker_is_named(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        handle = ModelHandle("actalker_pocket", str(tmp_path / "x.safetensors"))
        models = ACTalkerModels("actalker_pocket", handle, handle)
        with (
            pytest.raises(ValueError, match=r"x\.safetensors is not an ACTalker model"),
            actalker_model(models),
        ):
            pass

    def test_a_file_that_says_nothing_is_not_listened_for(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        handle = ModelHandle("actalker_pocket", str(tmp_path / "x.safetensors"))
        with pytest.raises(ValueError, match="does not say what it listens with"):
            listening_encoder(ACTalkerModels("actalker_pocket", handle, handle))


def test_automatic_listening_follows_the_connected_model(models_folder, all_found):
    assert wanted_encoder() == "log_mel"
    assert wanted_encoder(None, load()) == "pocket_listener"
    assert wanted_encoder(None, load("ACTalker")) == "whisper" == ACTalkerParameters().listening.encoder
    with pytest.raises(ValueError, match="either model or actalker"):
        wanted_encoder(object(), load())
