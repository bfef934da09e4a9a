"""What a small FantasyTalking shows on people and sentences it never saw: sync, motion by its coefficients, likeness.

Clips are made as by the nodes, from a clip's first frame and its sound, and read by a `TalkingReader`; truths are the
made heads' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from ..core_models.types import AudioEmbedding, ProgressCallback
from ..core_models.video_diffusion.fantasytalking.conditions import IDENTITY_SCALE
from ..core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from ..core_models.video_diffusion.fantasytalking.performance import talking_scene
from ..core_models.video_diffusion.fantasytalking.scene_options import PER_FRAME, FantasyTalkingOptions
from ..core_models.video_diffusion.wan.image_conditions import first_frame_mask, image_conditions
from ..core_models.video_types import Identity
from ..core_models.wan_types import NEUTRAL_INTENSITY, MotionIntensity
from .actalker_latents import pictures_of_frames
from .correlation import correlation
from .fantasytalking import face_picture
from .fantasytalking_data import HEARD_PER_FRAME, TalkingClip
from .fantasytalking_latents import clip_latents, frames_of_latents, start_latents
from .fantasytalking_readers import ClipReadings, TalkingReader
from .identity_reader import likeness

OWN_ENCODER = "portrait_encoder"
"""What identities made here are called."""


@dataclass(frozen=True)
class Setting:
    """How a clip is made. audio_scale, identity_scale: how strongly each acts. face, body: how much is moved, 0..1.
    pictured: whether its first frame is shown."""

    audio_scale: float = 1.0
    identity_scale: float = IDENTITY_SCALE
    face: float = NEUTRAL_INTENSITY
    body: float = NEUTRAL_INTENSITY
    pictured: bool = True


TRUTH, PLAIN, SILENT, NAMELESS = "the clip itself", "neutral", "without sound", "without identity"
FROM_IDENTITY, FROM_NOTHING = "without picture", "without picture and identity"
SUBTLE, INTENSE = 0.1, 1.0
"""The paper's coefficients beside the neutral one."""
SETTINGS: dict[str, Setting] = {
    PLAIN: Setting(),
    SILENT: Setting(audio_scale=0.0),
    NAMELESS: Setting(identity_scale=0.0),
    FROM_IDENTITY: Setting(pictured=False),
    FROM_NOTHING: Setting(pictured=False, identity_scale=0.0),
    "both 0.1": Setting(face=SUBTLE, body=SUBTLE),
    "both 1.0": Setting(face=INTENSE, body=INTENSE),
    "face 0.1": Setting(face=SUBTLE),
    "face 1.0": Setting(face=INTENSE),
    "body 0.1": Setting(body=SUBTLE),
    "body 1.0": Setting(body=INTENSE),
}
"""What is made of each clip; TRUTH, the clip as the autoencoder gives it back, stands beside them."""


@dataclass(frozen=True)
class EvaluationOptions:
    """hearing: "frames" or "clip". steps, audio_guidance: of the sampler; None is the model's own. seed: of the
    noise."""

    hearing: str = PER_FRAME
    steps: int | None = None
    audio_guidance: float | None = None
    seed: int = 0


def settings_of(model: FantasyTalkingModel) -> dict[str, Setting]:
    """Return the settings that make a difference to a model: without a branch its settings are left out."""
    return {
        name: one
        for name, one in SETTINGS.items()
        if (model.identity is not None or (one.identity_scale != 0 and one.pictured))
        and (model.intensity is not None or (one.face, one.body) == (NEUTRAL_INTENSITY, NEUTRAL_INTENSITY))
    }


def chosen_clips(clips: Sequence[TalkingClip], count: int) -> list[TalkingClip]:
    """Return `count` clips, spread over all. Raises ValueError for no trial or more than there are clips."""
    if not 1 <= count <= len(clips):
        raise ValueError(
            f"there are {len(clips)} clips for {count} trials, expected 1 to {len(clips)} trials"
        )
    return [clips[index] for index in np.linspace(0, len(clips) - 1, count).astype(int)]


