"""The models of FantasyTalking: Wan, and what is added to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core_models.wan_types import FantasyTalkingModels, WanModels

CATEGORY = "TalkingPortrait/FantasyTalking"

FANTASYTALKING_INPUT = ("FANTASYTALKING", {"tooltip": "From Load FantasyTalking."})


class LoadWan:
    """A Wan image-to-video model, as handles."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Chooses the video model that FantasyTalking stands on. The pocket model ships with this pack, makes clips of "
        "64 pixels and knows only made heads; the published Wan 2.1 I2V 14B is found in ComfyUI's own models folders, "
        "in any of its usual forms, and needs a large graphics card. Nothing is fetched unless you switch it on."
    )
    RETURN_TYPES = ("WAN",)
    RETURN_NAMES = ("wan",)
    OUTPUT_TOOLTIPS = ("For Load FantasyTalking.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.wan_types import ATTENTIONS, MEMORY_LEVELS
        from ..runtime.fantasytalking_models import wan_choices
        from ..runtime.renderer_models import PRECISIONS

        names = wan_choices()
        return {
            "required": {
                "model": (
                    names,
                    {
                        "default": names[0],
                        "tooltip": "pocket: small, on any computer, for made heads. Wan 2.1 I2V 14B: the published "
                        "model. Models trained here are listed by their files.",
                    },
                )
            },
            "optional": {
                "precision": (
                    list(PRECISIONS),
                    {
                        "default": "auto",
                        "tooltip": "How its networks are computed. auto: bfloat16 for the published model, as in the "
                        "release, else float32. Where float16 overflows, bfloat16 does not.",
                    },
                ),
                "attention": (
                    list(ATTENTIONS),
                    {
                        "default": ATTENTIONS[0],
                        "tooltip": "What computes attention. auto leaves it to PyTorch; flash, sage and xformers are "
                        "packages of their own; sage is approximate.",
                    },
                ),
                "transformer_file": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Another file of the published transformer, such as the 480p one: its path, or its "
                        "name in diffusion_models; of shards one of them, their index or their folder. Empty takes "
                        "what is found.",
                    },
                ),
                "download_if_missing": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Fetch what is missing of the published model: about 46 GB in all.",
                    },
                ),
                "memory": (
                    list(MEMORY_LEVELS),
                    {
                        "default": MEMORY_LEVELS[0],
                        "tooltip": "How much of the graphics card may be used. automatic: what is free. What does not "
                        "fit waits in main memory and is streamed to the card; the clip is the same but for rounding.",
                    },
                ),
                "eight_bit_weights": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Approximate: keep the transformer's weights in 8 bits, which takes half the memory "
                        "on the card or in the computer.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, model: str | None = None, **_: Any) -> str:
        from ..runtime.fantasytalking_models import trained_wan_stamp

        return "" if model is None else trained_wan_stamp(model)

    def load(
        self,
        model: str,
        precision: str = "auto",
        attention: str = "auto",
        transformer_file: str = "",
        download_if_missing: bool = False,
        memory: str = "automatic",
        eight_bit_weights: bool = False,
    ) -> tuple[WanModels]:
        from ..runtime.fantasytalking_models import wan_models
        from ..runtime.host import host

        progress = host().progress(1).update
        files = (transformer_file, download_if_missing, progress)
        return (wan_models(model, precision, attention, *files, memory, eight_bit_weights),)


class LoadFantasyTalking:
    """What FantasyTalking adds to a Wan, as handles."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Adds FantasyTalking's hearing to a Wan. The release holds its audio branch only; small models bring identity "
        "and motion intensity too. Connect it to Audio Embedding, which then listens as the model needs."
    )
    RETURN_TYPES = ("FANTASYTALKING",)
    RETURN_NAMES = ("fantasytalking",)
    OUTPUT_TOOLTIPS = (
        "For Audio Embedding, Identity Embedding, Motion Intensity, FantasyTalking Sampler and FantasyTalking Decode.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.fantasytalking_models import adapter_choices

        names = adapter_choices()
        return {
            "required": {
                "wan": ("WAN", {"tooltip": "From Load Wan."}),
                "weights": (
                    names,
                    {
                        "default": names[0],
                        "tooltip": "automatic: what belongs to the connected Wan; of the published forms the first "
                        "that is here. All forms hold the same weights.",
                    },
                ),
            },
            "optional": {
                "download_if_missing": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Fetch the published audio weights when they are missing."},
                )
            },
        }

    def load(
        self, wan: WanModels, weights: str, download_if_missing: bool = False
    ) -> tuple[FantasyTalkingModels]:
        from ..runtime.fantasytalking_models import fantasytalking_models
        from ..runtime.host import host

        return (fantasytalking_models(wan, weights, download_if_missing, host().progress(1).update),)
