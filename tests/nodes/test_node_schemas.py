"""Every node's schema is what ComfyUI, the headless runner and the help pages need."""

import inspect
import re
from pathlib import Path

import pytest
from talking_portrait.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

ROOT = Path(__file__).resolve().parents[2]
CORE_TYPES = {
    *("IMAGE", "MASK", "LATENT", "AUDIO", "INT", "FLOAT", "STRING", "BOOLEAN", "FACE_LANDMARKS"),
    *("BOUNDING_BOX", "MODEL", "CONDITIONING", "GUIDER", "SIGMAS"),
}
COMMUNITY_TYPES = {"POSE_KEYPOINT"}
"""Of widely used packs: only inputs that may stay open have them."""
OWN_TYPES = {
    *("PORTRAIT", "AUDIO_EMBEDS", "FACE_MOTION", "EMOTION", "FACE_MODEL", "KEYPOINT_DIFFUSION", "RENDERER"),
    *("KDTALKER_OPTIONS", "ACTALKER", "IDENTITY", "MOTION_EMBEDS", "SSM_CONTROL", "FANTASYTALKING"),
    *("WAN", "MOTION_INTENSITY", "FANTASYTALKING_ADAPTER"),
}
HIDDEN_TYPES = {"UNIQUE_ID", "PROMPT", "EXTRA_PNGINFO", "DYNPROMPT"}

pytestmark = pytest.mark.usefixtures("host_folders")
each_node = pytest.mark.parametrize("node_id", NODE_CLASS_MAPPINGS)


def visible_inputs(node: type) -> dict:
    types = node.INPUT_TYPES()
    return {**types.get("required", {}), **types.get("optional", {})}


def test_ids_are_prefixed_and_named_once():
    assert all(node_id.startswith("TP_") for node_id in NODE_CLASS_MAPPINGS)
    assert set(NODE_DISPLAY_NAME_MAPPINGS) == set(NODE_CLASS_MAPPINGS)
    names = list(NODE_DISPLAY_NAME_MAPPINGS.values())
    assert len(set(names)) == len(names)


@each_node
def test_inputs_are_well_formed(node_id):
    for name, (kind, options) in visible_inputs(NODE_CLASS_MAPPINGS[node_id]).items():
        assert options["tooltip"].endswith("."), name
        if isinstance(kind, list):
            assert kind, f"{name} is a choice without options"
            assert all(isinstance(option, str) for option in kind)
            assert options.get("default", kind[0]) in kind
        else:
            optional = name in NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES().get("optional", {})
            known = CORE_TYPES | OWN_TYPES | (COMMUNITY_TYPES if optional else set())
            assert kind in known, f"{name} has the unknown type {kind}"
            # Newer pages draw a widget for it, which would send a box nobody asked for.
            assert kind != "BOUNDING_BOX" or options["forceInput"]


@each_node
def test_number_ranges_hold_their_defaults(node_id):
    for name, (kind, options) in visible_inputs(NODE_CLASS_MAPPINGS[node_id]).items():
        if kind in ("INT", "FLOAT"):
            assert options["min"] <= options["default"] <= options["max"], name
            number = int if kind == "INT" else float
            assert isinstance(options["default"], number), name


@each_node
def test_outputs_are_named_and_described(node_id):
    node = NODE_CLASS_MAPPINGS[node_id]
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    assert set(node.RETURN_TYPES) <= CORE_TYPES | OWN_TYPES
    assert len(set(node.RETURN_NAMES)) == len(node.RETURN_NAMES)
    assert all(tooltip.endswith(".") for tooltip in node.OUTPUT_TOOLTIPS)


@each_node
def test_described_and_filed(node_id):
    node = NODE_CLASS_MAPPINGS[node_id]
    assert node.DESCRIPTION.endswith(".")
    assert re.fullmatch(r"TalkingPortrait/[A-Z][\w ]+", node.CATEGORY)
    assert node.__doc__


@each_node
def test_method_takes_exactly_the_inputs(node_id):
    node = NODE_CLASS_MAPPINGS[node_id]
    types = node.INPUT_TYPES()
    parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
    named = {name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD} - {"self"}
    takes_rest = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    declared = {name for part in ("required", "optional", "hidden") for name in types.get(part, {})}
    assert named <= declared
    assert takes_rest or named == declared
    for part in ("optional", "hidden"):  # these are not always passed
        for name in types.get(part, {}):
            assert parameters[name].default is not inspect.Parameter.empty, name
    assert set(types.get("hidden", {}).values()) <= HIDDEN_TYPES


