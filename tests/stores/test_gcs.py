"""Stores in Google Cloud Storage: the whole contract, on an emulator that keeps preconditions."""

from __future__ import annotations

import uuid
from typing import ClassVar

import pytest

from tests.servers.fixtures import gcs_server
from tests.servers.gcs import GoogleStorage
from toilfn.stores import open_store
from toilfn.stores.testing import StoreContract

__all__ = ["gcs_server"]

OPTIONS = {"endpoint_url": GoogleStorage().url, "token": "anon", "project": "tests", "create_bucket": True}


@pytest.fixture(scope="module")
def bucket(gcs_server):
    """Create the bucket, so that whichever test comes first finds it; return its URL."""
    open_store(f"gs://contract/{uuid.uuid4().hex}", **OPTIONS)
    return "gs://contract"


class TestGoogleStorage(StoreContract):
    options: ClassVar = OPTIONS
    damages = 41

    @pytest.fixture
    def url(self, bucket):
        return f"{bucket}/{uuid.uuid4().hex}"


def test_content_that_looks_like_the_end_of_a_request(gcs_server):
    store = open_store(f"gs://contract/{uuid.uuid4().hex}", **OPTIONS)
    odd = b"a\n--==0==--\nb"
    store.objects.put("flags/x", odd)
    assert store.objects.put_new("flags/y", odd)
    assert not store.objects.put_new("flags/y", odd[::-1])
    assert store.objects.get("flags/x") == store.objects.get("flags/y") == odd
