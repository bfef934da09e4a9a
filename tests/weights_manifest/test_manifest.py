"""The manifest's rows and what is refused."""

import json

import pytest
from talking_portrait.weights_manifest.manifest import (
    MANIFEST_FILE,
    PACKAGE_FOLDER,
    parse_row,
    read_manifest,
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