@torch.no_grad()
def made_frames(
    model: FantasyTalkingModel,
    autoencoder: AutoencoderKLWan,
    clip: TalkingClip,
    setting: Setting = Setting(),
    options: EvaluationOptions = EvaluationOptions(),
) -> np.ndarray:
    """Return (N, 64, 64, 3) uint8 frames that a model makes of a clip's first frame and its sound.

    The noise depends on the seed alone. Raises what `talking_scene` raises.
    """
    start = start_latents(autoencoder, clip.frames[0], len(clip))
    intensity = MotionIntensity(setting.face, setting.body) if model.intensity is not None else None
    scene = talking_scene(
        model,
        image_conditions(first_frame_mask(*start.shape[1:]), start) * float(setting.pictured),
        audio=sound_of(model, clip),
        identity=identity_of(model, clip),
        intensity=intensity,
        options=FantasyTalkingOptions(
            steps=options.steps,
            audio_guidance=options.audio_guidance,
            audio_scale=setting.audio_scale,
            identity_scale=setting.identity_scale,
            hearing=options.hearing,
            frames=len(clip),
            seed=options.seed,
        ),
    )
    return frames_of_latents(autoencoder, scene.latents)[: scene.length.kept]


def sound_of(model: FantasyTalkingModel, clip: TalkingClip) -> AudioEmbedding:
    """Return what is heard during a clip, and nothing beyond it."""
    parameters = model.parameters_used
    fps = parameters.defaults.fps
    features = torch.from_numpy(np.array(clip.heard_within, np.float32))
    return AudioEmbedding(features, HEARD_PER_FRAME * fps, len(clip) / fps, parameters.listening)


def identity_of(model: FantasyTalkingModel, clip: TalkingClip) -> Identity | None:
    """Return who a clip's first frame shows, to the model's own encoder; None for a model without one."""
    if model.portrait_encoder is None:
        return None
    face = face_picture(clip.frames[0], clip.face_box[0])
    weight = model.portrait_encoder.features.weight
    embedding = model.portrait_encoder(pictures_of_frames(face[None]).to(weight))[0]
    return Identity(embedding.float().cpu().numpy(), face, OWN_ENCODER)


def references_of(clip: TalkingClip, clips: Sequence[TalkingClip]) -> list[TalkingClip]:
    """Return the person's other clips; the clip itself where there are none."""
    return [one for one in clips if one is not clip and one.identity_seed == clip.identity_seed] or [clip]


def measures(
    read: ClipReadings, clip: TalkingClip, own: Sequence[np.ndarray], others: Sequence[np.ndarray]
) -> dict[str, float]:
    """Return what is measured of a clip's frames.

    "mouth follows": correlation of the mouth's opening with the truth. "mouth moves": its spread, over the face's
    height. "face moves": degrees, "body moves": pixels, see `ClipReadings`. "likeness": mean cosine with the person's
    other clips, "likeness of others": with other people's; left out where there are none.
    own, others: embeddings of those clips.
    """
    found = {
        "mouth follows": float(correlation(read.mouth, clip.mouth_opening)),
        "mouth moves": float(read.mouth.std()),
        "face moves": read.face_motion,
        "body moves": read.body_motion,
        "likeness": likeness(read.person, own),
    }
    return {**found, "likeness of others": likeness(read.person, others)} if len(others) else found


def measured(
    model: FantasyTalkingModel,
    autoencoder: AutoencoderKLWan,
    reader: TalkingReader,
    clips: Sequence[TalkingClip],
    count: int,
    options: EvaluationOptions = EvaluationOptions(),
    progress: ProgressCallback | None = None,
) -> dict[str, dict[str, float]]:
    """Return {setting: {measure: mean over `count` clips}}, TRUTH first. See `measures`.

    progress: called with (clips done, clips). Raises what `chosen_clips` raises.
    """
    trials, settings = chosen_clips(clips, count), settings_of(model)
    people = [reader.read(clip.frames).person for clip in clips]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (TRUTH, *settings)}
    for number, clip in enumerate(trials):
        references = {id(one) for one in references_of(clip, clips)}
        own = [person for person, one in zip(people, clips, strict=True) if id(one) in references]
        others = [
            person
            for person, one in zip(people, clips, strict=True)
            if one.identity_seed != clip.identity_seed
        ]
        given_back = frames_of_latents(autoencoder, clip_latents(autoencoder, clip.frames))
        found[TRUTH].append(measures(reader.read(given_back), clip, own, others))
        for name, setting in settings.items():
            frames = made_frames(model, autoencoder, clip, setting, options)
            found[name].append(measures(reader.read(frames), clip, own, others))
        if progress is not None:
            progress(number + 1, len(trials))
    return {name: _means(rows) for name, rows in found.items()}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
