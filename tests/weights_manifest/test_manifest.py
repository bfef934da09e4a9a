"""The manifest's rows and what is refused."""

import json

import pytest
from talking_portrait.weights_manifest.manifest import (
    MANIFEST_FILE,
    PACKAGE_FOLDER,
    alternatives,
    parse_row,
    read_manifest,
    read_systems,
    system_names,
    system_rows,
    weight_names,
    weight_row,
)


def shipped_row(**changes):
    row = dict(json.loads(MANIFEST_FILE.read_text())["rows"][0])
    row.update(changes)
    return row


def test_shipped_manifest_is_sound():
    rows = read_manifest()
    assert {"face_landmarker", "pocket"} <= set(rows) == set(weight_names())
    for row in rows.values():
        assert row.licence
        assert row.role
        if row.source.kind == "url":
            assert row.source.url.startswith("https://")
            assert row.sha256
            assert row.bytes
            assert "latest" not in row.source.url  # a floating address would change under the checksum
        if row.source.kind == "embedded":
            assert (PACKAGE_FOLDER / row.source.path).parent.is_dir()


def test_bundle_row_matches_the_file(face_bundle):
    from talking_portrait.weights_manifest.fetching import problem_with_file

    assert problem_with_file(face_bundle, weight_row("face_landmarker")) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"'face_landmarker' has unknown field\(s\) colour"),
        ({"sha256": "ABC"}, "64 lower-case hex"),
        ({"bytes": 0}, "bytes is 0"),
        ({"bytes": "3"}, r"'face_landmarker': bytes is '3', expected int or null"),
        ({"gated": 1}, "gated is 1, expected bool"),
        ({"licence": ""}, "licence is ''"),
        ({"file": "../x.pth"}, "leads out"),
        ({"other_names": "x.pth"}, "other_names is 'x.pth', expected a list"),
        ({"other_names": [3]}, "expected texts"),
        ({"source": {"kind": "torrent"}}, "unknown kind of source 'torrent'"),
        ({"source": {"kind": "url"}}, "has the fields url"),
        ({"source": {"kind": "url", "url": "https://x", "path": "y"}}, "has the fields url"),
        ({"source": {"kind": "url", "adress": "https://x"}}, "adress"),
    ],
)
def test_bad_rows_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        parse_row(shipped_row(**changes))


def test_row_that_lacks_a_field():
    row = shipped_row()
    del row["licence"]
    with pytest.raises(ValueError, match=r"lacks the field\(s\) licence"):
        parse_row(row)


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"'pokect'.*face_landmarker, pocket"):
        weight_row("pokect")


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3}', '{"rows": [3]}'])
def test_damaged_manifest(text, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cannot read the weights manifest .*manifest\.json"):
        read_manifest(path)


def test_two_rows_of_one_name(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"rows": [shipped_row(), shipped_row()]}))
    with pytest.raises(ValueError, match="two rows of one name"):
        read_manifest(path)


def test_systems_stand_on_rows():
    assert {"liveportrait", "kdtalker", "takin_ada", "actalker", "fantasytalking", "face"} <= set(
        system_names()
    )
    names = {row.name for row in system_rows("kdtalker")}
    assert {"kdtalker", "kdtalker_wav2lip", "kdtalker_norm", "liveportrait_warping_module"} <= names
    assert {row.system for row in system_rows("face")} == {"face"}
    with pytest.raises(ValueError, match=r"'wan'.*fantasytalking"):
        system_rows("wan")


def test_system_on_unknown_rows(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"systems": {"a": ["nothing"]}, "rows": [shipped_row()]}))
    with pytest.raises(ValueError, match="'a' stands on nothing"):
        read_systems(path)


def test_every_published_file_has_a_row():
    """What the issue names, by how many files each system publishes and in which layouts."""
    rows = read_manifest()
    assert {row.layout for row in system_rows("liveportrait") if row.system == "liveportrait"} == {
        "liveportrait_safetensors",
        "liveportrait_pth",
    }
    assert {row.layout for row in rows.values() if row.system == "fantasytalking"} == {
        "fantasytalking_ckpt",
        "fantasytalking_safetensors",
        "fantasytalking_kijai",
    }
    made_here = ("actalker_pocket",)
    actalker = [row for row in rows.values() if row.system.startswith(("actalker", "arcface"))]
    actalker = [row for row in actalker if row.system not in made_here]
    assert len(actalker) >= 9
    assert all(row.source.kind == "manual" and "README" in row.source.instructions for row in actalker)
    assert {"svd_xt_1_1_unet", "whisper_tiny", "wav2vec2_base_960h", "hubert_large", "arcface_r50"} <= set(
        rows
    )
    transformers = alternatives(row for row in system_rows("wan21_i2v_14b") if "transformer" in row.role)
    assert len(transformers) == 1
    assert sorted(map(len, transformers[0])) == [1, 1, 1, 1, 7, 14]


def test_restrictions_are_marked():
    rows = read_manifest()
    assert all(rows[name].non_commercial for name in ("kdtalker", "insightface_det_10g", "arcface_r50"))
    assert rows["svd_xt_1_1_unet"].gated
    assert not rows["liveportrait_warping_module"].non_commercial


def test_files_do_not_overwrite_each_other():
    """Standalone, all rows share one folder."""
    files = [row.file for row in read_manifest().values()]
    assert len(set(files)) == len(files)
