"""Weights as safetensors: writing, reading into a module, and fetching from the model hub. Never a pickle."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.encoder.spec import EncoderParams
from models.errors import ModelError, WeightsUnavailable
from models.files import replacing


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a module's state as safetensors, atomically."""
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary)


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into `model`, every key and shape equal. Raises ModelError where they are not."""
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path}: weights are missing, damaged or do not fit: {str(error).splitlines()[0]}") from None


def local_file(params: EncoderParams) -> Path:
    """Return the file that `encoder.pretrained` names. Raises WeightsUnavailable where there is none."""
    path = Path(params.pretrained or "")
    if not path.is_file():
        raise WeightsUnavailable(f"encoder.pretrained = {params.pretrained!r}: no such file; name one that is here")
    return path


def hub_file(params: EncoderParams, repository: str, filename: str) -> Path:
    """Return a safetensors file of the model hub, from its cache where it is there.

    Raises WeightsUnavailable where the hub does not answer or has the weights only as a pickle.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    cached = try_to_load_from_cache(repository, filename) if repository else None
    if isinstance(cached, str):
        return Path(cached)
    _require_hub(params)
    try:
        return Path(hf_hub_download(repository, filename))
    except (EntryNotFoundError, ValueError):
        raise WeightsUnavailable(
            f"{params.name} {params.pretrained!r} is published as a pickle, which herdlight does not load; "
            "convert it to safetensors elsewhere and name that file in encoder.pretrained"
        ) from None


def _require_hub(params: EncoderParams) -> None:
    """Ask the model hub once, since its own client would retry for a minute before it says that nobody is there."""
    import httpx
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=params.hub_timeout_s)
    except httpx.HTTPError as error:
        raise WeightsUnavailable(
            f"weights {params.pretrained!r} of {params.name} are not on this machine and the model hub does not "
            f"answer ({type(error).__name__}); "
            "offline choices: encoder.name = nano, or encoder.pretrained = a .safetensors file"
        ) from None
