"""The flow `score-inbox`: score what is new in an inbox folder with the champion.

Knows when there is something to do; scoring is `tasks.score`'s, what is new is `flows.inbox`'s. Entry point for
deployments: flows.score_inbox.score_inbox. From a shell: `python -m flows.score_inbox`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.inbox import KnownVideo, look, read_index, record, write_index
from flows.settings import Settings
from flows.states import failing_in_one_line
from tasks.footage import Footage
from tasks.mlflow_store import CHAMPION_URI
from tasks.model_uri import resolve
from tasks.score import ModelIdentity, ScoreProgress, score_videos
from tasks.shell import one_line_errors, quiet_environment, terminate_as_interrupt

DEFAULT_MIN_AGE_S = 30.0


@flow(name="score-inbox", persist_result=False)
@failing_in_one_line
def score_inbox(
    inbox: str = "inbox",
    out: str = "highlights",
    model: str = CHAMPION_URI,
    min_age_s: float = DEFAULT_MIN_AGE_S,
    root: str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, int]:
    """Score every video of `inbox` that is not in the index of `out`; return how many were scored, rejected, waiting.

    inbox, out:   folders, relative to the repository root
    model:        models:/NAME@ALIAS, models:/NAME/VERSION or the folder of a served model
    min_age_s:    a file that was written to less than this many seconds ago waits for the next run
    root:         repository root, by default $HERDLIGHT_ROOT or the working folder
    tracking_uri: of MLflow, by default $MLFLOW_TRACKING_URI or mlflow/mlflow.db

    A video that cannot be read is recorded once as rejected and fails nothing. No model is loaded for an empty inbox.
    """
    quiet_environment()
    settings = Settings.of(root, tracking_uri)
    folder = settings.root / out
    arrivals = look(settings.root / inbox, folder, read_index(folder), min_age_s)
    log = get_run_logger()
    for name in arrivals.waiting:
        log.info("%s: written to less than %g s ago, waits for the next run", name, min_age_s)
    index = arrivals.index
    counts = {"scored": 0, "rejected": 0, "waiting": len(arrivals.waiting)}
    if arrivals.new:
        entries = score_new(settings, model, arrivals.new, folder, return_state=True).result()
        index = record(index, entries.items())
        for entry in entries.values():
            counts[entry.status] += 1
    if index != read_index(folder):
        write_index(folder, index)
    log.info("%d scored, %d rejected, %d waiting", *counts.values())
    return counts


@task(name="score", task_run_name="score", cache_policy=NO_CACHE, persist_result=False)
@failing_in_one_line
def score_new(settings: Settings, model: str, new: Mapping[str, Footage], out: Path) -> dict[str, KnownVideo]:
    """Score videos and return what became of each, by video_id; a run that was cut off keeps what it has scored."""
    from models.served import load_served  # torch, only where there is something to score

    log = get_run_logger()
    path = model if model.startswith("models:") else str(settings.root / model)
    found = resolve(path, settings.tracking_uri)
    identity = ModelIdentity(found.uri, found.version, found.sha256)

    def say(progress: ScoreProgress) -> None:
        if progress.outcome:
            log.info("%d of %d: %s: %s", progress.index + 1, progress.num_videos, progress.video, progress.outcome)

    report = score_videos(load_served(found.folder), identity, list(new.values()), out, on_progress=say)
    reasons = {row.video: row.reason for row in report.rejected}
    name = f"{found.uri} (version {found.version})" if found.version else found.uri
    for video, reason in reasons.items():
        log.warning("%s: rejected: %s", video, reason)
    return {
        video_id: KnownVideo(
            item.name, "rejected" if item.name in reasons else "scored", reasons.get(item.name, ""), name
        )
        for video_id, item in new.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: score the inbox once; exit status 1 with one line when that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m flows.score_inbox", description="Score what is new in an inbox.")
    parser.add_argument("--inbox", default="inbox", metavar="FOLDER")
    parser.add_argument("--out", default="highlights", metavar="FOLDER")
    parser.add_argument("--model", default=CHAMPION_URI, metavar="URI")
    parser.add_argument("--min-age-s", type=float, default=DEFAULT_MIN_AGE_S, metavar="SECONDS")
    parser.add_argument("--root", metavar="FOLDER", help="repository root, by default the working folder")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow store, by default mlflow/mlflow.db")
    options = vars(parser.parse_args(argv))
    quiet_environment()
    with one_line_errors("score-inbox"), terminate_as_interrupt():
        score_inbox(**options)


if __name__ == "__main__":
    main()
