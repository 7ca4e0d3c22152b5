"""Inputs from buckets, and outputs to them."""

from __future__ import annotations

import json
import urllib.request
import uuid

import boto3
import pytest

from tests.cwl.conftest import DOCUMENTS
from tests.servers.fixtures import gcs_server, radosgw_server

__all__ = ["gcs_server", "radosgw_server"]


@pytest.fixture
def job(written):
    """Writes inputs of shout.cwl with a text from a URL."""
    return lambda url: written(
        "job.json",
        json.dumps({"text": {"class": "File", "location": url}, "words": ["a"], "loud": False}),
    )


def test_from_s3_and_to_s3(runner, job, radosgw_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", radosgw_server.url)
    client, bucket = boto3.client("s3"), f"cwl-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="in/text.txt", Body=b"from a bucket\n")
    result = runner(
        "--destBucket", f"s3://{bucket}/out", DOCUMENTS / "shout.cwl", job(f"s3://{bucket}/in/text.txt")
    ).result
    assert result["joined"]["location"] == f"s3://{bucket}/out/joined.txt"
    assert client.get_object(Bucket=bucket, Key="out/joined.txt")["Body"].read() == b"a: from a bucket\n"
    missing = runner(DOCUMENTS / "shout.cwl", job(f"s3://{bucket}/in/missing.txt"))
    assert missing.status == 1
    assert f"s3://{bucket}/in/missing.txt" in missing.messages


def send(url, text, kind):
    request = urllib.request.Request(url, text.encode(), {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def test_from_google_storage(runner, job, gcs_server, monkeypatch, tmp_path):
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    bucket = f"cwl-{uuid.uuid4().hex}"
    send(f"{gcs_server.url}/storage/v1/b?project=tests", json.dumps({"name": bucket}), "application/json")
    send(
        f"{gcs_server.url}/upload/storage/v1/b/{bucket}/o?uploadType=media&name=text.txt",
        "from a bucket\n",
        "text/plain",
    )
    assert runner(DOCUMENTS / "shout.cwl", job(f"gs://{bucket}/text.txt")).status == 0
    assert (tmp_path / "joined.txt").read_text() == "a: from a bucket\n"
