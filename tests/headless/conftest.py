"""Tiny node classes to run graphs of."""

import pytest


class Number:
    RETURN_TYPES = ("INT",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 0, "min": 0, "max": 100})}}

    def give(self, value):
        return (value,)


class Add:
    RETURN_TYPES = ("INT",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"a": ("INT", {}), "b": ("INT", {"default": 1})},
            "optional": {"c": ("INT,FLOAT",)},
        }

    def add(self, a, b, c=0):
        return (a + b + c,)


class Show:
    """An output node; its ui holds what it was given."""

    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}

    def show(self, value):
        return {"ui": {"value": [value]}}


class Text:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "text": ("STRING", {"default": ""}),
                "style": (["plain", "bold"],),
                "loud": ("BOOLEAN", {"default": False}),
                "size": ("FLOAT", {"default": 1.0, "min": 0.5, "max": 2.0}),
            }
        }

    def give(self, text, style, loud, size):
        return (f"{text}|{style}|{loud}|{size}",)


@pytest.fixture
def tiny_classes():
    """{name: class} of Number, Add, Show (an output node) and Text."""
    return {node_class.__name__: node_class for node_class in (Number, Add, Show, Text)}


@pytest.fixture
def node():
    """Build one node of a graph in API form."""

    def build(class_type, **inputs):
        return {"class_type": class_type, "inputs": inputs}

    return build
