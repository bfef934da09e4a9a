"""FantasyTalking's nodes for ComfyUI's own Wan: listed everywhere, run in ComfyUI, and what they hand on."""

import pytest
import torch
from talking_portrait.runtime import fantasytalking_core, fantasytalking_core_guider
from talking_portrait.runtime.fantasytalking_core_weights import OutsideComfyUIError

pytestmark = pytest.mark.usefixtures("host_folders")

CORE_NODES = {
    "TP_LoadFantasyTalkingAdapter": {"weights": "automatic"},
    "TP_FantasyTalkingForWan": {
        **{"model": None, "adapter": None, "audio_embeds": None},
        **{"audio_scale": 1.0, "fps": 23.0, "frames": 0},
    },
    "TP_FantasyTalkingGuider": {
        **{"model": None, "positive": None, "negative": None},
        **{"prompt_guidance": 5.0, "audio_guidance": 5.0},
    },
}


@pytest.mark.parametrize("node_id", CORE_NODES)
def test_outside_comfyui_one_sentence_says_what_to_use(nodes, node_id):
    node = nodes[node_id]
    with pytest.raises(OutsideComfyUIError) as error:
        getattr(node(), node.FUNCTION)(**CORE_NODES[node_id])
    message = str(error.value)
    assert "runs in ComfyUI only" in message
    assert "FantasyTalking Sampler" in message
    assert "\n" not in message


def test_the_headless_runner_lists_them():
    from talking_portrait.headless.registry import local_definitions

    assert {*CORE_NODES, "TP_WanSigmas"} <= set(local_definitions())


def test_sigmas_are_the_releases(nodes):
    (sigmas,) = nodes["TP_WanSigmas"]().make(30, 5.0)
    even = torch.linspace(1, 0, 31)
    torch.testing.assert_close(sigmas, 5 * even / (1 + 4 * even))
    assert (sigmas[0], sigmas[-1]) == (1, 0)


def test_the_nodes_choices_reach_the_model(nodes, monkeypatch):
    given = []

    def patched_model(*arguments):
        given.extend(arguments)
        return "patched", 81

    monkeypatch.setattr(fantasytalking_core, "patched_model", patched_model)
    found = nodes["TP_FantasyTalkingForWan"]().patch(
        "model", "adapter", "audio", 0.5, 25.0, 0, "release", False
    )
    assert found == ("patched", 81, 25.0)
    assert given[:3] == ["model", "adapter", "audio"]
    assert given[3] == fantasytalking_core.SoundOptions(None, 25.0, 0.5, "release", False)


@pytest.mark.parametrize(("by_sound", "audio"), [(True, 4.5), (False, None)])
def test_the_nodes_choices_reach_the_guider(nodes, monkeypatch, by_sound, audio):
    monkeypatch.setattr(fantasytalking_core_guider, "new_guider", lambda *arguments: arguments)
    ((*given, schedule),) = nodes["TP_FantasyTalkingGuider"]().guide(
        "model", "positive", "negative", 3.0, 4.5, 0.1, 0.9, 0.2, 0.7, by_sound
    )
    assert given == ["model", "positive", "negative"]
    assert (schedule.scales.prompt, schedule.scales.audio) == (3.0, audio)
    assert (schedule.prompt.start, schedule.prompt.end) == (0.1, 0.9)
    assert (schedule.audio.start, schedule.audio.end) == (0.2, 0.7)


def test_an_interval_that_ends_before_it_begins_is_refused(nodes):
    with pytest.raises(ValueError, match=r"from 0\.8 to 0\.2"):
        nodes["TP_FantasyTalkingGuider"]().guide("m", "p", "n", 5.0, 5.0, audio_start=0.8, audio_end=0.2)
