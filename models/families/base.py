"""The interface of a family of vision-language models.

A family is made from the `config.json` of a policy folder. It knows all differences between models:
chat format, size of an image token, image features, names of modules. It imports no torch: a driver
asks it before any model is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from core.batch import ImageLayout
from core.geometry import Coordinates
from core.types import Vision


@dataclass(frozen=True)
class ChatFormat:
    """Control tokens of a dialogue, and its default system message.

    Attributes:
        turn_start: opens a message; its role follows as text.
        turn_end: closes a message; the policy samples it at the end of an answer.
        image_start: opens an image.
        image: placeholder, once for each token of an image.
        image_end: closes an image.
        system: message that the official template opens a dialogue with where none is given;
            empty for none.
    """

    turn_start: str
    turn_end: str
    image_start: str
    image: str
    image_end: str
    system: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """The control tokens; a tokenizer of the family must have them all."""
        return (
            self.turn_start,
            self.turn_end,
            self.image_start,
            self.image,
            self.image_end,
        )


class Family(ABC):
    """One kind of vision-language model, with the sizes of one policy folder.

    A new family is one file with a subclass, and one row of `models.families.FAMILIES`.

    Attributes:
        model_type: name in `config.json`.
        chat: how a dialogue is written.
        patch_size: default for pixels on a side of a vision patch.
        merge_size: default for patches on a side of an image token.
        coordinates: how the released models write places in an image.
        max_tokens: most tokens of one image. The least is one token, whatever the size limits of
            the folder's image processor are: systems show frames below the official limits.
        image_token: default for the id of the image placeholder.
        vision_tower: name of the vision tower's module in transformers' model.
        language_model: last part of the name of the language model's module.
        lora_targets: linear layers of a decoder layer, adapted where `learner.lora_targets` names
            none.
    """

    model_type: ClassVar[str]
    chat: ClassVar[ChatFormat]
    patch_size: ClassVar[int]
    merge_size: ClassVar[int] = 2
    coordinates: ClassVar[Coordinates] = "pixels"
    # Both families' official `max_pixels`, 12,845,056 and 16,777,216.
    max_tokens: ClassVar[int] = 16384
    image_token: ClassVar[int] = 151655
    vision_tower: ClassVar[str] = "model.visual"
    language_model: ClassVar[str] = "language_model"
    lora_targets: ClassVar[tuple[str, ...]] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        """Make the family for a parsed `config.json`, or with the sizes of the released models."""
        self.config = config or {}

    @property
    def vision(self) -> Vision:
        """Sizes of images, in pixels: those of engine and learner, whatever the folder's processor
        file says.
        """
        tower = self.config.get("vision_config", {})
        patch = int(tower.get("patch_size", self.patch_size))
        merge = int(tower.get("spatial_merge_size", self.merge_size))
        cell = patch * merge
        return Vision(
            cell,
            min_pixels=cell**2,
            max_pixels=self.max_tokens * cell**2,
            coordinates=self.coordinates,
        )

    @property
    def processor_size(self) -> dict[str, int]:
        """The `size` for each call of the folder's image processor: limits in pixels.

        Given to the engine's processor and the learner's alike. A processor that is made with it
        would not do: `min_pixels` of an official folder would win.
        """
        vision = self.vision
        return {"shortest_edge": vision.min_pixels, "longest_edge": vision.max_pixels}

    @property
    def layout(self) -> ImageLayout:
        """How an image is written into tokens, for `core.batch`.

        Positions follow `core.batch.mrope_positions`, the convention of both Qwen families for
        still images.
        """
        token = int(self.config.get("image_token_id", self.image_token))
        return ImageLayout(token, self.vision.cell)

    @property
    def hidden_size(self) -> int:
        """Width of the language model's hidden states."""
        # Released Qwen2.5-VL folders name it at the top level.
        text = self.config.get("text_config", self.config)
        return int(text["hidden_size"])

    @abstractmethod
    def repeat_images(self, features: Any, order: Sequence[int]) -> Any:
        """Return the vision tower's output with image `order[i]` at place i.

        Args:
            features: output of transformers' `get_image_features` for the unique images of a row;
                changed in place.
            order: index of a unique image for each image of the row.
        """
