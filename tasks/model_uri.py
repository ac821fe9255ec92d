"""From the name of a model to a folder with a served model.

    models:/herdlight@champion   what the alias points at in the registry
    models:/herdlight/3          a version
    runs:/0a1b…/model            the version that a training run registered
    build/compile/model          a folder, of a served model or of an ensemble of them

Knows MLflow's URIs and where the served folder lies in a logged model; does not load it (`models.served` does).
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.errors import ModelError, RegistryError
from models.files import replacing_folder
from models.members import is_scorer_folder
from tasks.mlflow_store import MlflowClient, MlflowException, connect, default_tracking_uri, fluent, mlflow, reachable
from tasks.score import identify_model

# The artifact of the logged model that is the served folder, and the tag with the hash over its files.
MODEL_ARTIFACT = "model"
HASH_TAG = "model_hash"
_URI = re.compile(r"^models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))$")
_RUN_URI = re.compile(r"^runs:/(?P<run>[^/\s']+)(/[^/]+)?$")


@dataclass(frozen=True)
class ResolvedModel:
    """A served model on this machine.

    folder:  with model.json and the engine
    uri:     as it was asked for
    version: in the registry, "" for a folder
    sha256:  over the files of the folder
    """

    folder: Path
    uri: str
    version: str
    sha256: str


def resolve_model(uri: str | Path, tracking_uri: str | None = None) -> Path:
    """Return the local folder of the served model that `uri` names; see `resolve`."""
    return resolve(uri, tracking_uri).folder


def resolve(uri: str | Path, tracking_uri: str | None = None) -> ResolvedModel:
    """Return the served model that `uri` names, downloaded when the registry is on another machine.

    tracking_uri: of the registry, by default $MLFLOW_TRACKING_URI or the store below the working folder

    Raises RegistryError when the alias, version or folder is not there, TrackingUnavailable when the registry does not
    answer, ModelError when what came is not what was registered.
    """
    text = str(uri)
    if not is_registry_uri(text):
        return _local(Path(uri))
    match, run = _URI.match(text), _RUN_URI.match(text)
    if match is None and run is None:
        raise RegistryError(f"{text}: must be models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID/model or a folder")
    tracking_uri = tracking_uri or default_tracking_uri(Path.cwd())
    client = connect(tracking_uri)
    if match is not None:
        name = match["name"]
        version = match["version"] or version_of_alias(client, tracking_uri, name, match["alias"])
    else:
        assert run is not None
        name, version = _version_of_run(client, tracking_uri, run["run"])
    tags = _version_tags(client, tracking_uri, name, version)
    folder = model_artifacts(tracking_uri, name, version, tags.get(HASH_TAG, "")) / MODEL_ARTIFACT
    identity = identify_model(folder, text, version)
    if tags.get(HASH_TAG, identity.sha256) != identity.sha256:
        raise ModelError(f"{text}: files in {folder} are not those that were registered; remove them and try again")
    return ResolvedModel(folder, text, version, identity.sha256)


def is_registry_uri(uri: str) -> bool:
    """Return whether `uri` names a model of the registry, and not a folder."""
    return uri.startswith(("models:", "runs:"))


def _version_of_run(client: MlflowClient, tracking_uri: str, run_id: str) -> tuple[str, str]:
    """Return name and version of the newest model that a run registered. Raises RegistryError where there is none."""
    with reachable(tracking_uri):
        found = client.search_model_versions(f"run_id = '{run_id}'")
    if not found:
        raise RegistryError(
            f"runs:/{run_id}: no model of this run in {tracking_uri}; name the training run, or a version"
        )
    newest = max(found, key=lambda version: int(version.version))
    return str(newest.name), str(newest.version)


def version_of_alias(client: MlflowClient, tracking_uri: str, name: str, alias: str) -> str:
    """Return the version that the alias points at. Raises RegistryError when there is none."""
    aliases = registered_aliases(client, tracking_uri, name)
    if aliases is None:
        raise RegistryError(
            f"models:/{name}@{alias}: {tracking_uri} has no model {name!r}; run `herdlight train` first"
        )
    if alias not in aliases:
        known = ", ".join(sorted(aliases)) or "none"
        raise RegistryError(
            f"models:/{name}@{alias}: no version has this alias (aliases: {known}); "
            "run `herdlight train` until a model passes the gate, or name a version"
        )
    return aliases[alias]


def registered_aliases(client: MlflowClient, tracking_uri: str, name: str) -> dict[str, str] | None:
    """Return alias -> version of a registered model, None when the registry has no model of that name."""
    with reachable(tracking_uri):
        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
    return {alias: str(version) for alias, version in model.aliases.items()}


def model_artifacts(tracking_uri: str, name: str, version: str, model_hash: str) -> Path:
    """Return the local folder with the artifacts of a version; from another machine they are fetched once.

    Downloads go to $HERDLIGHT_CACHE, by default ~/.cache/herdlight, under name, version and hash.
    """
    with fluent(tracking_uri), reachable(tracking_uri):
        source = mlflow.artifacts.download_artifacts
        if tracking_uri.startswith("sqlite:"):
            return _artifacts_in(Path(source(artifact_uri=f"models:/{name}/{version}")))
        cache = Path(os.environ.get("HERDLIGHT_CACHE") or Path.home() / ".cache" / "herdlight")
        target = cache / "models" / f"{name}-{version}-{model_hash[:16] or 'unknown'}"
        if not target.is_dir():
            with replacing_folder(target) as temporary:
                found = Path(source(artifact_uri=f"models:/{name}/{version}", dst_path=str(temporary / "download")))
                shutil.copytree(found, temporary, dirs_exist_ok=True)
                shutil.rmtree(temporary / "download")
    return _artifacts_in(target)


def _artifacts_in(logged: Path) -> Path:
    """Return where a logged pyfunc keeps its artifacts. Raises ModelError when it is not one of herdlight's."""
    try:
        content: Any = yaml.safe_load((logged / "MLmodel").read_text(encoding="utf-8"))
        path = content["flavors"]["python_function"]["artifacts"][MODEL_ARTIFACT]["path"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ModelError(
            f"{logged}: not a model that herdlight logged ({type(error).__name__}: {error}); "
            "name a version made by flows.train"
        ) from None
    return logged / Path(path).parent


def _version_tags(client: MlflowClient, tracking_uri: str, name: str, version: str) -> dict[str, str]:
    with reachable(tracking_uri):
        try:
            return dict(client.get_model_version(name, version).tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    raise RegistryError(
        f"models:/{name}/{version}: {tracking_uri} has no such version; see `mlflow ui` for those it has"
    )


def _local(folder: Path) -> ResolvedModel:
    if not folder.is_dir():
        raise RegistryError(f"{folder}: no such folder; name one with model.json in it, or models:/NAME@ALIAS")
    if not is_scorer_folder(folder):
        raise RegistryError(
            f"{folder}: holds no model.json, so it is not a served model; build/compile/model is one, and "
            "a folder with ensemble.json is several"
        )
    return ResolvedModel(folder, str(folder), "", identify_model(folder, str(folder)).sha256)
