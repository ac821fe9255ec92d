"""Lets a CPU build of torch import the registry's CUDA build of torchvision, and with it open_clip and Lightning.

torchvision registers fake kernels for two operators that its CUDA library would define; where torch has no CUDA that
library is not loaded and the import stops with `operator torchvision::nms does not exist`. Declaring the two schemas
is enough, and herdlight calls neither. Import this module before open_clip, timm, torchmetrics or lightning. Where
torch has CUDA it does nothing.
"""

from typing import Any, cast

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# torch.library has no annotations. The library lives as long as torch does.
_library: Any = cast(Any, torch.library).Library("torchvision", "FRAGMENT") if torch.version.cuda is None else None
if _library is not None:
    for _schema in _SCHEMAS:
        _library.define(_schema)
