"""ACTalker: the model, a clip's latents sampled window by window, and its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core_models.types import Portrait, PortraitVideo
    from ..core_models.video_types import ACTalkerModels, Identity, MaskedControl

CATEGORY = "TalkingPortrait/ACTalker"

ACTALKER_INPUT = ("ACTALKER", {"tooltip": "From Load ACTalker."})


class LoadACTalker:
    """An ACTalker, as handles."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Chooses the video diffusion model that sound and motion steer at once, each in its own part of the face. The "
        "pocket model ships with this pack, makes clips of 64 pixels and knows only made heads; the published ACTalker "
        "needs files that you get yourself and a large graphics card. Connect it to Audio Embedding too, which then "
        "listens as the model needs. Nothing is fetched unless you switch it on."
    )
    RETURN_TYPES = ("ACTALKER",)
    RETURN_NAMES = ("actalker",)
    OUTPUT_TOOLTIPS = (
        "For Identity Embedding, Motion Embedding, Audio Embedding, ACTalker Sampler and ACTalker Decode.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.actalker_models import actalker_choices
        from ..runtime.renderer_models import PRECISIONS

        names = actalker_choices()
        return {
            "required": {
                "model": (
                    names,
                    {
                        "default": names[0],
                        "tooltip": "pocket: small, on any computer, for made heads. ACTalker: the published model. "
                        "Models trained here are listed by their files.",
                    },
                )
            },
            "optional": {
                "precision": (
                    list(PRECISIONS),
                    {
                        "default": "auto",
                        "tooltip": "How model and autoencoder are computed. auto: float16 for the published model on a "
                        "graphics card, else float32. Where float16 overflows, bfloat16 does not.",
                    },
                ),
                "download_if_missing": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Fetch Whisper tiny and the autoencoder when only these are missing; other files "
                        "of the published model only a person can get.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, model: str | None = None, **_: Any) -> str:
        from ..runtime.actalker_models import trained_actalker_stamp

        return "" if model is None else trained_actalker_stamp(model)

    def load(
        self, model: str, precision: str = "auto", download_if_missing: bool = False
    ) -> tuple[ACTalkerModels]:
        from ..runtime.actalker_models import actalker_models
        from ..runtime.host import host

        return (actalker_models(model, precision, download_if_missing, host().progress(1).update),)


def _count(tooltip: str, largest: int, default: int = 0, smallest: int = 0, step: int = 1):
    options = {"default": default, "min": smallest, "max": largest, "step": step, "tooltip": tooltip}
    return "INT", options


def _bucket(tooltip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": -1.0, "min": -1.0, "max": 128.0, "step": 1.0, "tooltip": tooltip}


class ACTalkerSampler:
    """A portrait that moves as sound and motion say, as latents."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes the clip: a portrait moved by the sound and motion of a Masked SSM Controller, sampled in windows that "
        "move on from step to step, so that no seam stays. Shows the frames as they clear up; Cancel ends it within a "
        "window."
    )
    RETURN_TYPES = ("LATENT", "FLOAT", "INT")
    RETURN_NAMES = ("latent", "fps", "frame_count")
    OUTPUT_TOOLTIPS = (
        "The clip's frames for ACTalker Decode, or for VAE Decode with the VAE of Stable Video Diffusion.",
        "Frames per second, the model's.",
        "How many frames the clip has.",
    )
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.video_diffusion.actalker.prepared_picture import FRAMINGS
        from ..runtime.actalker_memory import STREAM_CHOICES

        return {
            "required": {
                "actalker": ACTALKER_INPUT,
                "portrait": ("PORTRAIT", {"tooltip": "Who moves: a picture, from Portrait."}),
                "identity": (
                    "IDENTITY",
                    {"tooltip": "Who it is, from Identity Embedding with the same model."},
                ),
                "control": (
                    "SSM_CONTROL",
                    {"tooltip": "What steers which part of the face, from Masked SSM Controller."},
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 0xFFFFFFFFFFFFFFFF,
                        "control_after_generate": True,
                        "tooltip": "The same seed gives the same clip.",
                    },
                ),
                "framing": (
                    list(FRAMINGS),
                    {
                        "default": FRAMINGS[0],
                        "tooltip": "What the model sees and the clip shows: the whole picture, as in the release, or a "
                        "square around the face, which the pocket model was trained on.",
                    },
                ),
                "image_size": _count(
                    "Pixels of the shorter side; both sides are rounded to what the model can take (64 pixels, pocket "
                    "16). 0 is the model's own: 576, pocket 64.",
                    2048,
                    step=16,
                ),
                "steps": _count("Denoising steps. 0 is the model's own; the release's are 25.", 200),
                "identity_guidance": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 30.0,
                        "step": 0.1,
                        "tooltip": "How far the result is pushed towards the portrait; 1 is not at all. 0 is the "
                        "model's own; the release's is 2.",
                    },
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.05,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "Below 1 the first steps are left out, and the clip stays nearer to the portrait.",
                    },
                ),
                "frames": _count(
                    "Frames of the clip. 0 covers the sound where it is let through at all, else the motion.",
                    5000,
                ),
            },
            "optional": {
                "head_motion": _bucket(
                    "How much the head is to move, as the model was told in training. -1 is the model's own; the "
                    "release's is 12."
                ),
                "expression_motion": _bucket(
                    "How much the expression is to move, likewise. -1 is the model's own; the release's is 20."
                ),
                "window": _count("Frames sampled together. 0 is the model's own; the release's are 25.", 200),
                "overlap": _count("Frames that neighbouring windows share; 0 as in the release.", 100),
                "shift": _count(
                    "Frames by which the windows move on from step to step; 0 leaves them where they are. -1 is the "
                    "model's own; the release's are 7.",
                    100,
                    -1,
                    -1,
                ),
                "streams_at_once": (
                    list(STREAM_CHOICES),
                    {
                        "default": STREAM_CHOICES[0],
                        "tooltip": "Guidance streams evaluated together: fewer need less memory and more time; the "
                        "clip is the same but for rounding.",
                    },
                ),
            },
        }

    def sample(
        self,
        actalker: ACTalkerModels,
        portrait: Portrait | PortraitVideo,
        identity: Identity,
        control: MaskedControl,
        framing: str,
        image_size: int,
        head_motion: float = -1.0,
        expression_motion: float = -1.0,
        window: int = 0,
        overlap: int = 0,
        shift: int = -1,
        streams_at_once: str = "automatic",
        **settings: Any,
    ) -> tuple[dict[str, Any], float, int]:
        from ..runtime.actalker_clips import ClipChoices, sampled_clip
        from ..runtime.host import host
        from ..runtime.progress import PreviewedProgress

        settings |= {"head_motion": head_motion, "expression_motion": expression_motion, "window": window}
        settings |= {"overlap": overlap, "shift": shift}
        progress = PreviewedProgress(host().progress(1))
        choices = ClipChoices(framing, image_size, streams_at_once, settings)
        latents, fps = sampled_clip(actalker, portrait, identity, control, choices, progress)
        return {"samples": latents}, fps, len(latents)


class ACTalkerDecode:
    """Latents of a clip to frames."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Turns the clip's latents into frames with the model's video autoencoder, a few at a time, so that memory does "
        "not grow with the clip."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("frames",)
    OUTPUT_TOOLTIPS = ("One picture per frame, for Create Video.",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "actalker": ACTALKER_INPUT,
                "latent": ("LATENT", {"tooltip": "From ACTalker Sampler with the same model."}),
                "chunk": _count(
                    "Frames decoded together; fewer need less memory. 0 is 10, as in the release, or fewer where 10 do "
                    "not fit.",
                    200,
                ),
                "overlap": _count(
                    "Frames that neighbouring chunks share and fade across, so that no seam shows; 0 sets them side by "
                    "side, as the release does. At most one less than the chunk counts.",
                    100,
                    2,
                ),
            }
        }

    def decode(
        self, actalker: ACTalkerModels, latent: dict[str, Any], chunk: int, overlap: int
    ) -> tuple[Any]:
        from ..runtime.actalker_clips import decoded_clip
        from ..runtime.host import host

        return (decoded_clip(actalker, latent["samples"], chunk, overlap, host().progress(1).update),)
