"""Files of additions of low rank (LoRA), as model handles name them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real


@dataclass(frozen=True)
class LowRankFile:
    """A LoRA file that is merged into a model's weights when the model is loaded.

    path: the file. strength: what its changes are multiplied with; 0 changes nothing. stamp: tells versions of a file
    apart that is written again under its name.
    Raises ValueError for a strength that is not a finite number.
    """

    path: str
    strength: float = 1.0
    stamp: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.strength, bool) or not isinstance(self.strength, Real):
            raise ValueError(f"strength is {self.strength!r}, expected a number")
        object.__setattr__(self, "strength", float(self.strength))
        if not math.isfinite(self.strength):
            raise ValueError(f"strength is {self.strength}, expected a finite number")
