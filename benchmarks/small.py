"""Measure many small files: into a store and out of it, on this machine and to and from an S3 server.

    python benchmarks/small.py [local|s3] [--files 100000] [--counted 2000]

`local` imports a folder of files of 1 KiB into a store on disk, and exports them to another folder. `s3` exports them
from that store to a bucket, and imports them from there into a new store on disk; and it does the same with the driver
alone (aiobotocore), in as many processes and with as many requests at a time as toilfn. The server is Ceph's gateway,
which needs Debian and root. Requests are counted in a run of its own with fewer files, since the relay that counts them
is slow.
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

from tests.servers.counting import Counting
from tests.servers.machine import BY_HAND
from tests.servers.radosgw import PORT, RadosGateway

PROCESSES, AT_ONCE = 2, 16
"""How many processes the driver alone uses, and how many requests at a time each of them makes."""

SIZE = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=["local", "s3"], nargs="?", default="local")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--counted", type=int, default=2_000, help="files of the run that counts requests")
    options = parser.parse_args()
    if options.where == "local":
        with tempfile.TemporaryDirectory() as folder:
            local(Path(folder), options.files)
        return
    server = RadosGateway()
    server.acquire(BY_HAND)
    os.environ.update(server.environment)
    try:
        s3(server, options.files, options.counted)
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


def s3(server: RadosGateway, files: int, counted: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        there_and_back(Path(folder), files, server.url)
    relay = Counting(PORT)
    with relay.running(), tempfile.TemporaryDirectory() as folder:
        for work in transfers(Path(folder), counted, relay.url).values():
            relay.seen.clear()
            work()
            asked = sum(relay.seen.values())
            print(f"{counted:7,} {asked / counted:.2f} requests a file: {dict(relay.seen.most_common(6))}", flush=True)


def transfers(folder: Path, files: int, url: str) -> dict[str, Callable[[], object]]:
    """Return the functions to measure, by name: out of a store on disk, and into a new one."""
    os.environ["AWS_ENDPOINT_URL"] = url
    source, bucket = fill(folder / "source", files), f"s3://small-{uuid.uuid4().hex}"
    asyncio.run(one_request(bucket))
    imported(source, folder / "store")
    return {
        "exported to S3 from a store on disk": lambda: exported(source, folder / "store", f"{bucket}/out"),
        "imported from S3 into a new store on disk": lambda: imported(f"{bucket}/out", folder / "back"),
    }


def there_and_back(folder: Path, files: int, url: str) -> None:
    for label, work in transfers(folder, files, url).items():
        taken(label, files, work)
    bucket = f"small-{uuid.uuid4().hex}"
    asyncio.run(one_request(f"s3://{bucket}"))
    (folder / "bare").mkdir()
    names = sorted(path.name for path in (folder / "source").iterdir())
    for label, transfer in (("uploaded by the driver alone", upload), ("downloaded by the driver alone", download)):
        taken(label, files, lambda transfer=transfer: in_processes(transfer, folder, bucket, names))  # type: ignore[misc]
    check(folder / "source", folder / "bare")


async def one_request(bucket: str) -> None:
    """Create a bucket."""
    async with client() as s3:
        await s3.create_bucket(Bucket=bucket.removeprefix("s3://"))


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
