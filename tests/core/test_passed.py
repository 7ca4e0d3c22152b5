"""The parts of the leader's environment that reach workers on other machines."""

from __future__ import annotations

import msgpack
import pytest

from toilfn.worker.passed import pack_environment


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SESSION_TOKEN", "x"),
        ("GITHUB_TOKEN", "x"),
        ("MY_API_KEY", "x"),
        ("PGPASSWORD", "x"),
        ("DATABASE_URL", "postgres://me:hidden@host/db"),
        ("HOME", "/home/me"),
    ],
)
def test_secrets_and_what_is_the_machines_own_are_not_passed_on(name: str, value: str) -> None:
    passed, wanted = msgpack.unpackb(pack_environment({name: value, "MY_SETTING": "1"}, {}))
    assert passed == {"MY_SETTING": "1"}
    assert wanted == {}
