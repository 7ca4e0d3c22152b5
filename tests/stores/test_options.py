"""Options of stores: references, what workers are told, and what is a secret."""

from __future__ import annotations

import json
import os
import traceback

import pytest

import toilfn
from toilfn.errors import InputError, StoreError
from toilfn.stores import open_store, options

KEY = "00" * 32


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(options, "_remembered", {})


def test_references_are_read_where_the_store_is_opened(tmp_path, monkeypatch):
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("SOME_KEY", KEY)
    given = {"encryption_key": f"file:{tmp_path}/key", "sse_key": "env:SOME_KEY", "region": "x", "n": 3}
    assert options.resolved(given) == {"encryption_key": KEY, "sse_key": KEY, "region": "x", "n": 3}


@pytest.mark.parametrize("option", ["encryption_key", "sse_key"])
@pytest.mark.parametrize(
    "content",
    [b"a key of Toil's, 32 characters!!", b"a key of Toil's, 32 characters!!\n", bytes(range(32)), b"\n" * 32],
    ids=["characters", "with a newline", "bytes", "newlines"],
)
def test_a_file_of_32_bytes_is_a_key_as_it_is(tmp_path, option, content):
    (tmp_path / "key").write_bytes(content)
    key = options.resolved({option: f"file:{tmp_path}/key"})[option]
    assert options.key_bytes(option, key) == content[:32]


def test_a_store_is_encrypted_with_the_key_that_toil_would_have_used(tmp_path):
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "other").write_bytes(os.urandom(32))
    store = open_store(tmp_path / "x", encryption_key=f"file:{tmp_path}/key")
    ref = store.put_blob(b"content")
    options._remembered.clear()
    assert open_store(tmp_path / "x", create=False, encryption_key=f"file:{tmp_path}/key").get_blob(ref) == b"content"
    with pytest.raises(StoreError, match="a key other than"):
        open_store(tmp_path / "x", create=False, encryption_key=f"file:{tmp_path}/other")


def test_a_file_of_32_bytes_is_text_for_other_options(tmp_path):
    (tmp_path / "secret").write_text("a secret of thirty-two letters !")
    assert options.resolved({"secret": f"file:{tmp_path}/secret"}) == {"secret": "a secret of thirty-two letters !"}


@pytest.mark.parametrize(
    ("value", "told"), [("env:NO_SUCH", "variable is not set"), ("file:/no/such", "the file cannot be read")]
)
def test_references_that_lead_nowhere_name_the_option(tmp_path, value, told):
    with pytest.raises(StoreError, match=f"option encryption_key={value}: .*{told}"):
        open_store(tmp_path / "x", encryption_key=value)


def test_a_store_that_was_opened_is_opened_again_the_same_way(tmp_path):
    store = open_store(tmp_path / "x", encryption_key=KEY)
    assert open_store(store.url, create=False).id == store.id


def test_workers_of_the_leader_itself_get_all(monkeypatch):
    options.remember("s3://b/x", {"sse_key": KEY, "region": "r"})
    given = options.worker_variables("s3://b/x", private=True)
    monkeypatch.setattr(options, "_remembered", {})
    monkeypatch.setenv(options.VARIABLE, given[options.VARIABLE])
    assert options.known("s3://b/x") == {"sse_key": KEY, "region": "r"}
    assert options.known("s3://b/y") == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encryption_key", KEY),
        ("sse_key", KEY),
        ("secret", "s"),
        ("token", "t"),
        ("password", "p"),
        ("account_key", "k"),
        ("connection_string", "c"),
        ("client_kwargs", {"aws_secret_access_key": "s"}),
    ],
)
def test_job_scripts_get_no_secrets(name, value):
    options.remember("s3://b/x", {"region": "r", name: value})
    with pytest.raises(StoreError, match=f"option {name} is a secret.*{name}=file:PATH"):
        options.worker_variables("s3://b/x", private=False)


def test_a_drivers_error_shows_no_secret(monkeypatch):
    """Google's library asks whether a token counts, and names the request when nobody answers."""

    def connect(token):
        raise ConnectionError(f"no answer from /tokeninfo?access_token={token}")

    monkeypatch.setattr("gcsfs.credentials._get_creds_from_raw_token", connect)
    with pytest.raises(StoreError, match=r"no answer from .*access_token=<token>") as caught:
        open_store("gs://b/x", token=KEY)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert options.masked("a b c", {"client_kwargs": {"password": "b"}, "region": "a"}) == "a <password> c"


