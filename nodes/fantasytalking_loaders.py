"""The models of FantasyTalking: Wan, LoRAs for it, and what is added to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fantasytalking_widgets import (
    CATEGORY,
    DOWNLOAD_ADAPTER_INPUT,
    adapter_input,
    choice,
    number,
    switch,
)

if TYPE_CHECKING:
    from ..core_models.wan_types import FantasyTalkingModels, WanModels

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
    OUTPUT_TOOLTIPS = ("For Load FantasyTalking, or for Wan LoRA before it.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.wan_types import ATTENTIONS, MEMORY_LEVELS
        from ..runtime.fantasytalking_models import wan_choices
        from ..runtime.renderer_models import PRECISIONS

        return {
            "required": {
                "model": choice(
                    tuple(wan_choices()),
                    "pocket: small, on any computer, for made heads. Wan 2.1 I2V 14B: the published model. Models "
                    "trained here are listed by their files.",
                )
            },
            "optional": {
                "precision": choice(
                    PRECISIONS,
                    "How its networks are computed. auto: bfloat16 for the published model, as in the release, else "
                    "float32. Where float16 overflows, bfloat16 does not.",
                ),
                "attention": choice(
                    ATTENTIONS,
                    "What computes attention. auto leaves it to PyTorch; flash, sage and xformers are packages of "
                    "their own; sage is approximate.",
                ),
                "transformer_file": (
                    "STRING",
                    {
                        "default": "",
                        "names_file": "model",
                        "tooltip": "Another file of the published transformer, such as the 480p one: its name in "
                        "diffusion_models, or its path there; of shards one of them, their index or their folder. "
                        "Empty takes what is found.",
                    },
                ),
                "download_if_missing": switch(
                    "Fetch what is missing of the published model: about 46 GB in all.", False
                ),
                "memory": choice(
                    MEMORY_LEVELS,
                    "How much of the graphics card may be used. automatic: what is free. What does not fit waits in "
                    "main memory and is streamed to the card; the clip is the same but for rounding.",
                ),
                "eight_bit_weights": switch(
                    "Approximate: keep the transformer's weights in 8 bits, which takes half the memory on the card "
                    "or in the computer.",
                    False,
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, transformer_file: str | None = "") -> bool | str:
        from ..runtime.input_files import named_model_path

        if transformer_file is None or not transformer_file.strip():
            return True
        try:
            named_model_path(transformer_file.strip(), "diffusion_models")
        except OSError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, model: str | None = None, transformer_file: str | None = None, **_: Any) -> str:
        from ..runtime.fantasytalking_models import wan_stamp

        return "" if model is None else wan_stamp(model, transformer_file or "")

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


class WanLoRA:
    """A Wan with the changes of a LoRA file, as handles."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Adds a LoRA to a Wan: a style, or few-step sampling. It is merged into the weights when they are loaded; "
        "several nodes in a row add theirs up. A LoRA of another model is refused, with the keys that do not fit."
    )
    RETURN_TYPES = ("WAN",)
    RETURN_NAMES = ("wan",)
    OUTPUT_TOOLTIPS = ("For Load FantasyTalking, or for another Wan LoRA.",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "wan": ("WAN", {"tooltip": "From Load Wan, or from another Wan LoRA."}),
                "lora": (
                    "STRING",
                    {
                        "default": "",
                        "names_file": "model",
                        "tooltip": "A LoRA for the connected model, a safetensors file: its name in loras, or its path "
                        "there.",
                    },
                ),
                "strength": number(
                    "What its changes are multiplied with: 1 as trained, 0 nothing, below 0 the opposite.",
                    *(1.0, 4.0, -4.0),
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora: str | None) -> bool | str:
        from ..runtime.wan_low_rank import low_rank_path

        if lora is None:
            return True
        try:
            low_rank_path(lora)
        except (OSError, ValueError) as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, lora: str | None = None, **_: Any) -> str:
        from ..runtime.wan_low_rank import low_rank_stamp

        return "" if lora is None else low_rank_stamp(lora)

    def add(self, wan: WanModels, lora: str, strength: float) -> tuple[WanModels]:
        from ..runtime.wan_low_rank import with_low_rank_file

        return (with_low_rank_file(wan, lora, strength),)


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
        taken = "what belongs to the connected Wan; of the published forms the first that is here"
        return {
            "required": {
                "wan": ("WAN", {"tooltip": "From Load Wan, or from Wan LoRA."}),
                "weights": adapter_input(taken),
            },
            "optional": {"download_if_missing": DOWNLOAD_ADAPTER_INPUT},
        }

    @classmethod
    def IS_CHANGED(cls, weights: str | None = None, **_: Any) -> str:
        from ..runtime.fantasytalking_adapter_files import adapter_stamp

        return "" if weights is None else adapter_stamp(weights)

    def load(
        self, wan: WanModels, weights: str, download_if_missing: bool = False
    ) -> tuple[FantasyTalkingModels]:
        from ..runtime.fantasytalking_models import fantasytalking_models
        from ..runtime.host import host

        return (fantasytalking_models(wan, weights, download_if_missing, host().progress(1).update),)
