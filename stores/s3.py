"""Objects in S3, or in what speaks its language, through s3fs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import aiohttp
import botocore.exceptions
import botocore.loaders
import s3fs
from aiobotocore.session import AioSession

from toilfn.errors import StoreError
from toilfn.stores.buckets import PART_SIZE, PARTS_AT_A_TIME, BucketObjects
from toilfn.stores.options import key_bytes

__all__ = ["S3Objects"]

_MOST_PARTS = 10_000
"""In one upload. Source: Amazon S3 User Guide, "Multipart upload limits"."""

_LOADER = botocore.loaders.create_loader()
"""Shared by all sessions: it keeps the description of S3, which takes long to read."""

_RETRIES = {"mode": "standard", "max_attempts": 3}
"""botocore's own: exponential backoff with jitter, for throttling, errors of the server and of the network."""


class S3Objects(BucketObjects):
    """Objects in a bucket of S3.

    Parameters
    ----------
    fs : s3fs.S3FileSystem
    root : str
        Bucket and prefix.
    url : str
        The prefix, as people write it.
    customer_key : bool
        Whether the server encrypts with a key that each request brings (SSE-C).
    """

    def __init__(self, fs: s3fs.S3FileSystem, root: str, url: str, *, customer_key: bool = False) -> None:
        super().__init__(fs, root, url)
        self._customer_key = customer_key
        fs.session.register("before-send.s3", self._count)

    @classmethod
    def connect(cls, url: str, options: dict[str, Any]) -> S3Objects:
        """Make one from a URL and a store's options: those of `s3_options` and s3fs's own.

        Raises
        ------
        StoreError
            If an option has a value that cannot be used.
        """
        root = s3fs.S3FileSystem._strip_protocol(url)
        fs = s3fs.S3FileSystem(skip_instance_cache=True, **s3_options(options))
        fs.retries = 3  # on top of botocore's
        return cls(fs, root, url, customer_key="sse_key" in options)

    def make_bucket(self) -> None:
        """Make the bucket, in the region of the connection."""
        region = self._region()
        where = {} if region in (None, "us-east-1", "aws-global") else {"LocationConstraint": region}
        extra = {"CreateBucketConfiguration": where} if where else {}
        self._do("make the bucket of", "", lambda: self._fs.call_s3("create_bucket", Bucket=self._bucket, **extra))

    def _region(self) -> str | None:
        self._fs.connect()
        region: str | None = self._fs.s3.meta.region_name
        return region

    def _count(self, **_: object) -> None:
        self._requests += 1

    def _where(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(path)}

    def _read(self, path: str) -> bytes:
        data: bytes = self._fs.cat_file(path, max_concurrency=1)
        return data

    def _write(self, path: str, data: bytes) -> None:
        self._fs.call_s3("put_object", **self._where(path), Body=data)

    def _create(self, path: str, data: bytes) -> None:
        # By one PUT whatever the size: servers are known that ignore the condition at the end of an upload in parts.
        try:
            self._fs.call_s3("put_object", **self._where(path), Body=data, IfNoneMatch="*")
        except Exception as error:
            if _status(error) == 412:
                raise FileExistsError(path) from error
            raise

    def _head(self, path: str) -> int:
        return int(self._fs.call_s3("head_object", **self._where(path))["ContentLength"])

    def _page(self, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        mark = {"ContinuationToken": after} if after else {}
        page = self._fs.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=prefix, **mark)
        keys = [entry["Key"] for entry in page.get("Contents", ())]
        return keys, page.get("NextContinuationToken") if page.get("IsTruncated") else None

    def _delete_group(self, names: list[str]) -> None:
        wanted = {"Objects": [{"Key": self._key(self._path(name))} for name in names], "Quiet": True}
        answer = self._do(
            "delete", names[0], lambda: self._fs.call_s3("delete_objects", Bucket=self._bucket, Delete=wanted)
        )
        for failed in answer.get("Errors", ()):
            raise StoreError(f"Cannot delete {failed['Key']} in {self.url}: {failed.get('Message') or failed['Code']}")

    def _send(self, local: str, path: str) -> None:
        self._fs.put_file(local, path, chunksize=_part_size(local), max_concurrency=PARTS_AT_A_TIME)

    def _fetch(self, path: str, local: str) -> None:
        self._fs.get_file(path, local, chunksize=PART_SIZE, max_concurrency=PARTS_AT_A_TIME)

    def _open(self, path: str) -> BinaryIO:
        stream: BinaryIO = self._fs.open(path, "rb", block_size=PART_SIZE)
        return stream

    def _sign(self, path: str, seconds: int) -> str:
        if self._customer_key:
            raise StoreError(f"{self.url} is encrypted with your own key (sse_key), which a URL must not hold.")
        url: str = self._fs.sign(path, expiration=seconds)
        return url

    def _has_no_bucket(self, name: str, error: FileNotFoundError) -> bool:
        return _code(error) == "NoSuchBucket"

    def _is_passing(self, error: Exception) -> bool:
        network = (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError, aiohttp.ClientError)
        return (
            super()._is_passing(error) or _status(error) in (409, 429, *range(500, 600)) or isinstance(error, network)
        )


