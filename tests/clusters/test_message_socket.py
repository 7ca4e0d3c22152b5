"""Messages over a socket."""

from __future__ import annotations

import socket
import threading

from hypothesis import given
from hypothesis import strategies as st

from toilfn.clusters.local.channel import MessageSocket


@given(st.lists(st.binary(max_size=300) | st.integers(200_000, 400_000).map(bytes), max_size=8))
def test_messages_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    left, right = (MessageSocket(end) for end in socket.socketpair())

    def send() -> None:
        for message in messages:
            left.send(message)
        left.close()

    thread = threading.Thread(target=send)
    thread.start()
    found: list[bytes] = []
    while (some := right.receive()) is not None:
        found += some
    thread.join()
    right.close()
    assert found == messages
