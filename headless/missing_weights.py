"""Which weight files the loaders of a graph would look for in vain, found without running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.weight_plan import plan_fetch
from ..runtime.weights import WeightNotFoundError, find_weight
from .graph import Graph, InputSpecification, is_link, title_of
from .widgets import default_value, is_widget

Definitions = Mapping[str, Mapping[str, InputSpecification]]


@dataclass(frozen=True)
class MissingWeights:
    """What a node misses.

    system: what to fetch, of the weights manifest. files: {name: bytes or None} of the missing ones, those that a
    person has to get in `by_hand`. is_fetched: whether the node fetches them itself when it runs. reason: what the node
    would say.
    """

    node_id: str
    title: str
    system: str
    files: Mapping[str, int | None]
    by_hand: tuple[str, ...]
    is_fetched: bool
    reason: str

    @property
    def command(self) -> str:
        """What fetches the files."""
        return f"talking-portrait weights fetch {self.system}"


OWN_SYSTEMS = {"actalker": ("actalker", "svd_xt_1_1", "arcface")}
"""{what to fetch: the systems of the manifest whose rows its loader needs}; where not listed, that system itself."""


class _Absent:
    """Stands for the output of a node that was not looked at: no loader, or one whose files are missing."""


_ABSENT = _Absent()

_Inputs = Mapping[str, Any]
_Lookup = Callable[[_Inputs], Any]


def missing_weights(graph: Graph, node_ids: list[str], definitions: Definitions) -> list[MissingWeights]:
    """Return what the loaders among some nodes of a valid graph miss, in the graph's order.

    node_ids: those that run. Nothing is loaded: the loaders' files are looked for, as they themselves would.
    """
    search = _Search(graph, definitions)
    for node_id in node_ids:
        search.output(node_id)
    return sorted(search.missing, key=lambda missing: list(graph).index(missing.node_id))


class _Search:
    """Looks for the files of each loader, origins first, so that a node knows what model it is connected to."""

    def __init__(self, graph: Graph, definitions: Definitions) -> None:
        self._graph, self._definitions = graph, definitions
        self._outputs: dict[str, Any] = {}
        self.missing: list[MissingWeights] = []

    def output(self, node_id: str) -> Any:
        """Return the handles that a loader would give; _ABSENT for other nodes, and where files are missing."""
        if node_id not in self._outputs:
            lookup = _LOOKUPS.get(self._graph[node_id]["class_type"])
            self._outputs[node_id] = _ABSENT if lookup is None else self._found(node_id, *lookup)
        return self._outputs[node_id]

    def _found(self, node_id: str, system_of: Callable[[_Inputs], str], lookup: _Lookup) -> Any:
        inputs = self._inputs(node_id)
        try:
            return lookup(inputs)
        except WeightNotFoundError as error:
            self.missing.append(self._described(node_id, system_of(inputs), inputs, str(error)))
        except (OSError, ValueError):
            pass  # wrong for another reason, which the node tells when it runs
        return _ABSENT

    def _inputs(self, node_id: str) -> dict[str, Any]:
        node = self._graph[node_id]
        declared = self._definitions[node["class_type"]]
        values = {name: default_value(s) for name, s in declared.items() if is_widget(s)}
        for name, value in node["inputs"].items():
            values[name] = self.output(value[0]) if is_link(value) and value[0] in self._graph else value
        return values

    def _described(self, node_id: str, system: str, inputs: _Inputs, reason: str) -> MissingWeights:
        plan, systems = plan_fetch([system]), OWN_SYSTEMS.get(system, (system,))
        rows = [*(row for row, _ in plan.fetch), *plan.by_hand]
        own = [row for row in rows if row.system in systems or row.name == system]
        by_hand = tuple(row.file for row in own if row in plan.by_hand)
        files = {row.file: row.bytes for row in own}
        fetches = inputs.get("download_if_missing") is True and not by_hand
        title = title_of(self._graph, node_id)
        return MissingWeights(node_id, title, system, files, by_hand, fetches, reason)


def _face_detector(inputs: _Inputs) -> Any:
    return find_weight(inputs["model"])


def _liveportrait(inputs: _Inputs) -> Any:
    from ..nodes.liveportrait import LIVEPORTRAIT
    from ..runtime.renderer_models import liveportrait_models

    return liveportrait_models("float32") if inputs["model"] == LIVEPORTRAIT else _ABSENT


def _keypoint_diffusion(inputs: _Inputs) -> Any:
    from ..runtime.keypoint_diffusion_models import keypoint_diffusion_models

    return keypoint_diffusion_models(inputs["model"], "float32")


def _actalker(inputs: _Inputs) -> Any:
    from ..runtime.actalker_models import actalker_models

    return actalker_models(inputs["model"], "float32")


def _wan(inputs: _Inputs) -> Any:
    from ..runtime.fantasytalking_models import wan_models

    return wan_models(inputs["model"], "float32", transformer=inputs["transformer_file"])


def _fantasytalking(inputs: _Inputs) -> Any:
    from ..runtime.fantasytalking_core_weights import adapter_path
    from ..runtime.fantasytalking_models import fantasytalking_models

    if inputs.get("wan") is _ABSENT:  # the published Wan, whose audio weights are looked for without it
        return adapter_path(inputs["weights"]) and _ABSENT
    return fantasytalking_models(inputs["wan"], inputs["weights"])


def _audio_weights(inputs: _Inputs) -> Any:
    from ..runtime.fantasytalking_core_weights import adapter_path

    return adapter_path(inputs["weights"])


def _listener(inputs: _Inputs) -> Any:
    """Look for what Audio Embedding hears with; what a model brings itself was looked for with the model."""
    from ..runtime import speech_encoders

    handles = {
        speech_encoders.HUBERT_LARGE: speech_encoders.hubert_handle,
        speech_encoders.WHISPER_TINY: speech_encoders.whisper_handle,
        speech_encoders.WAV2VEC2_BASE: speech_encoders.wav2vec2_handle,
    }
    system = _listener_system(inputs)
    return handles[system]() if system in handles else _ABSENT


def _listener_system(inputs: _Inputs) -> str:
    from ..core_models.audio.embedding import HUBERT, WAV2VEC2, WHISPER
    from ..runtime.speech_encoders import HUBERT_LARGE, WAV2VEC2_BASE, WHISPER_TINY

    systems = {HUBERT: HUBERT_LARGE, WHISPER: WHISPER_TINY, WAV2VEC2: WAV2VEC2_BASE}
    return systems.get(_wanted_encoder(inputs), "")


def _wanted_encoder(inputs: _Inputs) -> str:
    from ..core_models.audio.embedding import WAV2VEC2, WHISPER
    from ..nodes.audio import AUTOMATIC
    from ..runtime.speech_encoders import wanted_encoder

    if inputs["encoder"] != AUTOMATIC:
        return inputs["encoder"]
    models = [inputs.get(name) for name in ("model", "actalker", "fantasytalking")]
    if models[1] is _ABSENT:  # only the published models can be missing
        return WHISPER
    if models[2] is _ABSENT:
        return WAV2VEC2
    return wanted_encoder(*[None if model is _ABSENT else model for model in models])


_LOOKUPS: dict[str, tuple[Callable[[_Inputs], str], _Lookup]] = {
    "TP_LoadFaceDetector": (lambda inputs: inputs["model"], _face_detector),
    "TP_LoadLivePortrait": (lambda _: "liveportrait", _liveportrait),
    "TP_LoadKeypointDiffusion": (lambda _: "kdtalker", _keypoint_diffusion),
    "TP_LoadACTalker": (lambda _: "actalker", _actalker),
    "TP_LoadWan": (lambda _: "wan21_i2v_14b", _wan),
    "TP_WanLoRA": (lambda _: "", lambda inputs: inputs["wan"]),
    "TP_LoadFantasyTalking": (lambda _: "fantasytalking", _fantasytalking),
    "TP_LoadFantasyTalkingAdapter": (lambda _: "fantasytalking", _audio_weights),
    "TP_AudioEmbedding": (_listener_system, _listener),
}
"""{class name: (what to fetch, how its files are looked for)} of the nodes that need weight files."""
