"""Threads in a row, each making items ahead of the next, with a bounded queue between any two.

Knows threads and nothing of what the items are. Whoever is ahead waits (back-pressure). An error in a thread is raised
where the items are used, behind the items made before it. Leaving the block, for whatever reason, tells all threads to
stop and waits until they have, so that no thread outlives its block; one ends when the item in its hand is made.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")


class _Channel(Generic[ItemT]):
    """At most `size` items on their way from one thread to another."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[ItemT] = deque()
        self._changed = threading.Condition()
        self._is_ended = False  # nothing more will be put
        self._is_closed = False  # nobody takes any more
        self._error: BaseException | None = None

    def put(self, item: ItemT) -> bool:
        """Wait for room and leave `item`; return False where nobody takes items any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._size or self._is_closed)
            if not self._is_closed:
                self._items.append(item)
            self._changed.notify_all()
            return not self._is_closed

    def take(self) -> Iterator[ItemT]:
        """Yield what is put until the other side ends or this one closes, then raise the other side's error."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._items) or self._is_ended or self._is_closed)
                if self._is_closed or not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def end(self, maker: Future[None]) -> None:
        """Say that no more items come; `maker` has ended, with an error if some should have."""
        with self._changed:
            self._error, self._is_ended = maker.exception(), True
            self._changed.notify_all()

    def close(self) -> None:
        """Say that nobody takes items any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


@contextlib.contextmanager
def made_ahead(
    source: Iterable[Any], *steps: Callable[[Iterator[Any]], Iterable[Any]], num_ahead: int, name: str
) -> Generator[Iterator[Any], None, None]:
    """Yield an iterator over what the last of `steps` makes of what the one before it makes … of `source`.

    source and each step run in a thread of their own, with at most `num_ahead` ready items behind each; generators
    are closed there. `name` is for whoever looks at stacks.
    """
    channels: list[_Channel[Any]] = [_Channel(num_ahead) for _ in range(len(steps) + 1)]
    with ThreadPoolExecutor(len(channels), thread_name_prefix=name) as threads:
        try:
            for i, channel in enumerate(channels):
                items = steps[i - 1](channels[i - 1].take()) if i else source
                threads.submit(_make, items, channel).add_done_callback(channel.end)
            yield channels[-1].take()
        finally:
            for channel in channels:
                channel.close()


def _make(items: Iterable[Any], channel: _Channel[Any]) -> None:
    """Put all of `items`, until nobody takes them any more, and close them where they are a generator."""
    try:
        for item in items:
            if not channel.put(item):
                break
    finally:
        close: Callable[[], None] | None = getattr(items, "close", None)
        if close is not None:
            close()
