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

CORE_DISPLAY_NAMES = {
    "LoadImage": "Load Image",
    "LoadImageMask": "Load Image (as Mask)",
    "SaveImage": "Save Image",
    "PreviewImage": "Preview Image",
    "ImageBatch": "Batch Images",
    "ImageScaleBy": "Upscale Image By",
    "LoadAudio": "Load Audio",
    "SaveAudio": "Save Audio (FLAC)",
    "PreviewAudio": "Preview Audio",
    "TrimAudioDuration": "Trim Audio Duration",
    "LoadVideo": "Load Video",
    "GetVideoComponents": "Get Video Components",
    "CreateVideo": "Create Video",
    "SaveVideo": "Save Video",
    "PrimitiveInt": "Int",
    "PrimitiveFloat": "Float",
    "PrimitiveString": "String",
    "PrimitiveStringMultiline": "String (Multiline)",
    "PrimitiveBoolean": "Boolean",
}
"""Titles that ComfyUI's page gives these nodes, where they differ from the class names."""
