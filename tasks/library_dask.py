"""Scoring a library past one machine: Dask workers on a cluster that is there, on this machine, or under SLURM.

All machines see the footage and the output folder under the same paths, and have herdlight installed. Workers get
batches of files and answer rows; results go straight to the ledger, so a worker that dies loses the file in hand at
most, and Dask gives its batch to another one. Dask's own messages between its processes are pickles: give the address
of a scheduler that only your team can reach, or one with TLS. Knows clusters; knows nothing of footage.

Each worker is a process with one thread and keeps one child that has the model loaded.
"""

import contextlib
import importlib
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import DataError, MissingExtra
from tasks.library import Runner
from tasks.library_work import Batch, Event, LibraryJob, OnEvent, work_on

LOCAL, SLURM = "local", "slurm"
_CONNECT_S = 30
# A worker ends with its SLURM job's time; that its batch was begun before is then no sign of a bad batch.
# Each file is minutes of a child's work: Dask's own watch over its workers' stacks and event loops, a hundred times a
# second in every process, tells nothing of it and costs the children a tenth of a core.
_CONFIG = {
    "distributed.scheduler.allowed-failures": 1000,
    "distributed.comm.timeouts.connect": f"{_CONNECT_S}s",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
}
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class SlurmJob:
    """One job under SLURM, as `sbatch` takes it.

    cores:    of one job; each is one worker
    memory:   of one job, as 16GB
    walltime: as 08:00:00
    queue:    partition, "" for the default one
    account:  to charge, "" for the default one
    """

    cores: int = 4
    memory: str = "16GB"
    walltime: str = "08:00:00"
    queue: str = ""
    account: str = ""


@contextlib.contextmanager
def dask_scheduler(address: str, workers: int, job: SlurmJob | None = None) -> Iterator[str]:
    """Yield the address of a scheduler with `workers` workers; what was started for it is ended with the block.

    address: of a scheduler that is there (tcp://HOST:PORT), "local" for processes of this machine, "slurm" for jobs
    Raises MissingExtra where Dask is not installed.
    """
    distributed, dask = extra("distributed"), extra("dask")
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with dask.config.set(_CONFIG):
        if address not in (LOCAL, SLURM):
            yield address
            return
        cluster: Any
        if address == SLURM:
            cluster = slurm_cluster(job or SlurmJob())
            num_jobs = -(-workers // (job or SlurmJob()).cores)
            cluster.adapt(minimum_jobs=num_jobs, maximum_jobs=num_jobs)  # a job that has ended is followed by another
        else:
            # The watchdog limits memory by file; dask's own limit does not see children.
            cluster = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=None
            )
        try:
            yield str(cluster.scheduler_address)
        finally:
            cluster.close()


def slurm_cluster(job: SlurmJob, **options: Any) -> Any:
    """Return a cluster of dask-jobqueue without any job yet; its `job_script()` is what SLURM will get.

    options: of dask_jobqueue.SLURMCluster, beside those of `job`
    """
    jobqueue = extra("dask_jobqueue")
    optional = {"queue": job.queue, "account": job.account}
    return jobqueue.SLURMCluster(
        cores=job.cores,
        processes=job.cores,
        memory=job.memory,
        walltime=job.walltime,
        job_name="herdlight",
        scheduler_options={"dashboard_address": ":0"},
        job_script_prologue=[f"export PYTHONPATH={shlex.quote(str(_ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"],
        **{key: value for key, value in optional.items() if value},
        **options,
    )


@contextlib.contextmanager
def dask_client(address: str) -> Iterator[Any]:
    """Yield a client of the scheduler at `address`. Raises DataError where none answers."""
    distributed = extra("distributed")
    try:
        client = distributed.Client(address, set_as_default=False, timeout=_CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise DataError(f"{address}: no Dask scheduler answers there ({error}); start one, or use local") from None
    with client:
        yield client


def run_on(client: Any, workers: Sequence[str] | None = None) -> Runner:
    """Return the runner that has a client's workers do the batches.

    workers: addresses of those that may, None for all
    """
    distributed = extra("distributed")

    def run(job: LibraryJob, batches: Sequence[Batch], on_event: OnEvent) -> None:
        told: Mapping[str, Any] = job.to_json()
        futures = {client.submit(work_on, told, batch, pure=False, workers=workers): batch for batch in batches}
        try:
            for future in distributed.as_completed(futures, loop=client.loop):
                tell(futures[future], future.result(), on_event)
        finally:
            client.cancel(list(futures))

    return run


def tell(batch: Batch, rows: Sequence[Any], on_event: OnEvent) -> None:
    """Pass on what became of a batch, one event a file."""
    places = [place for group in batch for place in group]
    for place, row in zip(places, rows, strict=True):
        on_event(Event(place, 1.0, row.duration_s, row))


def extra(name: str) -> Any:
    """Return a module of the extra `cluster`. Raises MissingExtra where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingExtra(
            f"{name} is not installed: pip install -c constraints.txt -e '.[cluster]', or use --runner local"
        ) from None
