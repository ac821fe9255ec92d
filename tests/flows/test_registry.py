"""Versions and aliases: registered once, promoted all or nothing, rolled back."""

from pathlib import Path
from typing import Any

import pytest

from flows.registry import CHAMPION, PREVIOUS, ModelVersion, Registry
from flows.rollback import main as rollback_main
from flows.rollback import rollback
from models.errors import ModelError, RegistryError
from tasks.mlflow_store import MlflowClient, connect
from tasks.model_uri import HASH_TAG
from tests.flows.tiny import TinyRepository

WRITES = (
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
)


class CrashError(Exception):
    """Stands for the process ending between two writes."""


class CrashingClient:
    """A client whose write number `fail_at` (from 0) never happens."""

    def __init__(self, client: MlflowClient, fail_at: int) -> None:
        self._client, self._left = client, fail_at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in WRITES:
            return found

        def write(*args: Any, **kwargs: Any) -> Any:
            if self._left == 0:
                raise CrashError(name)
            self._left -= 1
            return found(*args, **kwargs)

        return write


@pytest.fixture
def registry(repository: TinyRepository) -> Registry:
    client = connect(repository.settings.tracking_uri)
    client.create_registered_model("herdlight")
    return Registry(client, repository.settings)


def _add(registry: Registry, model_hash: str) -> ModelVersion:
    entry = registry.client.create_model_version("herdlight", source="file:///nowhere", tags={HASH_TAG: model_hash})
    return ModelVersion("herdlight", str(entry.version), model_hash, "")


def _aliases(registry: Registry) -> dict[str, str]:
    return {alias: found.version for alias in (CHAMPION, PREVIOUS) if (found := registry.alias(alias)) is not None}


def test_promotion_and_rollback(registry: Registry) -> None:
    assert _aliases(registry) == {}
    one, two, three = (_add(registry, name) for name in "abc")
    registry.promote(one)
    assert _aliases(registry) == {CHAMPION: "1"}
    registry.promote(two)
    assert _aliases(registry) == {CHAMPION: "2", PREVIOUS: "1"}
    registry.promote(two)  # again: must not become its own predecessor
    assert _aliases(registry) == {CHAMPION: "2", PREVIOUS: "1"}
    registry.promote(three)
    assert _aliases(registry) == {CHAMPION: "3", PREVIOUS: "2"}
    left, back = registry.rollback()
    assert (left.version, back.version) == ("3", "2")
    assert _aliases(registry) == {CHAMPION: "2"}
    with pytest.raises(RegistryError, match="version 2 is champion and none is known before it"):
        registry.rollback()
    registry.promote(three)  # the version that was rolled back may come again
    assert _aliases(registry) == {CHAMPION: "3", PREVIOUS: "2"}


def test_rollback_without_champion(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RegistryError, match="no champion"):
        rollback(registry.settings)
    arguments = ["--root", str(registry.settings.root), "--tracking-uri", registry.settings.tracking_uri]
    with pytest.raises(SystemExit) as ended:
        rollback_main(arguments)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("rollback: herdlight: no champion")
    registry.promote(_add(registry, "a"))
    registry.promote(_add(registry, "b"))
    rollback_main(arguments)
    assert "models:/herdlight/1 again" in capsys.readouterr().out
    assert _aliases(registry) == {CHAMPION: "1"}


@pytest.mark.parametrize("fail_at", range(3))
def test_a_crash_in_a_promotion_leaves_the_old_champion_or_the_new(registry: Registry, fail_at: int) -> None:
    for name in "ab":
        registry.promote(_add(registry, name))
    new = _add(registry, "c")
    crashing = Registry(CrashingClient(registry.client, fail_at), registry.settings)  # type: ignore[arg-type]
    if fail_at < 2:
        with pytest.raises(CrashError):
            crashing.promote(new)
        assert _aliases(registry)[CHAMPION] == "2"
        # What a rollback does now is never worse than nothing: back to 1, or refused.
        assert _aliases(registry)[PREVIOUS] in ("1", "2")
    else:
        crashing.promote(new)
    registry.promote(new)  # the next run
    assert _aliases(registry) == {CHAMPION: "3", PREVIOUS: "2"}


@pytest.mark.parametrize("fail_at", range(2))
def test_a_crash_in_a_rollback_leaves_a_complete_champion(registry: Registry, fail_at: int) -> None:
    for name in "ab":
        registry.promote(_add(registry, name))
    with pytest.raises(CrashError):
        Registry(CrashingClient(registry.client, fail_at), registry.settings).rollback()  # type: ignore[arg-type]
    if fail_at == 0:
        assert _aliases(registry) == {CHAMPION: "2", PREVIOUS: "1"}
    else:  # moved, and the rest of the way changes nothing any more
        assert _aliases(registry)[CHAMPION] == "1"
        with pytest.raises(RegistryError, match="none is known before"):
            registry.rollback()


def _folder(root: Path, content: str) -> Path:
    root.mkdir()
    (root / "model.json").write_text(content)
    return root


def test_registering_at_every_crash(registry: Registry, repository: TinyRepository) -> None:
    """Whatever write of a registration is lost, the next run ends with exactly one version, with its hash and tags."""
    folder = _folder(repository.root / "served", "{}")
    evidence = repository.root / "evaluation.json"
    evidence.write_text("{}")
    experiment = registry.client.create_experiment(
        "registering", artifact_location=(repository.root / "mlflow" / "artifacts").as_uri()
    )
    for fail_at in range(3):
        run_id = registry.client.create_run(experiment).info.run_id
        crashing = Registry(CrashingClient(registry.client, fail_at), registry.settings)  # type: ignore[arg-type]
        try:
            version = crashing.register(run_id, folder, "hash", {"evaluation": evidence}, {"f1": "0.7"}, "good")
        except CrashError:
            assert registry.find("hash") is None
            continue
        break
    assert fail_at == 2  # two writes: the model, the version with its tags
    assert version.version == "1"
    (found,) = registry.client.search_model_versions("name = 'herdlight'")
    assert found.description == "good"
    again = registry.register(run_id, folder, "hash", {}, {"f1": "0.8"}, "better")
    assert again == version
    (found,) = registry.client.search_model_versions("name = 'herdlight'")
    assert found.description == "better"
    assert (str(found.version), found.tags) == ("1", {"f1": "0.8", HASH_TAG: "hash"})


def test_a_folder_without_a_model_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.json is missing"):
        registry.register("run", tmp_path, "hash", {}, {})


def test_deleting_the_champion_leaves_none(registry: Registry) -> None:
    registry.promote(_add(registry, "a"))
    registry.promote(_add(registry, "b"))
    registry.client.delete_model_version("herdlight", "2")
    assert _aliases(registry) == {PREVIOUS: "1"}
    with pytest.raises(RegistryError, match="no champion"):
        registry.rollback()
