"""Which encoder is adapted: the params that name it, and the spec that builds it again.

Three kinds of tower, told apart by the name: any open_clip architecture (and the embedded `nano`), `timm:NAME` for
any timm model, and `onnx` for any graph in a file. Knows names and numbers; loads nothing.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from models.encoder.surgery import Surgery
from models.errors import ModelError
from models.params import Section

NANO = "nano"
ONNX = "onnx"
TIMM_PREFIX = "timm:"
HUB = "hub"
Kind = Literal["open_clip", "timm", "onnx"]
Channels = tuple[float, float, float]


def kind_of(name: str) -> Kind:
    """Return the kind of tower that an encoder's name means."""
    if name == ONNX:
        return "onnx"
    return "timm" if name.startswith(TIMM_PREFIX) else "open_clip"


class OnnxParams(Section):
    """How frames go into an ONNX file and features come out; the file itself is `encoder.pretrained`."""

    image_size: int = Field(ge=1, le=4096)
    """Side of the square input, px."""
    mean: Channels
    """Taken from the input, red, green, blue, on the scale 0 to 1; 0 where the graph does it itself."""
    std: Channels
    """Divides the input after that, same scale; 1/255 where the graph takes 0 to 255."""
    input: str | None = None
    """Input tensor, float [N, 3, H, W] or [N, H, W, 3]; needed only where the graph has several."""
    output: str | None = None
    """Features [N, D], or a map [N, D, H, W] that is averaged over H and W; a tensor inside the graph will do."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order in which the graph takes the channels; mean and std are red, green, blue all the same."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Digest of the file; another file is refused. DVC looks at params and not at the file, so a new one shows here."""

    @field_validator("std")
    @classmethod
    def _divides(cls, value: Channels) -> Channels:
        if not all(part > 0 for part in value):
            raise ValueError("must be above 0")
        return value


def _hub_for_true(value: Any) -> Any:
    return HUB if value is True else value


class EncoderParams(Section):
    """Which image tower is adapted."""

    name: str = NANO
    """open_clip architecture (`ViT-B-32`, …), `timm:NAME` (`timm:resnet18`), `onnx`, or `nano`, trained here."""
    pretrained: Annotated[str | None, BeforeValidator(_hub_for_true)] = None
    """Weights: an open_clip tag (`openai`), `hub` for those that timm publishes, a .safetensors or the .onnx file."""
    onnx: Annotated[OnnxParams | None, Field(validate_default=True)] = None
    """How the ONNX file is used; read where `name` is `onnx` and left alone elsewhere."""
    unfreeze_blocks: int = Field(default=2, ge=0)
    """Last blocks of the image tower that are trained; all before them run once per frame (0 trains the head only).
    Towers of timm and ONNX are frozen: 0."""
    hub_timeout_s: float = Field(default=10.0, gt=0)
    """Longest wait for the model hub's first answer, seconds."""

    @model_validator(mode="before")
    @classmethod
    def _freeze(cls, values: Any) -> Any:
        """Let the default of `unfreeze_blocks` be 0 for a tower that can only be frozen."""
        if isinstance(values, Mapping) and isinstance(values.get("name"), str):
            return {**({} if kind_of(values["name"]) == "open_clip" else {"unfreeze_blocks": 0}), **values}
        return values

    @field_validator("onnx")
    @classmethod
    def _onnx_needs_its_section(cls, value: OnnxParams | None, info: ValidationInfo) -> OnnxParams | None:
        if value is None and info.data.get("name") == ONNX:
            raise ValueError("name onnx needs image_size, mean and std, and input and output where the graph has more")
        return value

    @field_validator("unfreeze_blocks")
    @classmethod
    def _frozen_tower(cls, value: int, info: ValidationInfo) -> int:
        name = info.data.get("name", NANO)
        if value and kind_of(name) != "open_clip":
            raise ValueError(f"the tower {name} is frozen and has no blocks to train; set it to 0")
        return value


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that is needed to build a tower again without the network.

    name:         architecture
    pretrained:   tag or file that the weights came from; None for nano
    model_config: of the architecture: open_clip's own; `embed_dim` for timm; fields of OnnxGraph for an ONNX file
    image_size:   side of the square input, px
    mean, std:    of the input in [0, 1], RGB
    surgery:      what was cut out of the architecture; none where it is whole
    """

    name: str
    pretrained: str | None
    model_config: Mapping[str, Any]
    image_size: int
    mean: Channels
    std: Channels
    surgery: Surgery | None = None

    def __post_init__(self) -> None:
        if self.surgery is not None and self.kind != "open_clip":
            raise ModelError(f"surgery: only open_clip's towers can be cut, and {self.name} is of kind {self.kind}")

    @property
    def embed_dim(self) -> int:
        """Length of an image embedding."""
        return int(self.model_config["embed_dim"])

    @property
    def kind(self) -> Kind:
        """Kind of tower."""
        return kind_of(self.name)

    @property
    def has_text_tower(self) -> bool:
        """Whether words can be embedded beside pictures; without that there are no zero-shot scores."""
        return self.kind == "open_clip"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        fields = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        fields.pop("surgery")  # a whole tower is written as before there were cut ones
        return fields if self.surgery is None else {**fields, "surgery": self.surgery.to_json()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "EncoderSpec":
        """Return the value that `to_json` wrote."""
        cut = value.get("surgery")
        surgery = None if cut is None else Surgery.from_json(cut)
        return EncoderSpec(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"]), "surgery": surgery})