def test_job_scripts_get_the_rest():
    plain = {"region": "r", "sse_kms_key_id": "arn", "encryption_key": "env:KEY", "sse_key": "file:/x"}
    options.remember("s3://b/x", plain)
    assert json.loads(options.worker_variables("s3://b/x", private=False)[options.VARIABLE]) == {"s3://b/x": plain}
    assert options.worker_variables("s3://b/y", private=False) == {}


def test_a_damaged_variable_is_reported(monkeypatch):
    for text in ("{", "[]", '{"s3://b/x": 5}'):
        monkeypatch.setenv(options.VARIABLE, text)
        with pytest.raises(StoreError, match=options.VARIABLE):
            options.known("s3://b/x")


def test_options_that_a_directory_does_not_have(tmp_path):
    with pytest.raises(StoreError, match=r"\(a directory\) has no option region"):
        open_store(tmp_path / "x", region="eu-west-1")


@pytest.mark.parametrize(
    ("url", "option", "meant"),
    [
        ("s3://b/x", "encrypton_key", "encryption_key"), ("s3://b/x", "regoin", "region"),
        ("s3://b/x", "ssekey", "sse_key"),
        ("s3://b/x", "endpoint", "endpoint_url"), ("gs://b/x", "projct", "project"),
        ("gs://b/x", "create_buckt", "create_bucket"),
        ("gs://b/x", "encrypton_key", "encryption_key"), ("memory://x", "encrypton_key", "encryption_key"),
        ("simplecache::memory://x", "cache_storag", "cache_storage"), ("DIRECTORY", "encrypton_key", "encryption_key"),
        ("DIRECTORY", "snyc", "sync"),
    ],
)  # fmt: skip
def test_a_mistyped_option_is_refused_everywhere_with_the_nearest(tmp_path, url, option, meant):
    with pytest.raises(StoreError, match=f"has no option {option}; did you mean {meant}?"):
        open_store(tmp_path / "x" if url == "DIRECTORY" else url, **{option: "x"})
    assert not (tmp_path / "x").exists()


def test_an_option_that_resembles_none_says_how_to_hand_it_on():
    with pytest.raises(StoreError, match=r"no option qqqq; if the driver has an option of this name, write fs\.qqqq"):
        open_store("memory://x", qqqq=1)


def test_options_are_handed_to_the_driver_by_its_signature_or_by_a_prefix():
    class Driver:
        def __init__(self, host, *, port=22, **others):
            pass

    given = {"host": "h", "port": 1, "fs.odd": True, "region": "r"}
    found = options.for_driver(given, [Driver], "the store", ours=["region"])
    assert found == {"host": "h", "port": 1, "odd": True, "region": "r"}
    with pytest.raises(StoreError, match=r"the store has no option others"):
        options.for_driver({"others": 1}, [Driver], "the store")


def test_a_secret_behind_the_prefix_is_a_secret():
    options.remember("sftp://h/x", {"fs.password": "geheim"})
    with pytest.raises(StoreError, match=r"option fs\.password is a secret"):
        options.worker_variables("sftp://h/x", private=False)


@pytest.mark.parametrize("url", ["s3:bucket/x", "s3:/bucket/x", "gs:b", "sftp:host/x", "file:x", "S3:bucket/x"])
def test_a_url_without_its_slashes_is_refused(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"is not a URL: .* must be followed by two slashes; write .* or \./"):
        open_store(url)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a:b", "x y:z", "C:", "data:x", "./s3:bucket"])
def test_a_directory_may_have_a_colon(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert open_store(name).url == f"file://{tmp_path}/{name.removeprefix('./')}"


def test_exports_to_a_url_without_its_slashes_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("x")
    with pytest.raises(InputError, match="must be followed by two slashes"):
        toilfn.export(toilfn.import_file("x"), "s3:bucket/x")
    with pytest.raises(InputError, match="must be followed by two slashes"):
        toilfn.import_file("s3:bucket/x")
