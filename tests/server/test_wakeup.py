"""Wake-ups between the processes of one home."""

import pytest

from server.wakeup import Notifier, WakeupListener


@pytest.mark.parametrize("url", ["sqlite:////tmp/home/farm.db", "sqlite:////tmp/caf\udce9/farm.db"], ids=ascii)
def test_a_sender_wakes_the_listener_of_its_database_and_no_other(url: str) -> None:
    listener, other = WakeupListener(url), WakeupListener(f"{url}-other")
    event, untouched = listener.waiter(), other.waiter()
    Notifier(url).notify()
    assert event.wait(60)
    assert not untouched.is_set()
    listener.close()
    other.close()
