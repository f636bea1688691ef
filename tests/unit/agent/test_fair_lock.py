"""Who waits for the lock gets it before the one that gives it back and takes it again."""

from __future__ import annotations

import threading
import time

import pytest

from cgpu.agent.fair_lock import FairLock


def wait_until_somebody_waits(lock: FairLock) -> None:
    """There is no event for that: who waits can say nothing."""
    deadline = time.monotonic() + 60
    while not lock.is_wanted():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_who_waits_is_next():
    lock, order = FairLock(), list[str]()

    def wait() -> None:
        with lock:
            order.append("who waited")

    thread = threading.Thread(target=wait)
    with lock:
        thread.start()
        wait_until_somebody_waits(lock)
    with lock:
        order.append("who had it")
    thread.join()
    assert order == ["who waited", "who had it"]


def test_it_may_be_taken_again_by_who_has_it_also_while_somebody_waits():
    lock = FairLock()
    thread = threading.Thread(target=lock.__enter__)
    with lock:
        thread.start()
        wait_until_somebody_waits(lock)
        with lock:
            pass
        assert lock.is_wanted()
    thread.join()


def test_an_error_gives_it_back():
    lock = FairLock()
    with pytest.raises(ZeroDivisionError), lock:
        _ = 1 / 0
    taken = threading.Event()

    def take() -> None:
        with lock:
            taken.set()

    threading.Thread(target=take, daemon=True).start()
    assert taken.wait(60)
