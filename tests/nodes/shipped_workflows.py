"""The shipped workflows in both forms, and the nodes they are made of."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = (
    *("audio_only", "combined", "emotion", "expression_edit", "video_edit", "motion_only"),
    *("kdtalker_audio_only", "kdtalker_driven_pose", "emotion_grid"),
    *("actalker_audio", "actalker_motion", "actalker_combined", "actalker_gates"),
    *("fantasytalking_audio", "fantasytalking_intensity", "fantasytalking_long", "fantasytalking_core_wan"),
)
ON_CORE_WAN = "fantasytalking_core_wan"
"""Runs on ComfyUI's own Wan, 30 GB of weights, so not here: form, twin, wires and refusal are tested here, a run on
small weights in a real ComfyUI (tests/test_comfyui_wan_workflow.py)."""
RUNNABLE = tuple(name for name in WORKFLOWS if name != ON_CORE_WAN)
CORE_WAN_NODES = Path(__file__).with_name("core_wan_nodes.json")
"""Inputs and outputs of ComfyUI's nodes that it uses, of which the runner brings none; of long choices those used."""
DRAWN_ONLY = ("MarkdownNote", "Note")


def ui_form(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def api_form(name: str) -> dict:
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))


def known_nodes() -> dict[str, type]:
    """The runner's nodes, and stand-ins with the inputs and outputs of those of ComfyUI that it does not bring."""
    from talking_portrait.headless.registry import node_classes

    described = json.loads(CORE_WAN_NODES.read_text(encoding="utf-8"))
    assert not set(described) & set(node_classes())
    return {**node_classes(), **{name: _stand_in(name, **entry) for name, entry in described.items()}}


def _stand_in(name: str, inputs: dict, outputs: list, output_names: list) -> type:
    declared = classmethod(lambda _: inputs)
    return type(name, (), {"INPUT_TYPES": declared, "RETURN_TYPES": outputs, "RETURN_NAMES": output_names})
