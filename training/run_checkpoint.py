"""What a run's checkpoint holds, and its way to a file and back: the same for all runs that keep an averaged twin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..core_models.strict_loading import require_matching_keys
from .checkpoint_file import read_checkpoint_content, write_checkpoint_content

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; only type checkers read it


@dataclass(frozen=True)
class RunCheckpoint:
    """A run after `step` updates, on the CPU.

    kind, maker: of its files: what they say they are, and what writes them, for errors. parameters_type, recipe_type:
    of the sizes and of the recipe; both have to_dict and from_dict. weights, average, optimiser: state dictionaries.
    """

    kind: ClassVar[str]
    maker: ClassVar[str]
    parameters_type: ClassVar[type]
    recipe_type: ClassVar[type]

    step: int
    parameters: Any
    recipe: Any
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the checkpoint in a file, on the CPU; no code of it is run.

        Raises FileNotFoundError, and ValueError for a file that is damaged or something else.
        """
        content = read_checkpoint_content(path, cls.kind, cls.maker)
        try:
            return cls(
                step=content["step"],
                parameters=cls.parameters_type.from_dict(json.loads(content["parameters"])),
                recipe=cls.recipe_type.from_dict(content["recipe"]),
                weights=content["weights"],
                average=content["average"],
                optimiser=content["optimiser"],
                **cls.further(content),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} was written by another version of this package ({error})") from error

    @classmethod
    def further(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return a subclass's own fields, out of a file's content."""
        return {}

    @classmethod
    def write(cls, path: Path, trainer: Any, **further: Any) -> None:
        """Write all that a continuation of a trainer needs, whole or not at all. further: plain values beside it.

        trainer: has step, recipe, model with its parameters_used, average and optimiser.
        Raises OSError when it cannot be written.
        """
        content = {
            "kind": cls.kind,
            "step": trainer.step,
            "parameters": json.dumps(trainer.model.parameters_used.to_dict()),
            "recipe": trainer.recipe.to_dict(),
            "weights": trainer.model.state_dict(),
            "average": trainer.average.state_dict(),
            "optimiser": trainer.optimiser.state_dict(),
            **further,
        }
        write_checkpoint_content(path, content)

    def new_model(self) -> nn.Module:
        """Return a model of the checkpoint's sizes, whose weights are not the checkpoint's yet."""
        raise NotImplementedError

    def averaged_model(self) -> nn.Module:
        """Return the model with the averaged weights, frozen. Raises WeightMismatchError when they do not fit."""
        model = self.new_model()
        require_matching_keys(model.state_dict(), self.average, "the checkpoint")
        model.load_state_dict(self.average)
        return model.eval().requires_grad_(False)

    @property
    def facts(self) -> dict[str, Any]:
        """What an exported file says of its training: the number of steps and the recipe."""
        return {"step": self.step, **self.recipe.to_dict()}
