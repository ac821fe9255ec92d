"""dvc.yaml as a graph."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.dag import Dag, load_dag, parse_dag
from models.errors import ParamsError

ROOT = Path(__file__).resolve().parents[2]


def _stages(**stages: dict[str, Any]) -> dict[str, Any]:
    return {"stages": {name: {"cmd": f"run {name}", **entry} for name, entry in stages.items()}}


def test_the_projects_own_dag_runs_from_footage_to_report() -> None:
    dag = load_dag(ROOT / "dvc.yaml")
    assert dag.names[0] == "ingest"
    assert dag.names[-1] == "report"
    assert set(dag["gate"].upstream) == {"compile", "evaluate"}
    assert dag["evaluate"].upstream == ("frames", "embed", "train", "prune", "compile")
    assert dag["compile"].upstream == ("frames", "prune", "ladder", "categorise")
    assert {"ingest", "frames", "train", "ladder", "compile"} <= dag.ancestors("report")
    assert dag["train"].folder == "build/train"
    assert "build/train/history.jsonl" in dag["train"].plots
    assert dag["frames"].outs[0] == "build/frames/shards"  # an out with options keeps its path
    assert all(stage.desc for stage in dag.stages)


def test_a_dep_inside_an_out_folder_and_around_an_out_both_make_an_edge() -> None:
    dag = parse_dag(
        _stages(
            inside={"deps": ["build/model/weights.bin"]},
            around={"deps": ["build/"]},
            beside={"deps": ["build/model2"]},
            maker={"outs": [{"build/model/": {"persist": True}}], "metrics": [{"m.json": {"cache": False}}]},
            metrics_reader={"deps": ["m.json"]},
        )
    )
    assert dag.names[:2] == ("beside", "maker")  # the order of the file where there is a choice
    assert [name for name in dag.names if dag[name].upstream == ("maker",)] == ["inside", "around", "metrics_reader"]
    assert dag["beside"].upstream == ()


def test_params_of_params_yaml_only() -> None:
    entry = {"params": ["train", "embed.views", {"other.yaml": ["x"]}, {"params.yaml": ["gate"]}]}
    assert parse_dag(_stages(one=entry))["one"].params == ("train", "embed.views", "gate")


def test_a_list_of_commands_is_one_command() -> None:
    assert parse_dag({"stages": {"one": {"cmd": ["a", "b"]}}})["one"].cmd == "a && b"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["mapping `stages`"]),
        ({"stages": {}}, ["at least one"]),
        ({"stages": {"one": {"deps": []}}}, ["'one'", "cmd"]),
        ({"stages": {"one": {"foreach": [1], "do": {"cmd": "x"}}}}, ["'one'", "foreach"]),
        (_stages(one={"deps": "data"}), ["'one'", "deps", "list", "str"]),
        (_stages(one={"outs": ["x"]}, two={"metrics": ["x"]}), ["x is written by both", "'one'", "'two'"]),
    ],
)
def test_malformed_files_are_refused_by_name(content: Any, words: list[str]) -> None:
    with pytest.raises(ParamsError) as refusal:
        parse_dag(content, "some/dvc.yaml")
    assert "some/dvc.yaml" in str(refusal.value)
    assert all(word in str(refusal.value) for word in words)


def test_a_cycle_is_shown_as_a_path() -> None:
    content = _stages(
        a={"deps": ["c.out"], "outs": ["a.out"]},
        b={"deps": ["a.out"], "outs": ["b.out"]},
        c={"deps": ["b.out"], "outs": ["c.out"]},
        after={"deps": ["b.out"]},
    )
    with pytest.raises(ParamsError, match=r"a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c"):
        parse_dag(content)


def test_a_stage_that_reads_its_own_output_is_a_cycle() -> None:
    with pytest.raises(ParamsError, match="a -> a"):
        parse_dag(_stages(a={"deps": ["a.out"], "outs": ["a.out"]}))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file"):
        load_dag(tmp_path / "dvc.yaml")
    (tmp_path / "dvc.yaml").write_text("stages: [\n")
    with pytest.raises(ParamsError, match="not readable as YAML"):
        load_dag(tmp_path / "dvc.yaml")


def test_an_unknown_stage_names_those_there_are() -> None:
    with pytest.raises(ParamsError, match=r"no stage 'trian'; it has train"):
        parse_dag(_stages(train={}))["trian"]


@st.composite
def _random_dags(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, set[str]]]:
    """Draw a dvc.yaml whose stages come in any order, and who reads from whom."""
    num_stages = draw(st.integers(1, 9))
    edges = {
        f"s{i}": {f"s{j}" for j in draw(st.sets(st.integers(0, i - 1)))} if i else set() for i in range(num_stages)
    }
    order = draw(st.permutations(sorted(edges)))
    inside = draw(st.booleans())
    return _stages(
        **{
            name: {
                "deps": [f"build/{other}/{'x' if inside else ''}" for other in sorted(edges[name])],
                "outs": [f"build/{name}"],
            }
            for name in order
        }
    ), edges


@given(_random_dags())
def test_every_order_is_topological_and_every_edge_is_found(drawn: tuple[dict[str, Any], dict[str, set[str]]]) -> None:
    content, edges = drawn
    dag = parse_dag(content)
    assert sorted(dag.names) == sorted(edges)
    for position, stage in enumerate(dag.stages):
        assert set(stage.upstream) == edges[stage.name]
        assert set(stage.upstream) <= set(dag.names[:position])
        assert dag.ancestors(stage.name) == _reach(edges, stage.name)
    assert parse_dag({"stages": {stage.name: content["stages"][stage.name] for stage in dag.stages}}).names == dag.names


@given(_random_dags(), st.data())
def test_an_edge_back_is_always_a_cycle(drawn: tuple[dict[str, Any], dict[str, set[str]]], data: st.DataObject) -> None:
    content, edges = drawn
    name = data.draw(st.sampled_from(sorted(edges)))
    back = data.draw(st.sampled_from(sorted(_reach(edges, name) | {name})))
    content["stages"][back]["deps"].append(f"build/{name}")
    with pytest.raises(ParamsError, match="wait for each other"):
        parse_dag(content)


def _reach(edges: dict[str, set[str]], name: str) -> frozenset[str]:
    near = edges[name]
    return frozenset(near).union(*(_reach(edges, other) for other in near))


def test_values_are_frozen_and_comparable() -> None:
    dag = parse_dag(_stages(one={}))
    assert dag == parse_dag(_stages(one={}))
    assert isinstance(hash(dag), int)
    with pytest.raises(AttributeError):
        dag.stages = ()  # type: ignore[misc]
    assert Dag(()).names == ()