def s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a store's options into those of s3fs.

    ``region``, ``profile``, ``path_style``, ``sse`` (``AES256`` or ``aws:kms``), ``sse_kms_key_id``, ``sse_key`` and
    ``tags`` are ours; all others are handed on as they are.

    Raises
    ------
    StoreError
        If a value cannot be used.
    """
    given = dict(options)
    session = AioSession(profile=given.pop("profile", None))
    session.register_component("data_loader", _LOADER)
    client = {"region_name": given.pop("region"), **given.pop("client_kwargs", {})} if "region" in given else {}
    config: dict[str, Any] = {"retries": _RETRIES}
    if "path_style" in given:
        config["s3"] = {"addressing_style": "path" if given.pop("path_style") else "virtual"}
    if "endpoint_url" in given:  # few lookalikes know the checksums that AWS has by default
        config |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    extra = {**_encryption(given), **_tags(given), **given.pop("s3_additional_kwargs", {})}
    return {
        "use_listings_cache": False,
        "session": session,
        **({"client_kwargs": client} if client else {}),
        **given,
        "config_kwargs": {**config, **given.get("config_kwargs", {})},
        "s3_additional_kwargs": extra,
    }


def _encryption(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of encryption by the server out of all options, as S3's requests name them."""
    kind, kms_key, key = given.pop("sse", None), given.pop("sse_kms_key_id", None), given.pop("sse_key", None)
    if key is not None and (kind or kms_key):
        raise StoreError("The store option sse_key stands alone: leave sse and sse_kms_key_id away.")
    if key is not None:
        return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key_bytes("sse_key", key)}
    if kms_key is not None:
        return {"ServerSideEncryption": kind or "aws:kms", "SSEKMSKeyId": kms_key}
    if kind not in (None, "AES256", "aws:kms", "aws:kms:dsse"):
        raise StoreError(f"The store option sse={kind!r} is unknown: choose AES256, aws:kms or aws:kms:dsse.")
    return {"ServerSideEncryption": kind} if kind else {}


def _tags(given: dict[str, Any]) -> dict[str, str]:
    tags = given.pop("tags", None)
    return {"Tagging": urlencode(tags, quote_via=quote)} if tags else {}


def _part_size(local: str) -> int:
    return max(PART_SIZE, math.ceil(os.path.getsize(local) / _MOST_PARTS))


def _response(error: BaseException | None) -> Mapping[str, Any]:
    """Give what the server answered, from s3fs's error or from botocore's that it was raised from."""
    while error is not None:
        if isinstance(error, botocore.exceptions.ClientError):
            response: Mapping[str, Any] = error.response
            return response
        error = error.__cause__
    return {}


def _status(error: BaseException) -> int:
    return int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: BaseException | None) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))
