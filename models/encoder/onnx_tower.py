"""An ONNX graph as a frozen image tower: a module whose only state is the graph itself, run by onnxruntime.

The graph is a buffer of bytes, so that it is stored, copied and checked as weights are (`model.safetensors` has it),
and a model folder needs no second file. Nothing of it is a parameter: it is neither trained nor pruned.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.onnx_session import OnnxSession, open_session


@dataclass(frozen=True)
class OnnxGraph:
    """What a prepared graph is: float32 pixels [N, 3, H, W], normalised RGB, to float32 features [N, D].

    embed_dim:     D
    batch_size:    frames of every call, 0 for any number
    num_bytes:     size of the prepared graph
    sha256:        digest of the prepared graph
    input, output: tensors of the file that it was made from
    channels:      order in which the file takes them; the prepared graph takes RGB
    source_sha256: digest of that file
    """

    embed_dim: int
    batch_size: int
    num_bytes: int
    sha256: str
    input: str
    output: str
    channels: str
    source_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields: the `model_config` of an EncoderSpec."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "OnnxGraph":
        """Return the value that `to_json` wrote. Raises ModelError for anything else."""
        try:
            return OnnxGraph(**value)
        except TypeError as error:
            raise ModelError(f"encoder: not the description of an ONNX tower ({error})") from None


class OnnxTower(nn.Module):
    """Normalised pixels [N, 3, H, W] to features [N, D], on the processor, without gradients.

    facts:   of the graph
    content: the prepared graph; left out, the bytes are zero until a state is loaded
    """

    content: Tensor

    def __init__(self, facts: OnnxGraph, content: bytes | None = None) -> None:
        super().__init__()
        self.facts = facts
        if content is None:
            content = bytes(facts.num_bytes)
        self.register_buffer("content", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._session: OnnxSession | None = None

    def graph(self) -> bytes:
        """Return the prepared graph. Raises ModelError where the bytes are not those of the description."""
        content = self.content.cpu().numpy().tobytes()
        if hashlib.sha256(content).hexdigest() != self.facts.sha256:
            raise ModelError("encoder: the ONNX tower is not loaded or damaged; run stage pretrain again")
        return content

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Return float32 [N, D]. Raises ModelError where onnxruntime cannot run the graph."""
        if self._session is None:
            self._session = open_session(self.graph(), "the ONNX tower", self.facts.batch_size)
        pixels = np.ascontiguousarray(pixels_NCHW.detach().float().cpu().numpy())
        return torch.from_numpy(self._session(pixels)).to(pixels_NCHW.device)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes over: not the session, which cannot be copied and is opened again."""
        return {**self.__dict__, "_session": None}
