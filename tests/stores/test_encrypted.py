"""Client-side encryption: the contract, keys that do not fit, and bits that were flipped."""

from __future__ import annotations

import base64
import io
import uuid
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilfn.errors import CorruptObjectError, StoreError
from toilfn.stores import Objects, new_blob_name, open_store
from toilfn.stores.encrypted import EncryptedObjects
from toilfn.stores.files import FileObjects
from toilfn.stores.testing import StoreContract

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = bytes(range(1, 33)).hex()
LONG = 2**16 + 1000
"""Bytes that are more than one chunk."""


class TestEncryptedFiles(StoreContract):
    options: ClassVar = {"sync": False, "encryption_key": KEY}
    damages = 5

    @pytest.fixture
    def url(self, tmp_path_factory):
        return str(tmp_path_factory.mktemp("place") / "store")


class TestEncryptedMemory(StoreContract):
    options: ClassVar = {"encryption_key": OTHER}
    damages = 5

    @pytest.fixture
    def url(self):
        return f"memory://tests/{uuid.uuid4().hex}"


@pytest.fixture
def inner(tmp_path) -> Objects:
    (tmp_path / "place").mkdir()
    return FileObjects(tmp_path / "place", sync=False)


@pytest.fixture
def objects(inner) -> EncryptedObjects:
    return EncryptedObjects(inner, bytes(32))


def test_nothing_that_was_written_can_be_read_without_the_key(tmp_path):
    store = open_store(tmp_path / "store", workflow="confidential", encryption_key=KEY)
    store.log.append([b"confidential" * 10])
    store.put_blob(b"confidential")
    (tmp_path / "file").write_bytes(b"confidential" * LONG)
    store.put_blob_file(tmp_path / "file", name=new_blob_name("x"))
    store.set_flag("x")
    contents = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(contents) == 5
    assert not [content for content in contents if b"confidential" in content]
    assert len({content[16:32] for content in contents}) == 5, "each object has a key of its own"


def test_two_equal_contents_do_not_look_alike(objects, inner):
    objects.put("a/x", b"same" * 100)
    first = inner.get("a/x")
    objects.put("a/x", b"same" * 100)
    assert inner.get("a/x") != first


@pytest.mark.parametrize("content", [b"short", b"x" * 2**16, b"y" * LONG])
def test_every_flipped_bit_and_every_cut_is_an_error(objects, inner, tmp_path, content):
    objects.put("a/x", content)
    good = inner.get("a/x")
    step = max(1, len(good) // 60)
    damaged = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in [*range(0, len(good), step), len(good) - 1]]
    damaged += [good[:at] for at in (0, 8, 31, 32, 40, len(good) - 1, 32 + 2**16 + 16) if at < len(good)]
    damaged += [good + b"x", good + good[32:], good + bytes(16)]
    for bad in damaged:
        inner.put("a/x", bad)
        with pytest.raises(CorruptObjectError, match=r"a/x in file://"):
            objects.get("a/x")
        with pytest.raises(CorruptObjectError):
            objects.download("a/x", tmp_path / "out")
        with pytest.raises(CorruptObjectError), objects.open("a/x") as stream:
            stream.read()


def test_chunks_and_objects_cannot_change_places(objects, inner):
    objects.put("a/x", b"1" * 2**16 + b"2" * 2**16 + b"3")
    head, chunks = inner.get("a/x")[:32], inner.get("a/x")[32:]
    first, second, rest = chunks[: 2**16 + 16], chunks[2**16 + 16 : 2 * (2**16 + 16)], chunks[2 * (2**16 + 16) :]
    for order in ((second, first, rest), (first, rest), (first, second), (first, first, rest)):
        inner.put("a/x", head + b"".join(order))
        with pytest.raises(CorruptObjectError, match="was altered"):
            objects.get("a/x")
    objects.put("a/y", b"mine")
    inner.put("a/x", inner.get("a/y"))
    with pytest.raises(CorruptObjectError, match="was altered"):
        objects.get("a/x")


@given(st.integers(0, 3 * 2**16), st.lists(st.tuples(st.integers(0, 3 * 2**16), st.integers(0, 70_000)), max_size=5))
def test_any_part_can_be_read(size, reads):
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    store = open_store(f"memory://tests/{uuid.uuid4().hex}", encryption_key=KEY)
    store.objects.put("flags/x", content)
    assert store.objects.size("flags/x") == size
    plain = io.BytesIO(content)
    with store.objects.open("flags/x") as stream:
        for at, count in reads:
            plain.seek(at)
            stream.seek(at)
            assert stream.read(count) == plain.read(count)


def test_another_key_is_reported(tmp_path):
    url = open_store(tmp_path / "store", encryption_key=KEY).url
    with pytest.raises(
        CorruptObjectError, match=r"store\.json in file.* was altered, or encrypted with a key other than"
    ):
        open_store(url, create=False, encryption_key=OTHER)


def test_a_missing_key_is_reported(tmp_path):
    url = open_store(tmp_path / "store", encryption_key=KEY).url
    options_of_this_process_are_forgotten(url)
    with pytest.raises(StoreError, match="is encrypted; pass its key as the store option encryption_key"):
        open_store(url, create=False)


def test_a_key_for_a_store_without_encryption_is_reported(tmp_path):
    url = open_store(tmp_path / "store").url
    with pytest.raises(CorruptObjectError, match=r"store\.json .*was written without encryption"):
        open_store(url, create=False, encryption_key=KEY)


@pytest.mark.parametrize("key", ["", "too short", "00" * 31, base64.b64encode(bytes(33)).decode(), 5, "ü" * 32])
def test_a_text_that_is_not_a_key_is_reported_and_not_shown(tmp_path, key):
    with pytest.raises(
        StoreError, match="is not a key of 32 bytes; pass the key in base64 or as 64 hexadecimal"
    ) as caught:
        open_store(tmp_path / "store", encryption_key=key)
    assert not key or str(key) not in str(caught.value).replace("64", "")


def options_of_this_process_are_forgotten(url: str) -> None:
    from toilfn.stores import options

    options._remembered.pop(url)
