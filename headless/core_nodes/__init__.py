"""ComfyUI's own nodes that workflows around this package use, for running graphs without ComfyUI.

Same names, inputs, outputs and values; written anew.
"""

from .images import (
    ImageBatch,
    ImageScaleBy,
    LoadImage,
    LoadImageMask,
    PreviewImage,
    RepeatImageBatch,
    SaveImage,
)
from .primitives import (
    PrimitiveBoolean,
    PrimitiveFloat,
    PrimitiveInt,
    PrimitiveString,
    PrimitiveStringMultiline,
)
from .sounds import LoadAudio, PreviewAudio, SaveAudio, TrimAudioDuration
from .videos import CreateVideo, GetVideoComponents, LoadVideo, SaveVideo

CORE_NODES: dict[str, type] = {
    node_class.__name__: node_class
    for node_class in (
        *(LoadImage, LoadImageMask, SaveImage, PreviewImage, ImageBatch, RepeatImageBatch, ImageScaleBy),
        *(LoadAudio, SaveAudio, PreviewAudio, TrimAudioDuration),
        *(LoadVideo, GetVideoComponents, CreateVideo, SaveVideo),
        *(PrimitiveInt, PrimitiveFloat, PrimitiveString, PrimitiveStringMultiline, PrimitiveBoolean),
    )
}
