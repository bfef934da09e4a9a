"""What computes the attention of a Wan transformer: PyTorch, or a package that is faster on some graphics cards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from diffusers.models.attention_dispatch import attention_backend

from ...wan_types import ATTENTIONS, AUTOMATIC_ATTENTION


@contextmanager
def chosen_attention(choice: str) -> Iterator[None]:
    """Have networks of diffusers compute their attention as chosen, inside a `with`.

    choice: one of ATTENTIONS; "auto" leaves it to PyTorch. Sound and identity are always attended to by PyTorch.
    Raises ValueError for another choice, or one whose package is not here.
    """
    if choice not in ATTENTIONS:
        raise ValueError(f"attention is {choice!r}; choose one of {', '.join(ATTENTIONS)}")
    with ExitStack() as stack:
        if choice != AUTOMATIC_ATTENTION:
            try:
                stack.enter_context(attention_backend(choice))
            except (ImportError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"attention {choice!r} cannot be used on this computer ({error}): install what it needs, or "
                    f"choose {AUTOMATIC_ATTENTION!r} in Load Wan"
                ) from error
        yield
