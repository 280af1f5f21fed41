"""Prefetching: a thread fetches items while the caller works on earlier ones, never more than so many of them."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item], depth: int = 8) -> Generator[Item, None, None]:
    """The same items in the same order, fetched by a thread up to ``depth`` ahead; then it waits for the caller.

    What the source raises is raised here, in its place in the order. When the caller stops early, so does the thread, after
    the item that it is fetching: closing the generator waits for that, so that the source may be closed afterwards.
    """
    box: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(item) -> bool:
        """Wait for a place in the box; False if the caller has left meanwhile."""
        while not stop.is_set():
            try:
                box.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fetch() -> None:
        """What the thread does: every item, then the end or the error."""
        try:
            for item in items:
                if not put((item, None)):
                    return
                del item
            put((_END, None))
        except BaseException as error:  # for the caller to see
            put((_END, error))

    thread = threading.Thread(target=fetch, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = box.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
            del item
    finally:
        stop.set()
        thread.join()
