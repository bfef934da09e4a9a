"""A pack for a ComfyUI under test: text and picture encoders that are made up, in place of those of Wan (12 GB).

They give what ComfyUI's CLIPLoader and CLIPVisionLoader would, of the same shapes: numbers that hang on what went in.
"""

import torch

TEXT_SHAPE, PICTURE_SHAPE = (1, 512, 4096), (1, 257, 1280)


def _drawn(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class MadeText:
    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[_drawn(TEXT_SHAPE, len(tokens)), {"pooled_output": None}]]


class MadePicture:
    def encode_image(self, image, crop=True):
        self.penultimate_hidden_states = _drawn(PICTURE_SHAPE, round(1000 * float(image.mean())))
        return self


class MadeTextLoader:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "load", "made"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return (MadeText(),)


class MadePictureLoader(MadeTextLoader):
    RETURN_TYPES = ("CLIP_VISION",)

    def load(self):
        return (MadePicture(),)


NODE_CLASS_MAPPINGS = {"MadeTextLoader": MadeTextLoader, "MadePictureLoader": MadePictureLoader}
