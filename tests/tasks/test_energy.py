"""Energy of a piece of work: an interrupt at any moment ends the meter, and never leaves it waiting for itself."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from models.energy import Energy, add_energy
from models.errors import ShapeError
from tasks import energy
from tasks.energy import ProcessorTimes, energy_counter


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


def test_processes_share_what_the_machine_used_by_their_processor_time() -> None:
    start, end = ProcessorTimes(own_s=1, busy_s=100), ProcessorTimes(own_s=4, busy_s=112)
    assert end.share_since(start) == 0.25
    # Ticks of the two clocks do not fall together: never nothing, never more than all.
    assert start.share_since(start) == 1
    assert ProcessorTimes(1, 110).share_since(start) == 0.001
    assert ProcessorTimes(2, 100.5).share_since(start) == 1


BUSY = """
import sys, time
sys.stdin.readline()
while True:
    pass
"""


def test_a_counter_that_shares_counts_less_beside_another_process() -> None:
    others = [subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE) for _ in range(4)]
    try:
        with energy_counter(shared=True) as shared:
            for other in others:
                assert other.stdin is not None
                other.stdin.write(b"go\n")
                other.stdin.flush()
            with shared.count() as meter:
                end_s = time.monotonic() + 2
                while time.monotonic() < end_s:
                    pass
    finally:
        for other in others:
            other.kill()
            other.communicate()
    assert meter.energy is not None
    assert meter.energy.kwh > 0
    assert 0 < meter.energy.share < 0.9


def test_a_part_of_an_energy_is_a_share_of_all_of_it() -> None:
    whole = Energy(10, 4e-3, 2e-3, 2e-3, 1e-3, "estimated", "a", "KEN")
    assert whole.share == 1
    quarter = whole.part(0.25)
    assert (quarter.kwh, quarter.co2e_kg, quarter.seconds, quarter.share) == (pytest.approx(2e-3), 2.5e-4, 10, 0.25)
    both = add_energy([whole, quarter])
    assert both is not None
    assert both.share == pytest.approx(10 / 16)
    assert Energy.from_json(quarter.to_json()) == quarter
    old = {key: value for key, value in whole.to_json().items() if key != "share"}
    assert Energy.from_json(old) == whole


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_is_above_0_to_1(share: float) -> None:
    with pytest.raises(ShapeError, match="share must be above 0 and at most 1"):
        Energy(10, 4e-3, 2e-3, 2e-3, 1e-3, "estimated", "a", "KEN").part(share)


def test_an_interrupt_while_the_meter_starts_ends_the_run() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "interrupted\n", done.stderr
