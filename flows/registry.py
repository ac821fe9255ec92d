"""The model registry: versions of the served model, and the alias that says which of them serves.

`champion` is what serves, `previous` what served before it. Moving one alias is one write of the store, and the write
of `champion` is the whole promotion: what the new champion needs is there before, and nothing that matters comes
after. Knows MLflow's registry; does not judge.
"""

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import models
import tasks
from flows.settings import Settings
from models.errors import ModelError, RegistryError
from tasks.mlflow_store import (
    ColSpec,
    DataType,
    MlflowClient,
    MlflowException,
    ModelSignature,
    ParamSchema,
    ParamSpec,
    Schema,
    fluent,
    mlflow,
    reachable,
)
from tasks.model_uri import HASH_TAG, MODEL_ARTIFACT, registered_aliases
from tasks.served_params import TYPES, default_of

CHAMPION = "champion"
PREVIOUS = "previous"
# What scoring needs beside herdlight's own code, which is logged with the model.
_REQUIREMENTS = (
    "av", "fsspec", "ftfy", "matplotlib", "mlflow", "numpy", "open_clip_torch", "openvino", "pandas", "pillow",
    "pyarrow", "pydantic", "pyyaml", "regex", "rich", "safetensors", "timm", "torch", "torchvision",
)  # fmt: skip


@dataclass(frozen=True)
class ModelVersion:
    """One version in the registry.

    name, version: of the registered model
    model_hash:    over the files of the served folder
    run_id:        the parent run that logged it
    """

    name: str
    version: str
    model_hash: str
    run_id: str

    @property
    def uri(self) -> str:
        """URI that stays with this version."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Registry:
    """The versions and aliases of one registered model."""

    client: MlflowClient
    settings: Settings

    def find(self, model_hash: str) -> ModelVersion | None:
        """Return the version whose served folder has this hash, the newest of several, None when there is none."""
        with reachable(self.settings.tracking_uri):
            found = [
                version
                for version in self.client.search_model_versions(f"name = '{self.settings.model_name}'")
                if version.tags.get(HASH_TAG) == model_hash and version.status == "READY"
            ]
        return max((_version(entry) for entry in found), key=lambda entry: int(entry.version), default=None)

    def register(
        self,
        run_id: str,
        folder: Path,
        model_hash: str,
        evidence: Mapping[str, Path],
        tags: Mapping[str, str],
        description: str = "",
    ) -> ModelVersion:
        """Return the version of the served model in `folder`, made now unless one with the same hash is there.

        run_id:      run that the model belongs to
        evidence:    further files that the version must carry by itself, name to path
        tags:        of the version
        description: for people, Markdown
        Tags and description of a version that was there are brought up to date.

        The tags are written together with the version, so that no version is ever without its hash.
        Raises ModelError when `folder` holds no served model.
        """
        if not (folder / "model.json").is_file():
            raise ModelError(
                f"{folder}: no served model there (model.json is missing); run `dvc repro` and see its last stage"
            )
        version = self.find(model_hash)
        if version is None:
            return self._create(run_id, folder, evidence, {**tags, HASH_TAG: model_hash}, description)
        with reachable(self.settings.tracking_uri):
            for key, value in tags.items():
                self.client.set_model_version_tag(version.name, version.version, key, value)
            if description:
                self.client.update_model_version(version.name, version.version, description)
        return version

    def alias(self, alias: str) -> ModelVersion | None:
        """Return the version that `alias` points at, None when there is none (deleting a version takes its aliases)."""
        name = self.settings.model_name
        aliases = registered_aliases(self.client, self.settings.tracking_uri, name) or {}
        if alias not in aliases:
            return None
        with reachable(self.settings.tracking_uri):
            return _version(self.client.get_model_version(name, aliases[alias]))

    def promote(self, version: ModelVersion) -> None:
        """Make `version` the champion and the champion so far `previous`; nothing changes when it is already champion.

        A crash leaves the old champion (both aliases may then name it: there is nothing to roll back) or the new one.
        """
        champion = self.alias(CHAMPION)
        if champion is not None and champion.version == version.version:
            return
        if champion is not None:
            self._set_alias(PREVIOUS, champion.version)
        self._set_alias(CHAMPION, version.version)

    def rollback(self) -> tuple[ModelVersion, ModelVersion]:
        """Make `previous` the champion again; return the versions that champion moved from and to.

        Raises RegistryError when there is no champion or nothing before it.
        """
        champion, previous = self.alias(CHAMPION), self.alias(PREVIOUS)
        name = self.settings.model_name
        if champion is None:
            raise RegistryError(f"{name}: no champion to roll back from; `herdlight train` promotes one")
        if previous is None or previous.version == champion.version:
            raise RegistryError(
                f"{name}: version {champion.version} is champion and none is known before it; "
                f"to serve another version, set the alias {CHAMPION} in `mlflow ui`"
            )
        self._set_alias(CHAMPION, previous.version)
        with reachable(self.settings.tracking_uri):
            self.client.delete_registered_model_alias(name, PREVIOUS)
        return champion, previous

    def _set_alias(self, alias: str, version: str) -> None:
        with reachable(self.settings.tracking_uri):
            self.client.set_registered_model_alias(self.settings.model_name, alias, version)

    def _create(
        self, run_id: str, folder: Path, evidence: Mapping[str, Path], tags: Mapping[str, str], description: str
    ) -> ModelVersion:
        uri, name = self.settings.tracking_uri, self.settings.model_name
        self._ensure_model(name)
        with fluent(uri), reachable(uri), mlflow.start_run(run_id=run_id, log_system_metrics=False):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(_package_file(tasks.__file__).with_name("served_model.py")),
                artifacts={MODEL_ARTIFACT: str(folder), **{key: str(path) for key, path in evidence.items()}},
                code_paths=[str(_package_file(package.__file__).parent) for package in (models, tasks)],
                signature=_signature(),
                pip_requirements=_pip_requirements(_REQUIREMENTS),
            )
            created = self.client.create_model_version(
                name,
                source=logged.model_uri,
                run_id=run_id,
                tags=dict(tags),
                description=description,
                model_id=logged.model_id,
            )
        return _version(created)

    def _ensure_model(self, name: str) -> None:
        with reachable(self.settings.tracking_uri):
            try:
                self.client.create_registered_model(
                    name,
                    description="Scores the seconds of a video that are worth sharing. Alias champion: what serves.",
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise


def _version(entry: mlflow.entities.model_registry.ModelVersion) -> ModelVersion:
    return ModelVersion(entry.name, str(entry.version), entry.tags.get(HASH_TAG, ""), entry.run_id or "")


def _signature() -> ModelSignature:
    return ModelSignature(
        # `content` is base64 in text: MLflow decodes a binary column at once, and one bad row would cost the others.
        inputs=Schema([ColSpec(DataType.string, name, required=False) for name in ("video", "content")]),
        params=ParamSchema([ParamSpec(name, type_, default_of(name)) for name, type_ in TYPES.items()]),
    )


def _package_file(name: str | None) -> Path:
    assert name is not None  # both packages have an __init__.py
    return Path(name).resolve()


def _pip_requirements(names: Iterable[str]) -> list[str]:
    """Return `name==version` as installed here; a local label (+cpu) is no version that a registry would have."""
    found = []
    for name in names:
        try:
            found.append(f"{name}=={importlib.metadata.version(name).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
