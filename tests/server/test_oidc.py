"""Users of an OpenID Connect provider: which tokens are accepted, which are not, and who the user is."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from joserfc import jws
from joserfc.jwk import OctKey, RSAKey

from tests.server.wes import Server
from tests.servers.issuer import Issuer, issuing
from toilfn.errors import InputError
from toilfn.server import access
from toilfn.server.access import OIDCSettings, Provider, RefusedTokenError


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        yield issuer


@pytest.fixture
def provider(issuer: Issuer) -> Provider:
    return Provider(OIDCSettings(issuer.url, "toilfn", operator_role="boss"))


def part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def test_a_token_is_accepted_and_the_keys_are_fetched_once(issuer, provider):
    for _ in range(3):
        claims = provider.check(issuer.token())
        assert (claims.user, claims.is_operator) == ("ann", False)
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
    assert provider.check(issuer.token(aud=["other", "toilfn"])).user == "ann"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"exp": None}, "exp"),
        ({"nbf": int(time.time()) + 10**8}, "not yet valid"),
        ({"aud": "another"}, "aud"),
        ({"aud": None}, "aud"),
        ({"iss": "http://127.0.0.1:1"}, "iss"),
        ({"iss": None}, "iss"),
        ({"sub": None}, "'sub' is not a user's name"),
        ({"sub": ["ann"]}, "'sub' must be a"),
        ({"sub": "ann\nstatus=200"}, "'sub' is not a user's name"),
    ],
)
def test_tokens_that_are_not_for_this_server_or_not_now(claims, reason, issuer, provider):
    with pytest.raises(RefusedTokenError, match=reason):
        provider.check(issuer.token(**claims))


def test_tokens_of_other_issuers(issuer, provider):
    """Unsigned, signed with the public key as a secret, with a foreign key, altered, or no token at all."""
    valid = issuer.token()
    head, body, signature = valid.split(".")
    claims = {"iss": issuer.url, "aud": "toilfn", "sub": "boss", "exp": int(time.time()) + 600}
    public = issuer.keys[0].as_pem(private=False)
    secret = jws.serialize_compact(
        {"alg": "HS256", "kid": "first"}, json.dumps(claims), OctKey.import_key(base64.b64encode(public)),
        algorithms=["HS256"],
    )  # fmt: skip
    foreign = RSAKey.generate_key(2048, {"kid": "first"})
    for token in (
        f"{part({'alg': 'none', 'kid': 'first'})}.{part(claims)}.",
        f"{part({'alg': 'none'})}.{part(claims)}.",
        secret,
        issuer.token(foreign),
        f"{head}.{part(claims)}.{signature}",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{body}.",
        "a.b.c",
        "..",
        "\N{SNOWMAN}.b.c",
    ):
        with pytest.raises(RefusedTokenError, match="the token is refused") as raised:
            provider.check(token)
        assert token not in str(raised.value)
    assert provider.check(valid).user == "ann"


def test_a_new_key_is_found_and_unknown_ones_are_not_asked_for_again_and_again(issuer, provider, monkeypatch):
    before = issuer.token()
    provider.check(before)
    issuer.rotate()
    with pytest.raises(RefusedTokenError, match="not signed with a key"):  # keys were fetched a moment ago
        provider.check(issuer.token())
    assert issuer.asked.count("/keys") == 1
    monkeypatch.setattr(access, "_PAUSE", 0.0)
    assert provider.check(issuer.token()).user == "ann"
    with pytest.raises(RefusedTokenError):  # of the key that was withdrawn
        provider.check(before)


def test_a_provider_that_is_away_or_names_another_one(issuer, provider, monkeypatch):
    monkeypatch.setattr(access, "_PAUSE", 0.0)
    issuer.name = "https://other.example.org"
    with pytest.raises(RefusedTokenError, match="not signed with a key"):
        provider.check(issuer.token())
    issuer.name = issuer.url
    token = issuer.token()
    assert provider.check(token).user == "ann"
    monkeypatch.setattr(access, "_LIFETIME", 0.0)
    issuer.name = "away"  # the keys that are known stay until there are others
    assert provider.check(token).user == "ann"


def test_the_user_is_identified(issuer):
    settings = OIDCSettings(issuer.url, "toilfn", "preferred_username", "realm_access.roles", "boss")
    provider = Provider(settings)
    for roles, is_operator in ((["boss", "x"], True), (["bosses"], False), ("x boss", True), ("bosses", False)):
        token = issuer.token(preferred_username="bob", realm_access={"roles": roles})
        assert provider.check(token)[:2] == ("bob", is_operator)
    assert not provider.check(issuer.token(preferred_username="bob", realm_access="boss")).is_operator
    without = Provider(settings._replace(operator_role=""))
    assert not without.check(issuer.token(preferred_username="bob", realm_access={"roles": [""]})).is_operator


@pytest.mark.parametrize("url", ["http://example.org", "ftp://127.0.0.1", "example.org", ""])
def test_addresses_that_cannot_be_issuers_are_refused(url):
    with pytest.raises(InputError, match="cannot be an issuer"):
        Provider(OIDCSettings(url, "toilfn"))


def test_users_of_a_server(tmp_path, issuer):
    options = [f"--oidc-issuer={issuer.url}", "--oidc-audience=toilfn", "--oidc-operator-role=boss"]
    server = Server(tmp_path / "place", *options, log=tmp_path / "log").start()

    def client(**claims):
        return server.client(headers={"Authorization": f"Bearer {issuer.token(**claims)}"})

    try:
        ann, bob, boss = client(), client(sub="bob"), client(sub="eve", roles=["boss"])
        run = ann.script()
        assert ann.wait(run) == "COMPLETE"
        assert [each["run_id"] for each in ann.get("/runs")["runs"]] == [run]
        assert bob.get("/runs")["runs"] == []
        bob.get(f"/runs/{run}", status=404)
        assert boss.get(f"/runs/{run}")["state"] == "COMPLETE"
        refused = client(aud="another").get("/runs", status=401)
        assert "'aud'" in refused["msg"]
        server.client().get("/runs", status=401)
        server.client().get("/service-info")
        log = server.log.read_text()
        assert f"audit user=ann client=127.0.0.1 method=POST path='/ga4gh/wes/v1/runs' status=200 run={run}" in log
        assert "eyJ" not in log  # how every JWT begins
        page = requests.Session()
        form = {"token": issuer.token(), "next": "/ui"}
        page.post(f"{server.url}/ui/login", data=form, headers={"Origin": server.url}, timeout=20).raise_for_status()
        assert run in page.get(f"{server.url}/ui", headers={"Accept": "text/html"}, timeout=20).text
    finally:
        server.stop()


def test_options_that_are_incomplete(tmp_path, issuer):
    for words, reason in (
        (["--oidc-issuer=http://127.0.0.1:1"], "--oidc-audience is missing"),
        (["--oidc-audience=x"], "--oidc-issuer is missing"),
        (["--oidc-issuer=http://example.org", "--oidc-audience=x"], "cannot be an issuer of tokens"),
    ):
        command = [Path(sys.executable).parent / "toilfn", "server", f"--place={tmp_path}", "--port=0", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert reason in done.stderr
