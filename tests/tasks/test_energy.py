"""Energy of a piece of work: an interrupt at any moment ends the meter, and never leaves it waiting for itself."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from tasks import energy


def test_an_interrupt_is_raised_once_the_call_has_ended() -> None:
    done: list[str] = []

    def slow() -> None:
        time.sleep(0.3)
        done.append(threading.current_thread().name)

    previous = signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGINT))
    try:
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            energy._whole(slow)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert done
    assert done != [threading.main_thread().name]


INTERRUPTED = """
import signal, threading
from codecarbon.external.scheduler import PeriodicScheduler
from tasks.energy import energy_counter

plain = threading.Timer.start
def start(self):
    signal.setitimer(signal.ITIMER_REAL, 0.02)  # the signal comes while CodeCarbon holds its lock
    plain(self)
    import time; time.sleep(0.1)
threading.Timer.start = start
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
try:
    with energy_counter() as counter, counter.count():
        pass
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_while_the_meter_starts_ends_the_run() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "interrupted\n", done.stderr
