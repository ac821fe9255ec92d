"""Threads in a row: order, back-pressure, and an end of all of them whichever of them fails."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from models.channel import made_ahead


def alive(prefix: str = "made") -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_everything_arrives_in_order_through_several_threads() -> None:
    steps = (lambda items: (x + 1 for x in items), lambda items: (2 * x for x in items))
    with made_ahead(range(500), *steps, num_ahead=2, name="made") as made:
        assert list(made) == [2 * (x + 1) for x in range(500)]
    assert not alive()


def test_the_maker_waits_for_the_user() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with made_ahead(items(), num_ahead=2, name="made") as ready:
        for i in ready:
            time.sleep(0.002)
            assert len(made) <= i + 4  # the one in use, two that wait, one in the maker's hand
            if i == 30:
                break
    assert len(made) < 40
    assert not alive()


def test_an_error_of_the_maker_comes_after_what_it_made() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
            raise ValueError("third")
        finally:
            closed.append(threading.current_thread().name)

    got: list[int] = []

    def use() -> None:
        with made_ahead(items(), lambda items: (x for x in items), num_ahead=8, name="made") as made:
            got.extend(made)

    with pytest.raises(ValueError, match="third"):
        use()
    assert got == [1, 2]
    assert closed == ["made_0"]
    assert not alive()


def test_an_error_in_a_step_ends_what_is_before_it() -> None:
    def fail(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            if item == 7:
                raise ValueError("seven")
            yield item

    def use() -> list[int]:
        with made_ahead(itertools.count(), fail, lambda items: items, num_ahead=2, name="made") as made:
            return list(made)

    with pytest.raises(ValueError, match="seven"):
        use()
    assert not alive()


def test_a_step_that_waits_for_a_slow_source_ends_with_it() -> None:
    going = threading.Event()

    def slow() -> Iterator[int]:
        yield 0
        going.wait(0.3)
        yield 1
        going.wait(60)  # nobody wants it: never begun

    started = time.monotonic()
    with made_ahead(slow(), lambda items: (x for x in items), num_ahead=1, name="made") as made:
        assert next(made) == 0
    assert time.monotonic() - started < 5
    assert not alive()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_of_the_user_ends_all_threads_at_once(error: type[BaseException]) -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            i = 0
            while True:
                yield i
                i += 1
        finally:
            closed.set()

    def use() -> None:
        with made_ahead(endless(), lambda items: (x for x in items), num_ahead=2, name="made") as made:
            for item in made:
                if item == 5:
                    raise error

    started = time.monotonic()
    with pytest.raises(error):
        use()
    assert time.monotonic() - started < 2
    assert closed.is_set()
    assert not alive()


def test_leaving_before_the_first_item_waits_for_nothing_else() -> None:
    with made_ahead(iter(range(10)), num_ahead=1, name="made"):
        pass
    assert not alive()
