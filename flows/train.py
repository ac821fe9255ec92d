"""The flow `train`: footage in, a judged and perhaps promoted model out.

Runs the stages of dvc.yaml one after the other through DVC, logs each to MLflow, then judges the served model against
the present champion, registers it and moves the alias. Knows the order of these effects; each is done elsewhere.
Entry point for deployments: flows.train.train. From a shell: `python -m flows.train [--profile NAME] [--set a.b=c]`.
"""

import argparse
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.champion import EVALUATION_FILE, TEST_SET_FILE, champion_counts, hash_test_set, read_test_frames
from flows.dag import PARAMS_FILE, Dag, load_dag
from flows.dvc import Outcome, run_stage
from flows.judged_report import compare_by_video, judged_page, write_judged
from flows.registry import CHAMPION, ModelVersion, Registry
from flows.settings import Settings
from flows.stage_files import StageRecord, add_totals, data_hash, read_params_file, read_stage
from flows.states import failing_in_one_line
from flows.summary import RunSummary, read_evaluation, show, summary_path
from flows.tracking import Tracker, describe_verdict, git_commit, parent_run
from models.errors import GateRefused
from models.evaluation import SERVED
from models.files import read_json, write_json
from models.params import load_section
from models.verdict import Verdict
from tasks.gate import GateParams, compare_with_champion, judge
from tasks.mlflow_store import connect
from tasks.profiles import override_params
from tasks.score import identify_model
from tasks.shell import one_line_errors, quiet_environment, terminate_as_interrupt

# A DAG with these stages ends in a model to judge; any other ends with its last stage.
_CANDIDATE_STAGES = ("compile", "evaluate")
_PARENT_FILES = ("build/evaluate/evaluation.json", "dvc.lock")
_PARENT_PAGES = ("report.html", "model_card.md")
logger = logging.getLogger(__name__)


@flow(name="train", persist_result=False)
@failing_in_one_line
def train(
    profile: str | None = None,
    overrides: list[str] | None = None,
    root: str | None = None,
    tracking_uri: str | None = None,
) -> RunSummary:
    """Run the DAG, log it, judge the model, register it and promote it if it passed.

    profile:      NAME of params/NAME.yaml to merge into params.yaml first
    overrides:    "section.key=value" to merge after it
    root:         repository root, by default $HERDLIGHT_ROOT or the working folder
    tracking_uri: of MLflow, by default $MLFLOW_TRACKING_URI or mlflow/mlflow.db

    The run ends Failed with TrackingUnavailable before any stage when MLflow is away, with StageFailed when a stage
    fails, and with GateRefused when the model did not pass; then the alias has not moved.
    """
    quiet_environment()
    settings = Settings.of(root, tracking_uri)
    client = connect(settings.tracking_uri)
    dag = load_dag(settings.root / "dvc.yaml")
    for change in override_params(settings.root / PARAMS_FILE, profile, overrides or ()):
        get_run_logger().info("params.yaml: %s", change)
    tags = {"flow_run_id": str(flow_run.id or ""), "profile": profile or "", "overrides": "; ".join(overrides or ())}
    with parent_run(client, settings, str(flow_run.name or "train"), tags) as tracker:
        records = _run_stages(dag, tracker)
        summary = _conclude(dag, records, tracker)
        write_json(summary_path(settings), summary.to_json())
    if summary.verdict is not None and not summary.verdict.promoted:
        raise GateRefused(summary.verdict.text)
    return summary


@task(cache_policy=NO_CACHE, persist_result=False)
@failing_in_one_line
def stage(root: str, name: str) -> State[Outcome]:
    """Run one stage through DVC; the state is called Cached when DVC had nothing to do."""
    outcome = run_stage(Path(root), name, get_run_logger().info)
    return Completed(name="Cached" if outcome is Outcome.CACHED else "Completed", data=outcome)


@task(name="judge", task_run_name="judge", cache_policy=NO_CACHE, persist_result=False)
@failing_in_one_line
def judge_candidate(settings: Settings) -> Verdict:
    """Return the final verdict: the gate's own lines, and the present champion on the same videos."""
    client = connect(settings.tracking_uri)
    evaluation = read_evaluation(settings)
    champion = Registry(client, settings).alias(CHAMPION)
    is_champion = champion is not None and champion.model_hash == _model_hash(settings)
    improvement = comparison = None
    if champion is not None:
        counts = candidate = evaluation.video_counts[SERVED]
        if not is_champion:
            counts = champion_counts(settings, champion, evaluation, read_test_frames(settings), get_run_logger().info)
            improvement = compare_with_champion(candidate, counts, evaluation.seed)
        comparison = compare_by_video(f"{champion.name} version {champion.version}", evaluation, counts)
    engines = read_json(settings.build / "compile" / "engines.json")
    gate = load_section(settings.root / PARAMS_FILE, "gate", GateParams)
    verdict = judge(evaluation, engines, gate, improvement, is_champion=is_champion)
    for line in verdict.lines:
        get_run_logger().log(logging.INFO if line.passed else logging.ERROR, "%s: %s", line.name, line.text)
    write_judged(settings, verdict, comparison)
    if verdict.resolution is not None:
        get_run_logger().log(
            logging.WARNING if verdict.resolution.is_too_small else logging.INFO, "%s", verdict.resolution.text
        )
    return verdict


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
@failing_in_one_line
def register_candidate(settings: Settings, run_id: str, verdict: Verdict) -> ModelVersion:
    """Return the registry version of build/compile/model, an old one when the model is the same to the byte."""
    registry = Registry(connect(settings.tracking_uri), settings)
    with tempfile.TemporaryDirectory(prefix="herdlight-") as folder:
        evidence = _write_evidence(settings, verdict, Path(folder))
        version = registry.register(
            run_id,
            settings.build / "compile" / "model",
            _model_hash(settings),
            evidence,
            _version_tags(settings, verdict),
            describe_verdict(verdict),
        )
    get_run_logger().info("registered as %s", version.uri)
    return version


