"""Strict loading: every key accounted for, every kind of damaged file refused, nothing executed."""

import pickle
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.strict_loading import (
    UnreadableWeightsError,
    WeightMismatchError,
    load_strict,
    map_keys,
    read_metadata,
    read_weights,
)
from torch import nn


@dataclass(frozen=True)
class TinyParameters:
    width: int = 4


class Tiny(nn.Module):
    def __init__(self, parameters=TinyParameters()):
        super().__init__()
        self.first = nn.Linear(3, parameters.width)
        self.norm = nn.BatchNorm1d(parameters.width)


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {name: torch.rand_like(value.float()) for name, value in Tiny().state_dict().items()} | {
        "norm.num_batches_tracked": torch.tensor(7)
    }


@pytest.fixture
def file(state, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_file(state, path, metadata={"made": "here"})
    return path


def assert_same(module, state, dtype=torch.float32):
    found = module.state_dict()
    assert set(found) == set(state)
    for name, value in state.items():
        wanted = value.to(dtype) if value.is_floating_point() else value
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name].float(), wanted.float())


def test_safetensors(file, state):
    module = load_strict(Tiny, file)
    assert_same(module, state)
    assert not module.training
    assert read_metadata(file) == {"made": "here"}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles(suffix, legacy, state, tmp_path):
    path = tmp_path / f"tiny{suffix}"
    content = {
        "model": {f"module.{name}": value for name, value in state.items()},
        "epoch": 3,
        "notes": ["a"],
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert_same(load_strict(Tiny, path, {"model.module.*": "*"}), state)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16, None])
def test_dtypes(stored, wanted, state, tmp_path):
    state = {name: v.to(stored) if v.is_floating_point() else v for name, v in state.items()}
    save_file(state, tmp_path / "tiny.safetensors")
    assert_same(load_strict(Tiny, tmp_path / "tiny.safetensors", dtype=wanted), state, wanted or stored)


def test_conversion_in_batches_is_the_same(file, state, monkeypatch):
    monkeypatch.setattr("talking_portrait.core_models.strict_loading.BATCH_BYTES", 1)
    assert_same(load_strict(Tiny, file, dtype=torch.bfloat16), state, torch.bfloat16)


def test_all_keys_at_fault_are_listed(state, tmp_path):
    path = tmp_path / "tiny.safetensors"
    del state["first.bias"], state["norm.running_var"]
    state |= {"second.weight": torch.ones(1), "a": torch.ones(1), "first.weight": torch.ones(4, 5)}
    save_file(state, path)
    with pytest.raises(WeightMismatchError) as error:
        load_strict(Tiny, path)
    message = str(error.value)
    assert str(path) in message
    assert "Missing: ['first.bias', 'norm.running_var']" in message
    assert "Unexpected: ['a', 'second.weight']" in message
    assert "Misshapen: ['first.weight is (4, 5), expected (4, 3)']" in message
    assert "another model" not in message


def test_file_of_another_system(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_file({"detector.norm.weight": torch.ones(2)}, path)
    with pytest.raises(WeightMismatchError, match=r"file of another model.*detector\.norm\.weight"):
        load_strict(Tiny, path)


def test_other_sizes_of_the_same_model(file):
    with pytest.raises(WeightMismatchError, match=r"first\.bias is \(4,\), expected \(8,\)"):
        load_strict(lambda: Tiny(TinyParameters(width=8)), file)


def test_key_table():
    tensors = {
        name: torch.ones(1)
        for name in ("module.blocks.0.k.weight", "module.blocks.12.v.weight", "module.head.bias", "epoch")
    }
    table = {
        "module.blocks.{}.k.*": "layers.{}.key.*",
        "module.blocks.{}.v.*": "layers.{}.value.*",
        "epoch": None,
        "module.*": "*",
    }
    mapped = map_keys(tensors, table, "here")
    assert list(mapped) == ["layers.0.key.weight", "layers.12.value.weight", "head.bias"]


def test_dropped_keys_must_be_listed(state, tmp_path):
    save_file({**state, "first.weight_u": torch.ones(4)}, tmp_path / "tiny.safetensors")
    with pytest.raises(WeightMismatchError, match=r"Unexpected: \['first\.weight_u'\]"):
        load_strict(Tiny, tmp_path / "tiny.safetensors")
    assert_same(load_strict(Tiny, tmp_path / "tiny.safetensors", {"*.weight_u": None}), state)


def test_two_keys_of_one_name():
    with pytest.raises(WeightMismatchError, match="more than one key maps to 'x'"):
        map_keys({"a.x": torch.ones(1), "b.x": torch.ones(1)}, {"{}": None, "a.*": "*", "b.*": "*"}, "here")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_truncated_file(suffix, part, state, tmp_path):
    path = tmp_path / f"tiny{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UnreadableWeightsError, match=r"is not a whole .*fetch it again"):
        load_strict(Tiny, path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_web_page_in_place_of_the_file(suffix, tmp_path):
    path = tmp_path / f"tiny{suffix}"
    path.write_text("<!DOCTYPE html><html><body>please log in, this is long enough</body></html>")
    with pytest.raises(UnreadableWeightsError, match="it is a web page"):
        load_strict(Tiny, path)


class Payload:
    """What a malicious pickle holds: opening it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle_does_not_run(zipped, state, tmp_path):
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    torch.save({**state, "x": Payload(proof)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnreadableWeightsError, match=r"refused: opening it would run \S*open.*any program"):
        load_strict(Tiny, path)
    assert not proof.exists()


def test_plain_malicious_pickle_does_not_run(tmp_path):
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises(UnreadableWeightsError, match=r"refused|not a whole"):
        read_weights(path)
    assert not proof.exists()


def test_other_kinds_of_files(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(UnreadableWeightsError, match=r"model\.onnx.*it reads .*\.safetensors"):
        read_weights(tmp_path / "model.onnx")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UnreadableWeightsError, match="holds no tensors"):
        read_weights(tmp_path / "empty.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read_weights(tmp_path / "none.pth")


def test_buffer_that_no_file_holds(file):
    class WithTable(Tiny):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(3), persistent=False)

    with pytest.raises(RuntimeError, match="WithTable: no weight file holds table"):
        load_strict(WithTable, file)


def test_building_takes_no_memory(file):
    """The module is built on the meta device, whatever its size."""
    devices = []

    def build():
        module = Tiny()
        devices.append(module.first.weight.device.type)
        return module

    assert load_strict(build, file).first.weight.device.type == "cpu"
    assert devices == ["meta"]


@pytest.mark.parametrize("content", [b"hello\n", b"abc", b"", b"\x80\x02.", b"PK\x03\x04 not a zip"])
def test_files_that_are_no_pickles_are_named(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(UnreadableWeightsError, match=r"model\.pth"):
        read_weights(path)
