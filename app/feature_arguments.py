"""The words of `herdlight features`: `key=value` as users of video_features write it, and ordinary flags.

Both mean the same keys; `--model-name X`, `--model_name=X` and `model_name=X` are one. Values are read as that project
reads them (YAML lists, null, true), but a name of a file stays as it was written. Knows no videos and no towers.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from models.encoder.spec import OnnxParams
from models.errors import ParamsError
from models.params import parse_section

FEATURE_TYPES = ("clip", "timm", "resnet", "onnx")
ON_EXTRACTION = ("print", "save_numpy", "save_pickle")
DEFAULT_NAMES = {"clip": "ViT-B/32", "resnet": "resnet50"}
# What that project has and herdlight has no use for: nothing is encoded again, so there are no files to keep.
WITHOUT_MEANING = frozenset({"tmp_path", "keep_tmp_files", "config"})
_RESIZES = ("reference", "decoder")


@dataclass(frozen=True)
class FeatureArguments:
    """What was asked for.

    feature_type, model_name, on_extraction, output_path, batch_size: as that project has them
    extraction_fps, extraction_total: None where every frame is meant
    videos:       paths, in order
    devices:      as they were named: cpu, cuda:N or N
    architecture: what `model_name=custom` is
    pretrained:   open_clip's tag of the weights
    weights:      a file or folder of one's own
    onnx:         how an ONNX file is used
    show_pred:    print the probabilities of texts
    pred_texts:   those texts; None for the 400 classes of Kinetics
    exact_resize: prepare pictures as the tower's own project does
    """

    feature_type: str
    model_name: str
    on_extraction: Any
    output_path: Path
    batch_size: int
    extraction_fps: float | None
    extraction_total: int | None
    videos: tuple[Path, ...]
    devices: tuple[str, ...]
    architecture: str
    pretrained: str | None
    weights: Path | None
    onnx: OnnxParams | None
    show_pred: bool
    pred_texts: tuple[str, ...] | None
    exact_resize: bool


KEYS = (
    *("feature_type", "model_name", "batch_size", "extraction_fps", "extraction_total", "device", "device_ids", "cpu"),
    *("on_extraction", "output_path", "show_pred", "pred_texts", "video_paths", "file_with_video_paths"),
    *("pretrained", "weights", "architecture", "resize", "image_size", "mean", "std", "onnx_input", "onnx_output"),
    *("channels", *sorted(WITHOUT_MEANING)),
)
_SWITCHES = ("show_pred", "cpu", "keep_tmp_files")


def parse_arguments(words: Sequence[str]) -> FeatureArguments:
    """Return what the words of the command line ask for.

    Raises ParamsError, one line with the nearest key or the values that there are, where they ask for nothing known.
    """
    given = _collect(words)
    text = {key: value for key, value in given.items() if value not in ("null", "None", "")}
    feature_type, model_name = _names(text)
    weights = Path(text["weights"]).expanduser() if "weights" in text else None
    if feature_type == "onnx" and weights is None:
        weights, model_name = Path(model_name), Path(model_name).stem
    return FeatureArguments(
        feature_type=feature_type,
        model_name=model_name,
        on_extraction=_one_of("on_extraction", text.get("on_extraction", "print"), ON_EXTRACTION),
        output_path=Path(text.get("output_path", "./output")).expanduser(),
        batch_size=int(_number("batch_size", text.get("batch_size", "32"), whole=True)),
        extraction_fps=_number("extraction_fps", text["extraction_fps"]) if "extraction_fps" in text else None,
        extraction_total=int(_number("extraction_total", text["extraction_total"], whole=True))
        if "extraction_total" in text
        else None,
        videos=_videos(text),
        devices=_devices(text),
        architecture=text.get("architecture", DEFAULT_NAMES["clip"]),
        pretrained=text.get("pretrained"),
        weights=weights,
        onnx=_onnx(text) if feature_type == "onnx" else None,
        show_pred=_yes("show_pred", text.get("show_pred", "false")),
        pred_texts=_texts(text["pred_texts"]) if "pred_texts" in text else None,
        exact_resize=_one_of("resize", text.get("resize", "reference"), _RESIZES) == "reference",
    )


def _collect(words: Sequence[str]) -> dict[str, str]:
    """Return the values by key, as text."""
    given: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        is_flag = word.startswith("--")
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not is_flag and not equals:
            raise ParamsError(f"{word!r}: write key=value, or --key value; videos are video_paths=…")
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)
            raise ParamsError(f"{key!r}: no such key; the nearest is {near[0]}")
        if not equals:
            if key in _SWITCHES and (not waiting or waiting[0].startswith("--") or "=" in waiting[0]):
                value = "true"
            elif not waiting:
                raise ParamsError(f"--{key}: needs a value")
            else:
                value = waiting.pop(0)
        if key in given and given[key] != value:
            raise ParamsError(f"{key}: given twice, as {given[key]!r} and {value!r}")
        given[key] = value
    return given


def _names(text: Mapping[str, str]) -> tuple[str, str]:
    """Return feature type and model name; a model `timm:NAME` is of type timm."""
    model_name = text.get("model_name")
    prefixed = model_name is not None and model_name.startswith("timm:")
    feature_type = _one_of("feature_type", text.get("feature_type", "timm" if prefixed else "clip"), FEATURE_TYPES)
    if prefixed and model_name is not None:
        model_name = model_name.removeprefix("timm:")
        if feature_type not in ("timm", "clip"):
            raise ParamsError(f"model_name = 'timm:{model_name}': feature_type is {feature_type}, must be timm")
        feature_type = "timm"
    model_name = model_name or DEFAULT_NAMES.get(feature_type)
    if model_name is None:
        example = "efficientnet_b0" if feature_type == "timm" else "tower.onnx"
        raise ParamsError(f"model_name: feature_type={feature_type} needs one, as model_name={example}")
    if model_name in (".", "..") or "\0" in model_name:
        raise ParamsError(f"model_name = {model_name!r}: no model has this name")
    return feature_type, model_name


def _one_of(key: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
        raise ParamsError(f"{key} = {value!r}: must be one of {', '.join(known)}; the nearest is {near[0]}")
    return value


def _number(key: str, value: str, *, whole: bool = False) -> float:
    try:
        return int(value) if whole else float(value)
    except ValueError:
        raise ParamsError(f"{key} = {value!r}: must be a {'whole ' if whole else ''}number") from None


def _yes(key: str, value: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if value.lower() not in known:
        raise ParamsError(f"{key} = {value!r}: must be true or false")
    return known[value.lower()]


def _items(key: str, value: str) -> tuple[str, ...]:
    """Return the items of a YAML list `[a, 'b c']`, each as it was written; anything else is one item."""
    if not value.lstrip().startswith("["):
        return (value,)
    try:
        node = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ParamsError(f"{key} = {value!r}: not a list ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(node, yaml.SequenceNode) or not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        raise ParamsError(f"{key} = {value!r}: must be a list of words; put each that has `:` or `,` in quotes")
    return tuple(item.value for item in node.value)


def _texts(value: str) -> tuple[str, ...]:
    texts = _items("pred_texts", value)
    if not texts or not all(text.strip() for text in texts):
        raise ParamsError("pred_texts: needs at least one text, and none that is empty")
    return texts


def _videos(text: Mapping[str, str]) -> tuple[Path, ...]:
    if ("video_paths" in text) == ("file_with_video_paths" in text):
        raise ParamsError("name the videos by video_paths or by file_with_video_paths, one of them")
    if "video_paths" in text:
        names = list(_items("video_paths", text["video_paths"]))
    else:
        path = Path(text["file_with_video_paths"]).expanduser()
        try:
            names = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        except OSError as error:
            raise ParamsError(f"file_with_video_paths = {str(path)!r}: {error.strerror}") from None
        names = [name for name in names if name.strip()]
    if not names:
        raise ParamsError("no videos were named")
    if bad := [name for name in names if "\0" in name]:
        raise ParamsError(f"video {bad[0]!r}: not the name of a file")
    return tuple(dict.fromkeys(Path(name) for name in names))


def _devices(text: Mapping[str, str]) -> tuple[str, ...]:
    if _yes("cpu", text.get("cpu", "false")):
        return ("cpu",)
    if "device" in text and "device_ids" in text:
        raise ParamsError("device and device_ids exclude each other; give one of them")
    devices = _items("device_ids", text["device_ids"]) if "device_ids" in text else (text.get("device", "cuda:0"),)
    if not devices:
        raise ParamsError("device_ids: names no device")
    return devices


def _onnx(text: Mapping[str, str]) -> OnnxParams:
    values: dict[str, Any] = {"input": text.get("onnx_input"), "output": text.get("onnx_output")}
    if "channels" in text:
        values["channels"] = _one_of(
            "channels", text["channels"], get_args(OnnxParams.model_fields["channels"].annotation)
        )
    for key in ("image_size", "mean", "std"):
        if key not in text:
            raise ParamsError(f"{key}: feature_type=onnx needs image_size, mean and std (on the scale 0 to 1)")
    values["image_size"] = int(_number("image_size", text["image_size"], whole=True))
    for key in ("mean", "std"):
        values[key] = tuple(_number(key, item) for item in _items(key, text[key]))
    return parse_section(values, "onnx", OnnxParams, "herdlight features")
