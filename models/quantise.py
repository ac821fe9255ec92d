"""Eight-bit integers after training: an OpenVINO engine whose weights and activations are quantised by NNCF.

The ranges of activations come from frames of the train split that the network is run on (post-training quantisation,
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
2018; outliers of transformers are moved into the weights as in Xiao et al., "SmoothQuant", ICML 2023). The first
convolution, which reads the pixels, stays as it is: it is a small part of the work and a large part of the error.

Knows engines and frames; knows nothing of where frames come from.
"""

import importlib
import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from models.engines.base import EngineRecord, Frames, engine_errors, read_record, version_of, write_record
from models.engines.qdq import MIN_FRAMES as MIN_FRAMES
from models.errors import EngineError, MissingExtra
from models.files import hash_file

REMEDY = "int8 needs NNCF: pip install -c constraints.txt -e '.[int8]'"
_GRAPH_FILE = "tower.xml"


def quantise_openvino(folder: Path, frames_NHWC: Frames) -> EngineRecord:
    """Quantise the OpenVINO engine in `folder` in place; what stays in floating point is then float32.

    frames_NHWC: of the train split, uint8 [N, H, W, 3], at least MIN_FRAMES
    Raises MissingExtra without NNCF, EngineError for another engine, too few frames, or where NNCF fails.
    """
    record = read_record(folder)
    if record.name != "openvino":
        raise EngineError(f"engine {record.name} cannot be quantised; only openvino can")
    if len(frames_NHWC) < MIN_FRAMES:
        raise EngineError(f"{len(frames_NHWC)} frames to calibrate with, needs {MIN_FRAMES}; add train videos")
    nncf = _nncf()
    import openvino

    with engine_errors("engine openvino cannot be quantised"):
        model = openvino.Core().read_model(folder / _GRAPH_FILE)
        size = record.batch_size or 1
        batches = [frames_NHWC[at : at + size] for at in range(0, len(frames_NHWC) - size + 1, size)]
        quantised = nncf.quantize(
            model,
            nncf.Dataset(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=_first_convolution(model)),
        )
        del model  # it maps the file that is written over
        temporary = folder / f"int8-{_GRAPH_FILE}"
        openvino.save_model(quantised, temporary, compress_to_fp16=False)
    temporary.with_suffix(".bin").replace((folder / _GRAPH_FILE).with_suffix(".bin"))
    temporary.replace(folder / _GRAPH_FILE)
    files = {name: hash_file(folder / name) for name in record.files}
    record = replace(record, precision="int8", files=files, versions={**record.versions, **version_of("nncf")})
    write_record(folder, record)
    return record


def choose_frames(frames_NHWC: Frames, is_highlight_N: Any, num_frames: int) -> Frames:
    """Return at most `num_frames` of N frames, evenly spaced. Raises EngineError where all are of one class."""
    highlights = np.asarray(is_highlight_N).astype(bool)
    if not len(highlights) or highlights.all() or not highlights.any():
        found = "no frame" if not len(highlights) else "highlights only" if highlights.all() else "no highlight"
        raise EngineError(f"int8: {found} among {len(highlights)} frames to calibrate with; add train videos of both")
    places = np.unique(np.linspace(0, len(frames_NHWC) - 1, num_frames).round().astype(np.int64))
    chosen: Frames = frames_NHWC[places]
    return chosen


def _first_convolution(model: Any) -> list[str]:
    names = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    return names[:1]


def _nncf() -> ModuleType:
    try:
        nncf = importlib.import_module("nncf")
    except ImportError:
        raise MissingExtra(REMEDY) from None
    nncf.set_log_level(logging.ERROR)
    return nncf
