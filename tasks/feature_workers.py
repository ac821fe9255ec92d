"""Extraction on one device in this process, or on several with a process each, which take the next video when free.

Knows devices and processes; what is done with a video is `tasks.features`'s. A process that ends in the middle of a
video costs that video alone: it is rejected with that reason, and a new process takes its place.
"""

import multiprocessing
import os
import queue
import signal
import threading
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import torch

from models.errors import HerdlightError, ParamsError
from models.feature_tower import FeatureTower, TextLogits, TowerChoice, load_tower
from tasks.features import FeatureOptions, FeatureReport, FeatureRow, Say, extract_one, report_of
from tasks.footage import Footage
from tasks.scored_files import RejectedRow
from tasks.shell import quiet_environment

OnDone = Callable[[str], None]
Outcome = FeatureRow | RejectedRow
_CPU = "cpu"


def choose_devices(wanted: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Return the devices to use of those `wanted` (`0`, `cuda:0`, `cpu`), and what to say where they are not here.

    Raises ParamsError for what is no device, and for a GPU whose number is too high where there are GPUs.
    """
    names = []
    for device in wanted:
        name = f"cuda:{device}" if device.isdigit() else device
        if name != _CPU and not (name == "cuda" or (name.startswith("cuda:") and name[5:].isdigit())):
            raise ParamsError(f"device {device!r}: must be cpu, cuda:N, or the number N of a GPU")
        names.append("cuda:0" if name == "cuda" else name)
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not num_gpus and any(name != _CPU for name in names):
        return (_CPU,), "no GPU that torch can use on this machine: features are made on the CPU"
    for name in names:
        if name != _CPU and int(name[5:]) >= num_gpus:
            raise ParamsError(f"device {name!r}: this machine has {num_gpus} GPU(s), cuda:0 to cuda:{num_gpus - 1}")
    return tuple(names), None


def extract_all(
    choice: TowerChoice, devices: Sequence[str], footage: Sequence[Footage], options: FeatureOptions, say: Say,
    on_done: OnDone = lambda _: None,
) -> FeatureReport:  # fmt: skip
    """Return what became of every video, on all `devices`.

    say:     takes the lines that the options ask for, those of one video together where there are several devices
    on_done: called with the name of a video when it is done, from any thread
    Raises as `models.feature_tower.load_tower` does.
    """
    if len(devices) > 1:
        # What is wrong with the tower is told here once, and weights are in the cache before the processes ask.
        _load(choice, _CPU, options)
        return _Crew(choice, tuple(devices), tuple(footage), options, say, on_done).run()
    tower, texts = _load(choice, devices[0], options)
    outcomes: list[Outcome] = []
    for item in footage:
        outcomes.append(extract_one(tower, item, options, say, texts))
        on_done(item.name)
    return report_of(outcomes)


def _load(choice: TowerChoice, device: str, options: FeatureOptions) -> tuple[FeatureTower, TextLogits | None]:
    tower = load_tower(choice, device)
    return tower, tower.embed_texts(options.pred_texts) if options.pred_texts else None


# What a worker process has loaded; empty in every other process.
_here: list[tuple[FeatureTower, TextLogits | None, FeatureOptions]] = []


def _start(choice: TowerChoice, device: str, options: FeatureOptions, num_threads: int) -> None:
    """Prepare a worker process: it ends with the one that started it, and cleans up when that one asks it to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_environment()
    torch.set_num_threads(num_threads)
    _here.append((*_load(choice, device, options), options))


def _leave(_signal: int, _frame: types.FrameType | None) -> None:
    raise SystemExit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(item: Footage) -> tuple[Outcome, list[str]]:
    tower, texts, options = _here[0]
    lines: list[str] = []
    return extract_one(tower, item, options, lines.append, texts), lines


@dataclass
class _Crew:
    """One thread a device, each with a process that it gives one video after the other."""

    choice: TowerChoice
    devices: tuple[str, ...]
    footage: tuple[Footage, ...]
    options: FeatureOptions
    say: Say
    on_done: OnDone
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    waiting: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)
    saying: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> FeatureReport:
        for index in range(len(self.footage)):
            self.waiting.put(index)
        threads = [threading.Thread(target=self._serve, args=(device,)) for device in self.devices]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self.stopping.set()
            for process in multiprocessing.active_children():
                process.terminate()
            for thread in threads:
                thread.join()
            raise
        if self.failures:
            raise self.failures[0]
        return report_of([self.outcomes[index] for index in sorted(self.outcomes)])

    def _new_process(self, device: str) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        num_threads = max(1, torch.get_num_threads() // len(self.devices))
        arguments = (self.choice, device, self.options, num_threads)
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=arguments)

    def _serve(self, device: str) -> None:
        process = self._new_process(device)
        try:
            while not self.stopping.is_set():
                index = self.waiting.get_nowait()
                item = self.footage[index]
                lines: list[str] = []
                try:
                    self.outcomes[index], lines = process.submit(_work, item).result()
                except BrokenProcessPool:
                    if self.stopping.is_set():
                        return
                    process.shutdown()
                    process = self._new_process(device)
                    reason = f"the process on {device} ended while it was read"
                    self.outcomes[index] = RejectedRow(item.name, reason)
                with self.saying:
                    for line in lines:
                        self.say(line)
                    self.on_done(item.name)
        except (queue.Empty, SystemExit):  # all is done, or the worker was asked to leave
            pass
        except (HerdlightError, OSError, RuntimeError) as error:  # a full disk, a GPU out of memory: told by `run`
            self.failures.append(error)
            self.stopping.set()
        finally:
            process.shutdown()
