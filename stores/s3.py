"""Objects in Amazon S3 or an S3-compatible service, through s3fs."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import aiohttp
import botocore.exceptions
import botocore.loaders
import s3fs
from aiobotocore.session import AioSession

from toilfn.errors import StoreError
from toilfn.stores.buckets import PART_SIZE, PARTS_AT_A_TIME, BucketObjects, is_transient_status
from toilfn.stores.options import for_driver, key_bytes

__all__ = ["S3Objects"]

_MOST_PARTS = 10_000
"""Largest number of parts of an upload. Source: Amazon S3 User Guide, "Multipart upload limits"."""

_OURS = ("region", "profile", "path_style", "sse", "sse_kms_key_id", "sse_key", "tags")

_LOADER = botocore.loaders.create_loader()
"""Shared by all sessions: it caches the description of S3, which is slow to load."""

_ALTERED = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch")
"""Error codes for a write whose data was altered in transit; nothing was written."""

_RETRIES = {"mode": "standard", "max_attempts": 3}
"""botocore's retries: exponential backoff with jitter, after throttling, server errors and network errors."""


class S3Objects(BucketObjects):
    """Objects in an S3 bucket.

    Parameters
    ----------
    fs : s3fs.S3FileSystem
    root : str
        Bucket and prefix.
    url : str
        The prefix, as people write it.
    customer_key : bool
        Whether the server encrypts with a key that each request contains (SSE-C).
    """

    def __init__(self, fs: s3fs.S3FileSystem, root: str, url: str, *, customer_key: bool = False) -> None:
        super().__init__(fs, root, url)
        self._customer_key = self.is_private = customer_key
        fs.session.register("before-send.s3", self._count)

    @classmethod
    def connect(cls, url: str, options: dict[str, Any]) -> S3Objects:
        """Build an instance from a URL and a store's options: those of `s3_options` and those of s3fs.

        Raises
        ------
        StoreError
            If the value of an option is invalid.
        """
        root = s3fs.S3FileSystem._strip_protocol(url)
        given = for_driver(options, [s3fs.S3FileSystem], f"job store {url} (S3)", ours=_OURS)
        fs = s3fs.S3FileSystem(**{"skip_instance_cache": True, **s3_options(given)})
        fs.retries = 3  # s3fs repeats some calls after botocore has given up
        return cls(fs, root, url, customer_key="sse_key" in given)

    def make_bucket(self) -> None:
        """Create the bucket, in the region of the connection."""
        region = self._region()
        where = {} if region in (None, "us-east-1", "aws-global") else {"LocationConstraint": region}
        extra = {"CreateBucketConfiguration": where} if where else {}
        self._do("create the bucket of", "", lambda: self._fs.call_s3("create_bucket", Bucket=self._bucket, **extra))

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
        self._fs.call_s3("put_object", **self._where(path), Body=data, ContentMD5=_md5(data))

    def _create(self, path: str, data: bytes) -> None:
        # One PUT, whatever the size: some servers ignore the condition when a multipart upload is completed.
        try:
            self._fs.call_s3("put_object", **self._where(path), Body=data, ContentMD5=_md5(data), IfNoneMatch="*")
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
            raise StoreError(f"cannot delete {failed['Key']} in {self.url}: {failed.get('Message') or failed['Code']}")

    def _send(self, local: str, path: str) -> None:
        self._fs.put_file(local, path, chunksize=_part_size(local), max_concurrency=PARTS_AT_A_TIME)

    def _fetch(self, path: str, local: str) -> None:
        self._fs.get_file(path, local, chunksize=PART_SIZE, max_concurrency=PARTS_AT_A_TIME)

    def _open(self, path: str) -> BinaryIO:
        stream: BinaryIO = self._fs.open(path, "rb", block_size=PART_SIZE)
        return stream

    def _server_of(self, system: Any) -> str | None:
        if self._customer_key:
            return None
        system.connect()
        endpoint = str(system.s3.meta.endpoint_url)
        return "Amazon" if endpoint.endswith(".amazonaws.com") else endpoint

    def _sign(self, path: str, seconds: int) -> str:
        if self._customer_key:
            raise StoreError(f"{self.url}: cannot sign a URL: it would have to contain your encryption key (sse_key)")
        url: str = self._fs.sign(path, expiration=seconds)
        return url

    def _has_no_bucket(self, name: str, error: FileNotFoundError) -> bool:
        return _code(error) == "NoSuchBucket"

    def _is_transient(self, error: Exception) -> bool:
        network = (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError, aiohttp.ClientError)
        return (
            super()._is_transient(error)
            or _status(error) == 409
            or is_transient_status(_status(error))
            or _code(error) in _ALTERED
            or isinstance(error, network)
        )

    def _hint(self, error: Exception) -> str:
        status, code = _status(error), _code(error)
        text = str(_response(error).get("Error", {}).get("Message", ""))
        if status == 301 or code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
            region = _response(error).get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
            return f"the bucket is in another region: set the store option region={region or 'REGION'}"
        if code == "InvalidBucketName" or (status == 400 and code in ("", "400")):
            return f"check the bucket's name: {self._bucket}"
        if code in ("ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return "renew the credentials, or choose others with the store options profile, key and secret"
        if status in (400, 403) and any(word in text.lower() for word in ("customer", "encrypt", "sse")):
            return "if this store is encrypted with your own key, pass the store option sse_key"
        if status == 403:
            return (
                f"a store needs the permission s3:ListBucket on {self._bucket}, and s3:GetObject, s3:PutObject and"
                " s3:DeleteObject on its objects; without s3:ListBucket, S3 also returns this error for missing objects"
            )
        return ""

    def sweep(self, age: float) -> int:
        """Also abort unfinished multipart uploads, since their parts cost money."""
        count = super().sweep(age)
        for upload in self._do("list the uploads of", "", self._uploads):
            where = {"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            with suppress(StoreError):  # it may just have ended
                self._do(
                    "abort the upload of", upload["Key"], partial(self._fs.call_s3, "abort_multipart_upload", **where)
                )
                count += 1
        return count

    def _uploads(self) -> list[dict[str, Any]]:
        try:
            found = self._fs.call_s3("list_multipart_uploads", Bucket=self._bucket, Prefix=self._key(f"{self._root}/"))
        except Exception as error:
            if self._is_transient(error):
                raise
            return []  # not every server supports this, and not every user may do it
        return list(found.get("Uploads", ()))

    def versions(self) -> int:
        """Count the old versions and delete markers that a versioned bucket keeps below the prefix."""
        try:
            return self._do("list the versions of", "", self._count_versions)
        except StoreError:  # not every server supports this, and not every user may do it
            return 0

    def _count_versions(self) -> int:
        count = 0
        mark: dict[str, str] = {}
        while True:
            page = self._fs.call_s3(
                "list_object_versions", Bucket=self._bucket, Prefix=self._key(f"{self._root}/"), **mark
            )
            count += len(page.get("Versions", ())) + len(page.get("DeleteMarkers", ()))
            if not page.get("IsTruncated"):
                return count
            mark = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}


def s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a store's options into those of s3fs.

    toilfn defines ``region``, ``profile``, ``path_style``, ``sse`` (``AES256``, ``aws:kms`` or ``aws:kms:dsse``),
    ``sse_kms_key_id``, ``sse_key`` and ``tags``; all other options are passed on unchanged.

    Raises
    ------
    StoreError
        If a value is invalid.
    """
    given = dict(options)
    session = AioSession(profile=given.pop("profile", None))
    session.register_component("data_loader", _LOADER)
    client = {"region_name": given.pop("region"), **given.pop("client_kwargs", {})} if "region" in given else {}
    # By default botocore signs URLs with a version that S3 refuses for objects encrypted by KMS.
    config: dict[str, Any] = {"retries": _RETRIES, "signature_version": "s3v4"}
    if "path_style" in given:
        config["s3"] = {"addressing_style": "path" if given.pop("path_style") else "virtual"}
    if "endpoint_url" in given:  # few S3-compatible servers support the checksums that AWS uses by default
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
    """Remove the options for encryption by the server, and return them as parameters of S3 requests."""
    kind, kms_key, key = given.pop("sse", None), given.pop("sse_kms_key_id", None), given.pop("sse_key", None)
    if key is not None and (kind or kms_key):
        raise StoreError("store option sse_key cannot be combined with sse or sse_kms_key_id")
    if key is not None:
        return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key_bytes("sse_key", key)}
    if kms_key is not None:
        return {"ServerSideEncryption": kind or "aws:kms", "SSEKMSKeyId": kms_key}
    if kind not in (None, "AES256", "aws:kms", "aws:kms:dsse"):
        raise StoreError(f"store option sse: unknown value {kind!r}", hint="choose AES256, aws:kms or aws:kms:dsse")
    return {"ServerSideEncryption": kind} if kind else {}


def _tags(given: dict[str, Any]) -> dict[str, str]:
    tags = given.pop("tags", None)
    return {"Tagging": urlencode(tags, quote_via=quote)} if tags else {}


def _md5(data: bytes) -> str:
    """Return the Content-MD5 header, with which the server detects data altered in transit."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _part_size(local: str) -> int:
    return max(PART_SIZE, math.ceil(os.path.getsize(local) / _MOST_PARTS))


def _response(error: BaseException | None) -> Mapping[str, Any]:
    """Return the server's response from an error of botocore, or from an error of s3fs caused by one."""
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
