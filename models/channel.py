"""Threads in a row, each making items ahead of the next, with a bounded queue between any two.

Knows threads and nothing of what the items are. Whoever is ahead waits (back-pressure). An error in a thread is raised
where the items are used, behind the items made before it. Leaving the block, for whatever reason, tells all threads to
stop and waits until they have, so that no thread outlives its block; one ends when the item in its hand is made.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
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
        self.error: BaseException | None = None

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
        if self.error is not None:
            raise self.error

    def end(self, error: BaseException | None) -> None:
        """Say that no more items come, and why if they should have."""
        with self._changed:
            self.error, self._is_ended = error, True
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
    channels: list[_Channel[Any]] = []
    threads = []
    for i in range(len(steps) + 1):
        channel: _Channel[Any] = _Channel(num_ahead)
        made = steps[i - 1](channels[-1].take()) if i else source
        threads.append(threading.Thread(target=_make, args=(made, channel), name=f"{name}-{i}", daemon=True))
        channels.append(channel)
    for thread in threads:
        thread.start()
    try:
        yield channels[-1].take()
    finally:
        for channel in channels:
            channel.close()
        for thread in threads:
            thread.join()


def _make(items: Iterable[Any], channel: _Channel[Any]) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not channel.put(item):
                break
    except BaseException as caught:  # noqa: BLE001  (raised again by the thread that takes)
        error = caught
    finally:
        close: Callable[[], None] | None = getattr(items, "close", None)
        if close is not None:
            close()
        channel.end(error)