@task(name="promote", task_run_name="promote", cache_policy=NO_CACHE, persist_result=False)
@failing_in_one_line
def promote_candidate(settings: Settings, version: ModelVersion) -> None:
    """Make the version champion."""
    Registry(connect(settings.tracking_uri), settings).promote(version)
    get_run_logger().info("%s is %s", version.uri, CHAMPION)


def _run_stages(dag: Dag, tracker: Tracker) -> list[StageRecord]:
    """Run and log every stage in topological order; stop at the first that fails."""
    root = tracker.settings.root
    params = read_params_file(root / PARAMS_FILE)
    states: dict[str, State[Any]] = {}
    records = []
    for node in dag.stages:
        named = stage.with_options(name=node.name, task_run_name=node.name, description=node.desc)
        state = named(str(root), node.name, wait_for=[states[name] for name in node.upstream], return_state=True)
        states[node.name] = state
        if not state.is_completed():
            tracker.log_failed_stage(node, state.message or state.name or "failed")
        record = read_stage(root, node, cast(Outcome, state.result()), params)
        tracker.log_stage(record)
        records.append(record)
    return records


def _conclude(dag: Dag, records: Sequence[StageRecord], tracker: Tracker) -> RunSummary:
    """Log the totals; judge, register and promote where the DAG made a candidate."""
    settings = tracker.settings
    totals = add_totals(records)
    evaluation = verdict = version = None
    tags: dict[str, str] = {}
    if all(name in dag.names for name in _CANDIDATE_STAGES):
        evaluation = read_evaluation(settings)
        verdict = judge_candidate(settings, return_state=True).result()
        tracker.log_verdict(verdict)
        version = register_candidate(settings, tracker.run_id, verdict, return_state=True).result()
        tags["model_version"] = version.version
        if verdict.promoted:
            promote_candidate(settings, version, return_state=True).result()
    tracker.log_result(totals, evaluation, tags)
    pages = [judged_page(settings, name).relative_to(settings.root).as_posix() for name in _PARENT_PAGES]
    tracker.log_files([*_PARENT_FILES, *pages])
    return RunSummary(
        run_id=tracker.run_id,
        tracking_uri=settings.tracking_uri,
        outcomes={record.stage.name: record.outcome for record in records},
        embodied=totals.embodied,
        spent=totals.spent,
        verdict=verdict,
        version=version.uri if version else None,
    )


def _model_hash(settings: Settings) -> str:
    return identify_model(settings.build / "compile" / "model", "candidate").sha256


def _write_evidence(settings: Settings, verdict: Verdict, folder: Path) -> dict[str, Path]:
    """Return what a version carries by itself, by name; what is not a stage's file is written into `folder`."""
    write_json(folder / TEST_SET_FILE, {"sha256": hash_test_set(read_test_frames(settings))})
    write_json(folder / "verdict.json", verdict.to_json())
    evidence = {
        "evaluation": settings.build / "evaluate" / EVALUATION_FILE,
        "engines": settings.build / "compile" / "engines.json",
        "model_card": judged_page(settings, "model_card.md"),
        "test_set": folder / TEST_SET_FILE,
        "verdict": folder / "verdict.json",
    }
    return {name: path for name, path in evidence.items() if path.is_file()}


def _version_tags(settings: Settings, verdict: Verdict) -> Mapping[str, str]:
    row = read_evaluation(settings).row(SERVED)
    engines = read_json(settings.build / "compile" / "engines.json")
    return {
        "f1": f"{row.f1.value:.4f}" if row else "",
        "f1_low": f"{row.f1.low:.4f}" if row else "",
        "f1_high": f"{row.f1.high:.4f}" if row else "",
        "verdict": "promoted" if verdict.promoted else "refused",
        "verdict_text": verdict.text,
        "git_commit": git_commit(settings.root),
        "data_hash": data_hash(settings.root) or "",
        "engine": str(engines.get("chosen")),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: run the flow here, print the summary; exit status 1 with one line when it fails or is refused."""
    parser = argparse.ArgumentParser(prog="python -m flows.train", description="Run the DAG, judge, register, promote.")
    parser.add_argument("--profile", metavar="NAME", help="merge params/NAME.yaml into params.yaml first")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--root", metavar="FOLDER", help="repository root, by default the working folder")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow store, by default mlflow/mlflow.db")
    parser.add_argument("--no-summary", action="store_true", help="leave the tables to `python -m flows.summary`")
    options = vars(parser.parse_args(argv))
    silent = options.pop("no_summary")
    quiet_environment()
    with one_line_errors("train"), terminate_as_interrupt():
        try:
            train(**options)
        except GateRefused:
            show(Settings.of(options["root"], options["tracking_uri"]))
            raise
        if not silent:
            show(Settings.of(options["root"], options["tracking_uri"]))


if __name__ == "__main__":
    main()
