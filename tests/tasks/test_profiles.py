"""Overrides and profiles into params.yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ParamsError
from models.params import Section
from tasks.profiles import SECTION_MODULES, override_params, parse_setting, section_class

ROOT = Path(__file__).resolve().parents[2]
TEXT = """\
# head
encoder:
  name: nano   # trained here
  pretrained: null
gate:
  min_f1: 0.6154
own:
  list: [1, 2]
  "quoted": 'text'
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    (tmp_path / "params").mkdir()
    return path


def test_a_setting_changes_one_value_and_nothing_else(params: Path) -> None:
    assert override_params(params, settings=["gate.min_f1=0.7"]) == ["gate.min_f1: 0.6154 -> 0.7"]
    assert params.read_text() == TEXT.replace("0.6154", "0.7")


def test_nothing_to_change_writes_nothing(params: Path) -> None:
    before = params.stat().st_mtime_ns
    assert override_params(params, settings=["gate.min_f1=0.6154", "encoder.pretrained=null"]) == []
    assert override_params(params) == []
    assert params.stat().st_mtime_ns == before


def test_a_profile_comes_first_and_settings_win(params: Path) -> None:
    (params.parent / "params" / "big.yaml").write_text(
        "encoder: {name: ViT-B-32, pretrained: openai}\ngate: {min_f1: 0.8, max_f1_diff: 0.01}\n"
    )
    changes = override_params(params, "big", ["gate.min_f1=0.9", "own.new.deep=x"])
    content = yaml.safe_load(params.read_text())
    assert content["encoder"] == {"name": "ViT-B-32", "pretrained": "openai"}
    assert content["gate"] == {"min_f1": 0.9, "max_f1_diff": 0.01}
    assert content["own"]["new"] == {"deep": "x"}
    assert "# trained here" in params.read_text()
    assert "gate.max_f1_diff: 0.01" in changes


def test_a_section_that_a_stage_knows_may_be_added(params: Path) -> None:
    override_params(params, settings=["evaluate.num_bootstrap=500"])
    assert yaml.safe_load(params.read_text())["evaluate"] == {"num_bootstrap": 500}


@pytest.mark.parametrize(
    ("profile", "setting", "words"),
    [
        (None, "gate.min_f1=1.5", "gate.min_f1 = 1.5"),
        (None, "gate.min_f1=high", "gate.min_f1 = 'high'"),
        (None, "gate.min_f2=0.5", "gate.min_f2 = 0.5"),
        (None, "gait.min_f1=0.5", "gait: no such section"),
        (None, "gate=0.5", "section.key=value"),
        (None, "gate.min_f1", "section.key=value"),
        (None, "gate..min_f1=1", "section.key=value"),
        (None, "gate.min_f1=[1", "not YAML"),
        (None, "own.list.deep=1", "own.list"),
        ("nope", None, "profiles there are: big"),
    ],
)
def test_what_is_not_acceptable_changes_nothing(
    params: Path, profile: str | None, setting: str | None, words: str
) -> None:
    (params.parent / "params" / "big.yaml").write_text("gate: {min_f1: 0.8}\n")
    settings = ["encoder.pretrained=openai", *([setting] if setting else [])]  # a good one does not go in alone
    with pytest.raises(ParamsError) as refusal:
        override_params(params, profile, settings)
    assert words in str(refusal.value)
    assert params.read_text() == TEXT
    assert [path.name for path in params.parent.iterdir() if ".part" in path.name] == []


def test_a_section_cannot_become_a_value(params: Path) -> None:
    (params.parent / "params" / "flat.yaml").write_text("gate: 3\n")
    with pytest.raises(ParamsError, match="gate: is a section"):
        override_params(params, "flat")


def test_missing_params(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such params file"):
        override_params(tmp_path / "params.yaml", settings=["gate.min_f1=0.5"])


@given(
    st.lists(st.from_regex(r"[a-z_]+", fullmatch=True), min_size=2, max_size=4),
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False),
)
def test_settings_are_read_as_yaml(keys: list[str], value: Any) -> None:
    text = yaml.safe_dump(value).removesuffix("\n").removesuffix("...").strip()
    assert parse_setting(f"{'.'.join(keys)}={text}") == (tuple(keys), value)


@pytest.mark.parametrize("name", sorted(SECTION_MODULES))
def test_every_section_of_the_project_has_its_class(name: str) -> None:
    kind = section_class(name)
    assert kind is not None
    assert issubclass(kind, Section)


def test_every_section_of_params_yaml_is_known() -> None:
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())) <= set(SECTION_MODULES)
