"""The shipped manifest against its JSON schema, and the schema against the dataclasses."""

import json
import re
from dataclasses import fields

import pytest
from talking_portrait.weights_manifest.manifest import MANIFEST_FILE, SOURCE_KEYS, WeightRow

SCHEMA = json.loads(MANIFEST_FILE.with_name("manifest.schema.json").read_text(encoding="utf-8"))
JSON_TYPES = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def problems(value, schema, place="manifest"):
    """Return what JSON Schema objects to, for the key words that the manifest's schema uses."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if "oneOf" in schema:
        found = [problems(value, option, place) for option in schema["oneOf"]]
        return [] if sum(not entry for entry in found) == 1 else [f"{place} fits none of its forms: {found}"]
    if "const" in schema:
        return [] if value == schema["const"] else [f"{place} is not {schema['const']!r}"]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if type(value) not in [JSON_TYPES[kind] for kind in kinds]:
        return [f"{place} is not of type {kinds}"]
    return [*_value_problems(value, schema, place), *_member_problems(value, schema, place)]


def _value_problems(value, schema, place):
    found = []
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{place} does not match {schema['pattern']}")
    if isinstance(value, str) and len(value) < schema.get("minLength", 0):
        found.append(f"{place} is too short")
    if isinstance(value, int) and value < schema.get("minimum", value):
        found.append(f"{place} is too small")
    return found


def _member_problems(value, schema, place):
    if isinstance(value, list):
        return [
            line
            for i, entry in enumerate(value)
            for line in problems(entry, schema["items"], f"{place}[{i}]")
        ]
    if not isinstance(value, dict):
        return []
    known, other = schema.get("properties", {}), schema.get("additionalProperties")
    found = [f"{place} lacks {name}" for name in schema.get("required", []) if name not in value]
    for name, entry in value.items():
        if name in known or isinstance(other, dict):
            found += problems(entry, known.get(name, other), f"{place}.{name}")
        else:
            found.append(f"{place} has the unknown field {name}")
    return found


def test_shipped_manifest_fits():
    assert problems(json.loads(MANIFEST_FILE.read_text(encoding="utf-8")), SCHEMA) == []


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("colour", "red", "unknown field colour"),
        ("bytes", 0, "bytes is too small"),
        ("sha256", "xyz", "sha256 does not match"),
        ("gated", "no", "gated is not of type"),
        ("source", {"kind": "url"}, "fits none of its forms"),
    ],
)
def test_schema_refuses(field, value, expected):
    content = json.loads(MANIFEST_FILE.read_text(encoding="utf-8"))
    content["rows"][0][field] = value
    assert any(expected in line for line in problems(content, SCHEMA))


def test_schema_and_dataclasses_name_the_same_fields():
    row = SCHEMA["$defs"]["row"]
    assert set(row["properties"]) == set(row["required"]) == {field.name for field in fields(WeightRow)}
    forms = {
        form["properties"]["kind"]["const"]: set(form["properties"]) - {"kind"}
        for form in SCHEMA["$defs"]["source"]["oneOf"]
    }
    assert forms == SOURCE_KEYS
