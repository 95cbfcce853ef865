import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings

from beam_pipelines.shards import Drawings, ShardWriter
from boceto import storage, strokes
from boceto.dataset import MANIFEST, Manifest, SplitInfo, content_digest

# The first example of a test may compile a kernel.
hypothesis_settings.register_profile("boceto", deadline=None)
hypothesis_settings.load_profile("boceto")

MakeData = Callable[..., str]


def _square(label: int, number: int, size: int) -> np.ndarray:
    """A bright block whose row and height tell the class, on faint noise: uint8[size, size]."""
    image = np.random.default_rng([label, number]).integers(0, 60, (size, size), np.uint8)
    quarter = max(2, size // 4)
    at = label % 4 * quarter
    image[at : at + quarter - label // 4 % 2, 2:-2] = 255
    return image


@pytest.fixture
def make_data(tmp_path) -> MakeData:
    """Writes a whole data set without Beam: `make_data(classes=3, train=8, test=4, size=16)` returns its folder."""

    def make(  # noqa: PLR0913 - each a property of a data set
        *, classes=3, train=8, validation=0, test=4, size=16, encoding="png", shards=2, name="data"
    ) -> str:
        url = str(tmp_path / name)
        names = [f"class {label}" for label in range(classes)]
        writer = ShardWriter(url, size, encoding, names)
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
                    [strokes.pack([[[label, 9], [number % 256, 9]]]) for label, number in mine],
                )
                pixels = np.stack([_square(label, number, size) for label, number in mine])
                written.append(writer.write(split, shard, shards, [(drawings, pixels)])[0])
            splits[split] = SplitInfo([count] * classes, written)
            first += count
        digests = {split: [shard.digest for shard in info.shards] for split, info in splits.items()}
        manifest = Manifest(
            digest=content_digest(size, size, names, digests),
            seed=0,
            options={},
            height=size,
            width=size,
            encoding=encoding,
            classes=names,
            splits=splits,
            drawings=classes * (train + validation + test),
            duplicates=0,
            refused={},
            short={},
            sources=[],
            boceto="test",
        )
        storage.write_bytes(storage.join(url, MANIFEST), manifest.to_json())
        return url

    return make