@each_node
def test_fingerprint_and_validation_take_inputs_that_exist(node_id):
    node = NODE_CLASS_MAPPINGS[node_id]
    for name in ("VALIDATE_INPUTS", "IS_CHANGED"):
        check = getattr(node, name, None)
        if check is not None:
            parameters = inspect.signature(check).parameters.values()
            assert {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} <= set(visible_inputs(node))


@each_node
def test_help_page_says_what_the_schema_says(node_id):
    node = NODE_CLASS_MAPPINGS[node_id]
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {NODE_DISPLAY_NAME_MAPPINGS[node_id]}\n")
    rows = {}
    for line in page.splitlines():
        found = re.match(r"\* \*\*`(\w+)`\*\* \(.*?\): (.*)$", line)
        if found:
            rows.setdefault(found[1], []).append(found[2])
    described = [(name, options["tooltip"]) for name, (_, options) in visible_inputs(node).items()]
    described += list(zip(node.RETURN_NAMES, node.OUTPUT_TOOLTIPS, strict=True))
    for name, tooltip in described:
        assert tooltip in rows.get(name, []), f"{node_id}.md does not describe {name}"
    assert sum(map(len, rows.values())) == len(described), f"{node_id}.md describes what does not exist"


@each_node
def test_help_page_shows_the_node(node_id):
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    assert f"](pictures/{node_id}.png)" in page
    assert (ROOT / "web" / "docs" / "pictures" / f"{node_id}.png").stat().st_size > 1000


def test_no_help_page_without_its_node():
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert pages == set(NODE_CLASS_MAPPINGS)


def test_index_lists_every_node():
    index = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    missing = [node_id for node_id in NODE_CLASS_MAPPINGS if f"(../web/docs/{node_id}.md)" not in index]
    assert not missing


def test_region_inputs_are_the_motion_regions():
    from talking_portrait.core_models.motion.regions import MOTION_REGIONS

    for node_id in ("TP_MixMotion", "TP_AdjustMotion"):
        inputs = visible_inputs(NODE_CLASS_MAPPINGS[node_id])
        assert [name for name in inputs if name in MOTION_REGIONS] == list(MOTION_REGIONS)


def test_sampler_inputs_are_the_sampling_parameters():
    """Every setting of the pocket model is an input, with its default; 0 steps stand for the model's own.

    What Takin-ADA's sampling has besides is the weight of its emotion condition.
    """
    from dataclasses import fields

    from talking_portrait.core_models.keypoint_diffusion.sampler import SamplingParameters
    from talking_portrait.core_models.keypoint_diffusion.takin_ada_sampler import TakinADASamplingParameters

    inputs = visible_inputs(NODE_CLASS_MAPPINGS["TP_KeypointDiffusionSampler"])
    defaults = {name: options["default"] for name, (_, options) in inputs.items() if "default" in options}
    expected = {field.name: field.default for field in fields(SamplingParameters)}
    guidance = TakinADASamplingParameters().guidance
    assert defaults == {**expected, "steps": 0, "emotion_guidance": guidance}
    assert {field.name for field in fields(TakinADASamplingParameters)} - set(defaults) == {"guidance"}


def test_kdtalker_options_are_its_parameters():
    """Sampler and options together set everything KDTalker can be told, with its own defaults."""
    from dataclasses import fields

    from talking_portrait.core_models.keypoint_diffusion.kdtalker_performance import PerformanceParameters
    from talking_portrait.core_models.keypoint_diffusion.kdtalker_sampler import KDTalkerSamplingParameters

    expected = {
        field.name: field.default
        for parameters in (KDTalkerSamplingParameters, PerformanceParameters)
        for field in fields(parameters)
    }
    shown = {}
    for node_id in ("TP_KeypointDiffusionSampler", "TP_KDTalkerOptions"):
        inputs = visible_inputs(NODE_CLASS_MAPPINGS[node_id])
        shown |= {name: options["default"] for name, (_, options) in inputs.items() if "default" in options}
    assert {name: shown[name] for name in expected} == {**expected, "steps": 0}
