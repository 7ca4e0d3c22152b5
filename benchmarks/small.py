"""Measure many small files: into a store and out of it, on this machine and to and from an S3 server.

    python benchmarks/small.py [local|s3] [--files 100000]

`local` imports a folder of files of 1 KiB into a store on disk, and exports them to another folder. `s3` exports them
from that store to a bucket, and imports them from there into a new store on disk. It then does the same with the driver
alone (aiobotocore), in as many processes and with as many concurrent requests as toilfn. The server is Ceph's gateway,
which needs Debian and root. It is started for this benchmark only, and counts the requests itself.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import toilfn as toil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.machine import BY_HAND
from tests.servers.radosgw import PORT, RadosGateway

PROCESSES, AT_ONCE = 2, 16
"""The number of processes of the driver alone, and the number of concurrent requests of each process."""

SIZE = 1024


class Gateway(RadosGateway):
    """A gateway for this benchmark, so that the requests of tests are not counted."""

    name = "radosgw-small"
    port = PORT + 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=["local", "s3"], nargs="?", default="local")
    parser.add_argument("--files", type=int, default=100_000)
    options = parser.parse_args()
    if options.where == "local":
        with tempfile.TemporaryDirectory() as folder:
            local(Path(folder), options.files)
        return
    server = Gateway()
    server.acquire(BY_HAND)
    os.environ.update(server.environment, AWS_ENDPOINT_URL=server.url)
    try:
        with tempfile.TemporaryDirectory() as folder:
            s3(server, Path(folder), options.files)
    finally:
        server.release(BY_HAND)


def fill(folder: Path, files: int) -> Path:
    """Write files to a new folder."""
    folder.mkdir()
    for number in range(files):
        (folder / f"{number:06}").write_bytes(number.to_bytes(8, "big") * (SIZE // 8))
    return folder


def taken(label: str, files: int, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    print(f"{files:7,} {label:48} {took:8.1f} s  {files / took:8.0f} a second", flush=True)


def imported(source: object, store: Path) -> None:
    toil.compute(toil.import_directory(str(source)), store=store, progress=False, durability="none")


def exported(source: object, store: Path, target: object) -> None:
    promise = toil.export(toil.import_directory(str(source)), str(target))
    toil.compute(promise, store=store, progress=False, durability="none")


def local(folder: Path, files: int) -> None:
    source = fill(folder / "source", files)
    taken("imported into a store on disk", files, lambda: imported(source, folder / "store"))
    taken("exported from it to a folder", files, lambda: exported(source, folder / "store", folder / "out"))
    check(source, folder / "out")


def check(source: Path, copy: Path) -> None:
    """Compare two folders."""
    for path in source.iterdir():
        if path.read_bytes() != (copy / path.name).read_bytes():
            raise SystemExit(f"{copy / path.name} differs from its source")


def s3(server: Gateway, folder: Path, files: int) -> None:
    source, ours, bare = fill(folder / "source", files), new_bucket(), new_bucket()
    (folder / "bare").mkdir()
    names = sorted(path.name for path in source.iterdir())
    imported(source, folder / "store")
    ways: dict[str, Callable[[], object]] = {
        "exported to S3 from a store on disk": lambda: exported(source, folder / "store", f"s3://{ours}/out"),
        "uploaded by the driver alone": lambda: in_processes(upload, folder, bare, names),
        "imported from S3 into a new store on disk": lambda: imported(f"s3://{ours}/out", folder / "back"),
        "downloaded by the driver alone": lambda: in_processes(download, folder, bare, names),
    }
    for label, work in ways.items():
        before = server.requests()
        taken(label, files, work)
        asked = {name: count - before[name] for name, count in server.requests().items()}
        print(f"{'':7} {asked['req'] / files:.3f} requests a file, of these {asked}", flush=True)
    check(source, folder / "bare")


def new_bucket() -> str:
    bucket = f"small-{uuid.uuid4().hex}"
    asyncio.run(created(bucket))
    return bucket


async def created(bucket: str) -> None:
    async with client() as s3:
        await s3.create_bucket(Bucket=bucket)


def client() -> Any:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    return get_session().create_client("s3", config=AioConfig(max_pool_connections=AT_ONCE))


Transfer = Callable[[Any, Path, str, str], Coroutine[Any, Any, None]]


async def upload(s3: Any, folder: Path, bucket: str, name: str) -> None:
    await s3.put_object(Bucket=bucket, Key=name, Body=(folder / "source" / name).read_bytes())


async def download(s3: Any, folder: Path, bucket: str, name: str) -> None:
    answer = await s3.get_object(Bucket=bucket, Key=name)
    (folder / "bare" / name).write_bytes(await answer["Body"].read())


def in_processes(transfer: Transfer, folder: Path, bucket: str, names: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    parts = [names[start::PROCESSES] for start in range(PROCESSES)]
    processes = [context.Process(target=loop, args=(transfer, folder, bucket, part)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit("the driver alone failed")


def loop(transfer: Transfer, folder: Path, bucket: str, names: list[str]) -> None:
    asyncio.run(all_of(transfer, folder, bucket, names))


async def all_of(transfer: Transfer, folder: Path, bucket: str, names: list[str]) -> None:
    rest = iter(names)
    async with client() as s3:

        async def one_after_the_other() -> None:
            for name in rest:
                await transfer(s3, folder, bucket, name)

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    main()
