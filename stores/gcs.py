"""Objects in Google Cloud Storage, through gcsfs."""

from __future__ import annotations

from typing import Any, BinaryIO

import aiohttp
import gcsfs
from gcsfs.retry import ChecksumError, HttpError

from toilfn.stores.buckets import PART_SIZE, BucketObjects, is_transient_status
from toilfn.stores.objects import META
from toilfn.stores.options import for_driver

__all__ = ["GcsObjects"]

_BOUNDARY = b"--==0=="
"""The separator gcsfs uses in a request that writes a whole object; the content must not contain it."""

_TIMEOUT = aiohttp.ClientTimeout(total=300, sock_connect=30, sock_read=60)
"""aiohttp's default limits, and a limit on the silence of a server, after which gcsfs repeats the request."""


class GcsObjects(BucketObjects):
    """Objects in a Google Cloud Storage bucket.

    Parameters
    ----------
    fs : gcsfs.GCSFileSystem
    root : str
        Bucket and prefix.
    url : str
        The prefix, as people write it.
    trace : aiohttp.TraceConfig
        The trace of the file system's session, used to count requests.
    """

    def __init__(self, fs: gcsfs.GCSFileSystem, root: str, url: str, trace: aiohttp.TraceConfig) -> None:
        super().__init__(fs, root, url)
        trace.on_request_start.append(self._count)

    @classmethod
    def connect(cls, url: str, options: dict[str, Any]) -> GcsObjects:
        """Build an instance from a URL and the options of gcsfs."""
        options = for_driver(
            options, [gcsfs.GCSFileSystem, gcsfs.core.GCSFileSystem], f"job store {url} (Google Storage)"
        )
        trace = aiohttp.TraceConfig()
        session = {"timeout": _TIMEOUT, **options.get("session_kwargs", {}), "trace_configs": [trace]}
        given = {"use_listings_cache": False, "consistency": "md5", **options, "session_kwargs": session}
        fs = gcsfs.GCSFileSystem(**{"skip_instance_cache": True, **given})
        return cls(fs, fs._strip_protocol(url), url, trace)

    def make_bucket(self) -> None:
        """Create the bucket, in the location given by the option ``default_location``."""
        self._do("create the bucket of", "", lambda: self._fs.mkdir(self._bucket))

    async def _count(self, *_: object) -> None:
        self._requests += 1

    def _read(self, path: str) -> bytes:
        data: bytes = self._fs.cat_file(path)
        return data

    def _write(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(path, data, chunksize=_chunk_size(data))

    def _create(self, path: str, data: bytes) -> None:
        try:
            self._fs.pipe_file(path, data, mode="create", chunksize=_chunk_size(data))
        except ChecksumError as error:
            # There was no such object, so this one is ours. Remove it, or it would be taken for a damaged object.
            self._fs.rm_file(path)
            raise ConnectionError("the object was altered during the transfer") from error

    def _head(self, path: str) -> int:
        return int(self._fs.call("GET", "b/{}/o/{}", self._bucket, self._key(path), json_out=True)["size"])

    def _page(self, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        mark = {"pageToken": after} if after else {}
        page = self._fs.call("GET", "b/{}/o", self._bucket, prefix=prefix, maxResults=1000, json_out=True, **mark)
        return [entry["name"] for entry in page.get("items", ())], page.get("nextPageToken")

    def _send(self, local: str, path: str) -> None:
        self._fs.put_file(local, path, chunksize=PART_SIZE)

    def _fetch(self, path: str, local: str) -> None:
        self._fs.get_file(path, local, concurrency=1)

    def _open(self, path: str) -> BinaryIO:
        stream: BinaryIO = self._fs.open(path, "rb", block_size=PART_SIZE)
        return stream

    def _server_of(self, system: Any) -> str | None:
        return str(system._endpoint)

    def _sign(self, path: str, seconds: int) -> str:
        url: str = self._fs.sign(path, expiration=seconds, version="v4")
        return url

    def _has_no_bucket(self, name: str, error: FileNotFoundError) -> bool:
        if name != META:  # META is read first, so later requests need not check for the bucket again
            return False
        try:
            self._fs.call("GET", "b/{}/o", self._bucket, maxResults=1)
        except FileNotFoundError:
            return True
        return False

    def _is_transient(self, error: Exception) -> bool:
        if isinstance(error, HttpError):
            return is_transient_status(int(error.code or 0))
        return super()._is_transient(error) or isinstance(error, (aiohttp.ClientError, ChecksumError))


def _chunk_size(data: bytes) -> int:
    """Return the size above which gcsfs sends an object separately from its metadata."""
    return len(data) if _BOUNDARY in data else max(len(data) + 1, PART_SIZE)
