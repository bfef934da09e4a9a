"""Sound: features that steer a face, and lengths that fit whole frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core_models.types import KeypointDiffusionModels
    from ..core_models.video_types import ACTalkerModels
    from ..core_models.wan_types import FantasyTalkingModels

CATEGORY = "TalkingPortrait/Audio"


AUTOMATIC = "automatic"


class AudioEmbedding:
    """Features of speech, by one of the known encoders."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Turns speech into the features that a motion model listens to."
    RETURN_TYPES = ("AUDIO_EMBEDS",)
    RETURN_NAMES = ("audio_embeds",)
    OUTPUT_TOOLTIPS = ("Features at a steady rate, for a sampler.",)
    FUNCTION = "embed"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.audio.embedding import ENCODER_NAMES

        return {
            "required": {
                "audio": (
                    "AUDIO",
                    {"tooltip": "Speech of any rate; several channels are mixed into one."},
                ),
                "encoder": (
                    [AUTOMATIC, *ENCODER_NAMES],
                    {
                        "default": AUTOMATIC,
                        "tooltip": "What listens to the sound: log_mel for the pocket model, wav2lip for KDTalker, "
                        "hubert (all layers of HuBERT large) for Takin-ADA, whisper (all layers of Whisper tiny) for "
                        "ACTalker, wav2vec2 (the last layer of wav2vec 2.0) for FantasyTalking, pocket_listener (the "
                        "pocket model's ear, no download) for small models trained with this package. automatic takes "
                        "what the connected model needs; without one, log_mel.",
                    },
                ),
            },
            "optional": {
                "model": (
                    "KEYPOINT_DIFFUSION",
                    {"tooltip": "From Load Keypoint Diffusion: which model is to listen, for automatic."},
                ),
                "actalker": (
                    "ACTALKER",
                    {"tooltip": "From Load ACTalker: the model that is to listen instead, for automatic."},
                ),
                "fantasytalking": (
                    "FANTASYTALKING",
                    {
                        "tooltip": "From Load FantasyTalking: the model that is to listen instead, for automatic."
                    },
                ),
            },
        }

    def embed(
        self,
        audio: dict[str, Any],
        encoder: str,
        model: KeypointDiffusionModels | None = None,
        actalker: ACTalkerModels | None = None,
        fantasytalking: FantasyTalkingModels | None = None,
    ) -> tuple[Any]:
        from ..core_models.audio.decode import sound_from_comfy
        from ..runtime.host import host
        from ..runtime.speech_encoders import embedded_speech, wanted_encoder

        encoder = wanted_encoder(model, actalker, fantasytalking) if encoder == AUTOMATIC else encoder
        return (embedded_speech(sound_from_comfy(audio), encoder, model, host().progress(1).update),)


class MatchAudioToFrames:
    """Silence appended up to the end of the last frame."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Appends silence so that the sound lasts exactly as long as whole video frames. Nothing is cut."
    )
    RETURN_TYPES = ("AUDIO", "INT", "FLOAT")
    RETURN_NAMES = ("audio", "frame_count", "fps")
    OUTPUT_TOOLTIPS = (
        "The sound, as long as frame_count frames.",
        "How many frames cover the sound.",
        "The frame rate, passed on.",
    )
    FUNCTION = "match"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "audio": ("AUDIO", {"tooltip": "The sound to lengthen."}),
                "fps": (
                    "FLOAT",
                    {
                        "default": 25.0,
                        "min": 1.0,
                        "max": 240.0,
                        "step": 0.01,
                        "tooltip": "Frames per second of the video. 29.97 and 23.976 mean the exact "
                        "broadcast rates.",
                    },
                ),
            }
        }

    def match(self, audio: dict[str, Any], fps: float) -> tuple[dict[str, Any], int, float]:
        from ..core_models.audio.decode import sound_from_comfy, sound_to_comfy
        from ..core_models.audio.resample import pad_to_frames

        sound, frame_count = pad_to_frames(sound_from_comfy(audio), fps)
        return sound_to_comfy(sound), frame_count, fps
