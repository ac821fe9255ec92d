"""What engines are built from: a tower, and its ONNX graph, which is exported once and shared.

The graph takes uint8 frames [N, H, W, 3] and gives float32 features [N, D]. Of a torch tower it comes from torch's
dynamo exporter, any batch size; of an ONNX tower it is that graph with the preprocessing in front.
"""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from models.encoder import OnnxTower
from models.engines.base import DTYPES, Frames, example_frames, feature_dim_of, frames_tower, quiet_export
from models.engines.qdq import QUANTISED, measure_ranges, quantise_graph
from models.errors import EngineError
from models.files import write_bytes
from models.onnx_session import ANY_BATCH

INPUT, OUTPUT = "frames", "features"
GRAPH_FILE = "tower.onnx"


class TowerSource:
    """A tower to build engines from.

    tower:      pixels [N, 3, H, W] float32, 0 to 255 -> features [N, D], normalisation inside; stays as it is
    image_size: side of the frames, px
    folder:     for exported graphs; made when it is needed, and the caller's to remove
    calibrate:  gives frames of the train split for int8 and fp8, uint8 [N, H, W, 3]; None where there are none
    """

    def __init__(
        self, tower: nn.Module, image_size: int, folder: Path, calibrate: Callable[[], Frames] | None = None
    ) -> None:
        self.tower, self.image_size, self.folder, self.calibrate = tower, image_size, folder, calibrate

    @cached_property
    def feature_dim(self) -> int:
        """D. Raises EngineError where the tower does not take a frame."""
        return feature_dim_of(self.tower, self.image_size)

    @property
    def graph_tower(self) -> OnnxTower | None:
        """The tower's network where it is an ONNX graph itself and torch has no part in it."""
        visual = getattr(self.tower, "visual", None)
        return visual if isinstance(visual, OnnxTower) else None

    @property
    def batch_size(self) -> int:
        """Frames of every call of the ONNX graph; ANY_BATCH for any number."""
        return self.graph_tower.facts.batch_size if self.graph_tower else ANY_BATCH

    def onnx(self, precision: str) -> Path:
        """Return the ONNX file in `precision`; weights above protobuf's 2 GiB lie beside it.

        In int8 and fp8 it is the float16 graph with its products quantised by the frames that `calibrate` gives. An
        ONNX tower keeps the arithmetic of its graph whatever `precision` is.
        """
        path = self.folder / ("graph" if self.graph_tower else precision) / GRAPH_FILE
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.graph_tower is not None:
                self._write_graph(self.graph_tower, path)
            elif precision in QUANTISED:
                self._write_quantised(path, precision)
            else:
                _export(self.tower, path, self.image_size, precision)
        return path

    def _write_graph(self, network: OnnxTower, path: Path) -> None:
        from models.encoder.onnx_graph import with_frames_input

        mean, std = (getattr(self.tower, name).flatten().tolist() for name in ("mean", "std"))
        model = with_frames_input(network.graph(), network.facts, self.image_size, mean, std)
        write_bytes(path, model.SerializeToString(deterministic=True))

    def _write_quantised(self, path: Path, precision: str) -> None:
        import onnx

        if self.calibrate is None:
            raise EngineError(f"{precision}: no train frames to calibrate with; add train videos")
        ranges = measure_ranges(self.onnx("float32"), self.calibrate(), precision)
        model = quantise_graph(onnx.load(self.onnx("float16")), ranges, precision)
        write_bytes(path, model.SerializeToString(deterministic=True))


def _export(tower: nn.Module, path: Path, image_size: int, precision: str) -> None:
    """Write a torch tower as ONNX."""
    module = frames_tower(tower, DTYPES[precision])
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the exporter tells its steps, and of torchvision's operators that it lacks
    try:
        with quiet_export():
            program = torch.onnx.export(
                module,
                (example_frames(image_size),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # source lines and paths of the machine that exported
    program.save(path)
