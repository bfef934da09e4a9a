"""talking-portrait weights: list, fetch, verify and convert, against a loopback hub."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from talking_portrait.headless import weights_command
from talking_portrait.headless.command_line import main
from talking_portrait.runtime import weight_plan
from talking_portrait.weights_manifest.manifest import WeightRow, read_manifest, system_rows

NAMES = ("appearance_feature_extractor", "motion_extractor", "warping_module", "spade_generator")


@pytest.fixture
def models(hub_server, tmp_path, monkeypatch):
    """An empty models folder; the hub has LivePortrait's safetensors."""
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path / "models"))
    for number, name in enumerate((*NAMES, "stitching_retargeting_module")):
        hub_server.files[f"{name}.safetensors"] = bytes([number]) * (1000 + number)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "face_landmarker.task").touch()
    with (folder / "face_landmarker.task").open("wb") as file:
        file.truncate(read_manifest()["face_landmarker"].bytes)
    return folder


def test_list_json_has_every_row_and_field(models, capsys):
    assert main(["weights", "list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {entry["name"] for entry in entries} == set(read_manifest())
    wanted = {field.name for field in fields(WeightRow)} | {"found", "verified"}
    assert all(set(entry) == wanted for entry in entries)


def test_list_table_of_a_system(models, capsys):
    assert main(["weights", "list", "--system", "kdtalker"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(system_rows("kdtalker"))
    line = next(line for line in lines if line.startswith("kdtalker "))
    assert "KDTalker.pth" in line
    assert "CC-BY-NC-4.0 [non-commercial]" in line
    face = next(line for line in lines if line.startswith("face_landmarker"))
    assert "3.8 MB" in face
    assert face.endswith(f"{models / 'face_landmarker.task'}  not verified")


def test_plan_then_fetch_then_nothing_to_do(models, capsys):
    assert main(["weights", "fetch", "liveportrait", "--yes"]) == 0
    out = capsys.readouterr().out
    assert f"here: face_landmarker ({models / 'face_landmarker.task'})" in out
    assert f"total: {sum(1000 + i for i in range(5)) / 1000 * 1000:.0f} B" in out
    assert f"free on the disk of {models}" in out
    assert sorted(path.name for path in models.glob("*.safetensors")) == sorted(
        f"{name}.safetensors" for name in (*NAMES, "stitching_retargeting_module")
    )
    assert not list(models.rglob("*.pth"))
    assert main(["weights", "fetch", "liveportrait"]) == 0
    assert "to fetch" not in capsys.readouterr().out


def test_other_layout_that_is_here_counts(models, capsys):
    """A user with the original .pth files fetches nothing again."""
    for name in NAMES:
        (models / "liveportrait" / "base_models").mkdir(parents=True, exist_ok=True)
        (models / "liveportrait" / "base_models" / f"{name}.pth").write_bytes(b"x")
    assert main(["weights", "fetch", "liveportrait", "--yes"]) == 0
    assert [path.name for path in models.glob("*.safetensors")] == [
        "stitching_retargeting_module.safetensors"
    ]


def test_nothing_is_fetched_without_consent(models, capsys, hub_server):
    assert main(["weights", "fetch", "liveportrait"]) == 1
    assert "add --yes" in capsys.readouterr().err
    assert not list(models.glob("*.safetensors"))
    assert {method for method, _, _ in hub_server.requests} == {"HEAD"}


def test_one_file_that_fails_does_not_stop_the_others(models, hub_server, capsys):
    hub_server.faults["motion_extractor.safetensors"] = "wrong"
    assert main(["weights", "fetch", "liveportrait", "--yes"]) == 1
    captured = capsys.readouterr()
    assert "error: " in captured.err
    assert "motion_extractor.safetensors sent a file whose sha256" in captured.err
    assert len(list(models.glob("*.safetensors"))) == 4


def test_single_file_to_a_folder(models, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    assert main(["weights", "fetch", "liveportrait_spade_generator", "--yes", "--to", str(elsewhere)]) == 0
    assert (elsewhere / "spade_generator.safetensors").read_bytes() == bytes([3]) * 1003


def test_restrictions_are_shown(models, hub_server, capsys):
    hub_server.faults["diffusion_pytorch_model.fp16.safetensors"] = "gated"
    assert main(["weights", "fetch", "actalker"]) == 1
    out = capsys.readouterr().out
    assert "svd_xt_1_1_unet is gated: accept its licence at https://huggingface.co/stabilityai/" in out
    assert "by hand: actalker_unet:" in out
    assert main(["weights", "fetch", "kdtalker"]) == 1
    assert "must not be used commercially" in capsys.readouterr().out


def test_unknown_name(models, capsys):
    assert main(["weights", "fetch", "liveportait"]) == 1
    assert "'liveportait' is neither a system (" in capsys.readouterr().err


def test_disk_too_full_is_seen_in_the_plan(models, capsys, monkeypatch):
    monkeypatch.setattr(weight_plan, "free_bytes", lambda folder: 100)
    assert main(["weights", "fetch", "liveportrait", "--yes"]) == 1
    assert "5010 bytes do not fit on the disk" in capsys.readouterr().err
    assert not list(models.glob("*.safetensors"))


def test_folder_that_cannot_be_written(models, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    command = ["weights", "fetch", "liveportrait", "--yes", "--to", str(tmp_path / "file" / "models")]
    assert main(command) == 1
    assert "cannot write to" in capsys.readouterr().err


def test_verify(models, capsys):
    main(["weights", "fetch", "liveportrait", "--yes"])
    capsys.readouterr()
    assert main(["weights", "list", "--system", "liveportrait"]) == 0
    assert capsys.readouterr().out.count("  verified") == 5
    assert main(["weights", "verify", "liveportrait_warping_module"]) == 0
    assert capsys.readouterr().out.startswith("verified  liveportrait_warping_module")
    (models / "warping_module.safetensors").write_bytes(b"y" * 1002)
    assert main(["weights", "verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    damaged = [line for line in lines if line.startswith("DAMAGED")]
    assert len(damaged) == 2  # the made face bundle is empty inside
    assert any("weights fetch liveportrait_warping_module" in line for line in damaged)


def test_verify_asks_the_hub_for_files_of_other_packs(models, hub_server, capsys):
    (models / "warping_module.safetensors").write_bytes(bytes([2]) * 1002)
    assert main(["weights", "verify", "liveportrait_warping_module"]) == 0
    assert "no checksum to compare with; --online asks the hub; sha256 " in capsys.readouterr().out
    assert main(["weights", "verify", "liveportrait_warping_module", "--online"]) == 0
    assert capsys.readouterr().out.startswith("verified")


def test_convert(tmp_path, capsys):
    source = tmp_path / "fantasytalking_model.ckpt"
    shared = torch.rand(3)
    content = {"proj_model": {"proj.weight": torch.rand(2, 3)}, "audio_processor": {"k": shared, "v": shared}}
    torch.save({**content, "step": 3}, source)
    assert main(["weights", "convert", str(source)]) == 0
    target = tmp_path / "fantasytalking_model.safetensors"
    assert str(target) in capsys.readouterr().out
    found = load_file(target)
    assert set(found) == {"proj_model.proj.weight", "audio_processor.k", "audio_processor.v"}
    assert torch.equal(found["audio_processor.v"], shared)
    assert main(["weights", "convert", str(source)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_convert_refuses_code(tmp_path, capsys):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "proof"), "w"))

    torch.save({"x": Payload()}, tmp_path / "evil.pth")
    assert main(["weights", "convert", str(tmp_path / "evil.pth")]) == 1
    assert "was refused" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


def test_sizes():
    assert [weights_command.size_text(size) for size in (None, 5580, 3758596, 1684038568)] == [
        "size unknown",
        "5580 B",
        "3.8 MB",
        "1.68 GB",
    ]


def test_loader_node_fetches_only_when_asked(models, hub_server, monkeypatch):
    """download_if_missing on a loader node: the same fetching, with the host's progress."""
    from dataclasses import replace

    from talking_portrait.nodes.face import LoadFaceDetector
    from talking_portrait.runtime import weights
    from talking_portrait.weights_manifest.manifest import WeightSource, weight_row

    (models / "face_landmarker.task").unlink()
    hub_server.files["face_landmarker.task"] = content = b"bundle"
    checksum = hashlib.sha256(content).hexdigest()
    source = WeightSource(kind="url", url=f"{hub_server.address}/face_landmarker.task")
    row = replace(weight_row("face_landmarker"), source=source, bytes=len(content), sha256=checksum)
    monkeypatch.setattr(weights, "weight_row", lambda name: row)
    with pytest.raises(OSError, match="download_if_missing"):
        LoadFaceDetector().load("face_landmarker", False)
    assert hub_server.requests == []
    (handle,) = LoadFaceDetector().load("face_landmarker", True)
    assert handle.path == str(models / "face_landmarker.task")
    assert Path(handle.path).read_bytes() == content
