"""Serving both deployments from one process: nightly training, and the inbox every quarter of an hour.

`python -m flows.serve` registers them with the Prefect server that PREFECT_API_URL names and starts their runs when
they are due. A team with work pools uses prefect.yaml instead, which names the same two. Knows schedules only.
"""

import argparse
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import cast

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from flows.score_library import DEFAULT_MIN_AGE_S, score_library
from flows.settings import Settings
from flows.train import train
from tasks.shell import one_line_errors, quiet_environment

DEFAULT_TRAIN_CRON = "0 2 * * *"
DEFAULT_INBOX_INTERVAL_S = 900.0
# A run that comes due while the one before is still going is dropped: the next one finds the same work.
_ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def make_deployments(
    settings: Settings,
    *,
    train_cron: str = DEFAULT_TRAIN_CRON,
    train_interval_s: float | None = None,
    inbox_interval_s: float = DEFAULT_INBOX_INTERVAL_S,
    inbox_min_age_s: float = DEFAULT_MIN_AGE_S,
) -> tuple[RunnerDeployment, RunnerDeployment]:
    """Return the deployments `train/nightly` and `score-library/inbox` for the repository of `settings`.

    train_cron:       when to train, five fields, in UTC
    train_interval_s: train every so many seconds instead
    inbox_interval_s: seconds between two looks into the inbox
    inbox_min_age_s:  seconds that a file in the inbox must have been left alone

    The entry points are dotted, so that `flows` is found as a package and its folder never gets on sys.path.
    """
    where = {"root": str(settings.root), "tracking_uri": settings.tracking_uri}
    nightly = train.to_deployment(
        name="nightly",
        cron=train_cron if train_interval_s is None else None,
        interval=None if train_interval_s is None else timedelta(seconds=train_interval_s),
        parameters=where,
        concurrency_limit=_ONE_AT_A_TIME,
        description="Run the DAG of dvc.yaml, judge the model, promote it if it passed.",
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    inbox = score_library.to_deployment(
        name="inbox",
        interval=timedelta(seconds=inbox_interval_s),
        parameters={**where, "min_age_s": inbox_min_age_s},
        concurrency_limit=_ONE_AT_A_TIME,
        description="Score what is new in inbox/ with the champion into highlights/.",
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # Prefect types these for callers with and without an event loop; there is none here.
    return cast(RunnerDeployment, nightly), cast(RunnerDeployment, inbox)


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description="Serve the deployments with schedules.")
    parser.add_argument("--train-cron", default=DEFAULT_TRAIN_CRON, metavar="CRON", help="in UTC; default: %(default)s")
    parser.add_argument("--train-interval-s", type=float, metavar="SECONDS", help="instead of a cron")
    parser.add_argument("--inbox-interval-s", type=float, default=DEFAULT_INBOX_INTERVAL_S, metavar="SECONDS")
    parser.add_argument("--inbox-min-age-s", type=float, default=DEFAULT_MIN_AGE_S, metavar="SECONDS")
    parser.add_argument("--root", metavar="FOLDER", help="repository root, by default the working folder")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow store, by default mlflow/mlflow.db")
    options = vars(parser.parse_args(argv))
    quiet_environment()
    with one_line_errors("serve"):
        settings = Settings.of(options.pop("root"), options.pop("tracking_uri"))
        _let_runs_find_the_code()
        serve(*make_deployments(settings, **options))


def _let_runs_find_the_code() -> None:
    """Put this code on the path of the processes that runs get, which need not start in this folder."""
    code = str(Path(__file__).resolve().parents[1])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([code, *([before] if before else [])])


if __name__ == "__main__":
    main()
