"""The messages between leader and worker."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilfn import protocol
from toilfn.errors import ToilfnError
from toilfn.protocol import Done, Log, Open, Ready, Recall, Records, Returned, Run, Running, Started, Stop, Warnings

IDS = st.binary(min_size=16, max_size=16)
LISTS_OF_IDS = st.lists(IDS, max_size=4)
PAYLOADS = st.binary(max_size=40)
VALUES = st.one_of(PAYLOADS, st.tuples(st.text(max_size=9), st.integers(0, 2**40), IDS))
LIMITS = st.fixed_dictionaries(
    {"cores": st.floats(0, 64), "memory": st.integers(0, 2**50), "walltime": st.none() | st.floats(0, 9)}
)
MESSAGES = st.one_of(
    st.builds(Open, st.text(), st.lists(st.text(st.characters(codec="utf-8") | st.just("\udcff")))),
    st.builds(
        Run,
        st.lists(st.tuples(PAYLOADS, st.integers(1, 99), LIMITS), max_size=3),
        st.dictionaries(IDS, st.tuples(VALUES, LISTS_OF_IDS), max_size=3),
        st.lists(PAYLOADS, max_size=2),
        st.none() | st.floats(0, 1e6),
    ),
    st.sampled_from([Recall(), Stop(), Ready()]),
    st.builds(Records, st.lists(PAYLOADS), LISTS_OF_IDS),
    st.builds(Running, IDS, st.floats(0, 1e10)),
    st.builds(Log, IDS, PAYLOADS),
    st.builds(Warnings, st.lists(st.tuples(st.text(max_size=5), st.text(max_size=9)))),
    st.builds(Started, IDS, VALUES),
    st.builds(Returned, LISTS_OF_IDS),
    st.builds(Done, st.lists(PAYLOADS), LISTS_OF_IDS),
)


def tuples(value):
    """The same value with a tuple for each list."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value


@given(MESSAGES)
def test_every_message_comes_out_as_it_went_in(message):
    read = protocol.decode(protocol.encode(message))
    assert type(read) is type(message)
    assert tuple(read) == tuples(message)


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (Open("memory://a", ["/x"]), ("open", "memory://a", ["/x"])),
        (Run([(b"t", 1, {"cores": 1.0})], {b"i": (b"v", [])}, [b"f"], 9.5),
         ("run", [[b"t", 1, {"cores": 1.0}]], {b"i": [b"v", []]}, [b"f"], 9.5)),
        (Recall(), ("recall",)),
        (Stop(), ("stop",)),
        (Ready(), ("ready",)),
        (Records([b"r"], [b"i"]), ("records", [b"r"], [b"i"])),
        (Records([b"r"]), ("records", [b"r"])),
        (Running(b"i", 1.5), ("running", b"i", 1.5)),
        (Log(b"i", b"text\n"), ("log", b"i", b"text\n")),
        (Warnings([("t", "x")]), ("warnings", [["t", "x"]])),
        (Started(b"i", b"v"), ("started", b"i", b"v")),
        (Returned([b"i"]), ("returned", [b"i"])),
        (Done(), ("done",)),
        (Done([b"r"], [b"i"]), ("done", [b"r"], [b"i"])),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_bytes_on_the_wire_are_the_tag_and_the_fields(message, wire):
    assert protocol.encode(message) == msgpack.packb(wire)
    assert protocol.decode(msgpack.packb(wire)) == tuples(message)


@pytest.mark.parametrize(
    "data", [msgpack.packb(("hello", 1)), msgpack.packb(("recall", "now")), msgpack.packb(("log",)), b"\xc1", b""]
)
def test_a_message_of_another_version_is_refused_with_a_next_step(data):
    with pytest.raises(ToilfnError, match="their versions of toilfn differ"):
        protocol.decode(data)


def test_a_message_of_another_kind_than_expected_is_refused():
    with pytest.raises(ToilfnError, match="expected the message 'run', and got 'stop'"):
        protocol.expect(Run, protocol.STOP)


@pytest.mark.parametrize(("answers", "is_over"), [([], False), ([Records([b"r"])], False), ([Records(), Done()], True)])
def test_a_batch_is_over_when_its_last_answer_says_so(answers, is_over):
    assert protocol.is_done(list(map(protocol.encode, answers))) is is_over
