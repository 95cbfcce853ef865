"""Contract 2, the data set: shards beside a `dataset.json` that is written last, and the way to read them.

data = dataset.load("DATA")              # dataset.load("gs://…", staging.cache(…)) for one in object storage
test = data.split("test")
images = test.images(np.arange(100))     # uint8[100, H, W, C]
labels = test.labels[:100]               # int32[100]
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto import contract, shard_index, staging, storage
from boceto.errors import DataError, SettingsError
from boceto.shards import ShardFile, open_shard

MANIFEST = "dataset.json"
FORMAT = "boceto-dataset"
VERSION = 4
SPLITS = ("train", "validation", "test")
ENCODINGS = ("png", "raw")
CHANNELS = (1, 3)
AGAIN = "prepare it again with --overwrite"
COPY_AGAIN = "run the same command again with --verify: a damaged copy is replaced"
SHARD_NAME = re.compile(r"(train|validation|test)-\d{5}-of-\d{5}\.(tfrecord|index)")


def shard_name(split: str, shard: int, shards: int) -> str:
    """`train-00003-of-00016.tfrecord`."""
    return f"{split}-{shard:05}-of-{shards:05}.tfrecord"


@dataclass(frozen=True)
class Shard:
    """One shard: its file's name, records, bytes and crc32c (hex), the digest of its decoded content, and the bytes and
    crc32c of its index. A shard of an older Boceto has no index.
    """

    name: str
    records: int
    bytes: int
    crc32c: str
    digest: str
    index_bytes: int = 0
    index_crc32c: str = ""

    @property
    def files(self) -> list[staging.File]:
        """The shard's file, and its index where it has one."""
        index = staging.File(self.index, self.index_bytes, self.index_crc32c, verify=True)
        return [staging.File(self.name, self.bytes, self.crc32c), *([index] if self.index_crc32c else [])]

    @property
    def index(self) -> str:
        """The name of the index file: `train-00003-of-00016.index`."""
        return self.name.removesuffix(".tfrecord") + ".index"


@dataclass(frozen=True)
class SplitInfo:
    """One split: records a class, in the order of the classes, and its shards in order."""

    per_class: list[int]
    shards: list[Shard]

    @property
    def records(self) -> int:
        """How many records the split has."""
        return sum(self.per_class)


@dataclass(frozen=True)
class SourceFile:
    """One piece of the input: its name, size in bytes, how many drawings were read from it, and its crc32c ("" where
    it is no file).
    """

    name: str
    bytes: int
    drawings: int
    crc32c: str


@dataclass(frozen=True)
class Manifest:
    """What `dataset.json` says. `digest` is over the decoded content alone: no file name, option or origin is in it.

    drawings: how many were read; of these, refused: by reason; filtered: left out by an option; duplicates: the
    same as one that was taken, by ink, key or picture. short: class -> drawings, where they were too few.
    """

    digest: str
    seed: int
    options: Mapping[str, Any]
    height: int
    width: int
    channels: int
    encoding: str
    classes: list[str]
    splits: Mapping[str, SplitInfo]
    drawings: int
    duplicates: Mapping[str, int]
    refused: Mapping[str, int]
    short: Mapping[str, int]
    sources: list[SourceFile]
    boceto: str
    filtered: int = 0
    format: str = FORMAT
    version: int = VERSION

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.height, self.width, self.channels

    def to_json(self) -> bytes:
        """The bytes of `dataset.json`, sealed: a changed byte is told when it is read."""
        return contract.sealed(dataclasses.asdict(self))


class ShardDigest:
    """The digest of one shard's decoded content: of its records in order, whatever their encoding.

    Of a drawing with strokes, only a checksum of its pixels goes in: the pixels follow from the strokes, which go in
    whole, and hashing all pixels would cost as much as drawing them. Of a drawing without strokes, the pixels go in
    whole.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, pixels: NDArray[np.uint8], rest: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Adds uint8[B, H, W, C] and, for each of the B records, its label, key and strokes."""
        from isal import isal_zlib  # Not needed to look at a manifest.

        for image, (label, key, strokes) in zip(pixels, rest, strict=True):
            head = b"%d %d %d %d " % (label, len(key), len(strokes), isal_zlib.crc32(image))
            self._hash.update(head + key + (strokes or image.tobytes()))

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()[:32]


def content_digest(shape: tuple[int, int, int], classes: Sequence[str], shards: Mapping[str, Iterable[str]]) -> str:
    """The digest of a data set of images of `shape` (height, width, channels), from the digests of its shards by split;
    32 hexadecimal digits.
    """
    content = [*shape, list(classes), [[split, list(shards[split])] for split in sorted(shards)]]
    return hashlib.blake2b(json.dumps(content, ensure_ascii=False).encode(), digest_size=16).hexdigest()


def _check_split(name: str, split: SplitInfo, classes: int) -> None:
    if name not in SPLITS:
        raise ValueError(f"unknown split {name!r}")
    # The names become paths, so every name that this format does not give is refused.
    named = [shard.name for shard in split.shards]
    if named != [shard_name(name, number, len(named)) for number in range(len(named))]:
        raise ValueError(f"the shards of split {name!r} are not named as this format names them")
    counts = [count for shard in split.shards for count in (shard.records, shard.bytes, shard.index_bytes)]
    if min([*split.per_class, *counts], default=0) < 0 or len(split.per_class) != classes:
        raise ValueError(f"the counts of split {name!r} are not a number a class")
    if sum(shard.records for shard in split.shards) != split.records:
        raise ValueError(f"the counts of split {name!r} do not add up")


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Reads and checks the bytes of a `dataset.json` that stood at `where`.

    Raises:
        DataError: it is none, of another version, or its numbers contradict each other.
    """
    try:
        manifest = contract.read(Manifest, contract.parse_sealed(text, FORMAT, VERSION))
        for name, split in manifest.splits.items():
            _check_split(name, split, len(manifest.classes))
        height, width, channels = manifest.shape
        if manifest.encoding not in ENCODINGS or min(height, width) < 1 or channels not in CHANNELS:
            raise ValueError(f"no images are {height}x{width}x{channels} {manifest.encoding!r}")
        digests = {name: [shard.digest for shard in split.shards] for name, split in manifest.splits.items()}
        digest = content_digest(manifest.shape, manifest.classes, digests)
    except ValueError as error:
        raise DataError(f"{where} is not a data set's manifest: {error}; {AGAIN}") from error
    if digest != manifest.digest:
        raise DataError(f"{where} was changed: its digest does not match its content; {AGAIN}")
    return manifest


@dataclass(frozen=True)
class Split:
    """The records of one split in their global order (shard by shard), for random access.

    labels: int32[N].
    """

    name: str
    manifest: Manifest
    labels: NDArray[np.int32]
    _shards: list[ShardFile] = field(repr=False)
    _first: NDArray[np.int64] = field(repr=False)  # int64[S + 1]: the number of the first record of each shard
    _rows: NDArray[np.void] = field(repr=False)  # shard_index.ROW[N]
    _keys: NDArray[np.uint8] = field(repr=False)
    _key_ends: NDArray[np.int64] = field(repr=False)  # int64[N + 1]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, numbers: NDArray[np.integer[Any]], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """int[B] record numbers -> their decoded pixels, uint8[B, H, W, C] (into `out` where given).

        Raises:
            DataError: a record is damaged.
        """
        from boceto import images  # isal is not needed to look at a manifest.

        if out is None:
            out = np.empty((len(numbers), *self.manifest.shape), np.uint8)
        header = images.png_header(*self.manifest.shape)
        rows = out.reshape(len(out), -1) if self.manifest.encoding == "raw" else out
        for row, (frame, start, end) in enumerate(self._frames(numbers)):
            data = memoryview(frame)[start:end]
            if self.manifest.encoding == "raw":
                rows[row] = np.frombuffer(data, np.uint8)
                continue
            try:
                images.decode_png(data, rows[row], header)
            except DataError as error:
                raise DataError(f"record {numbers[row]} of split {self.name!r}: {error}") from error
        return out

    def _frames(self, numbers: NDArray[np.integer[Any]]) -> Iterator[tuple[bytes, int, int]]:
        """Reads records: yields the frame of each, and where in it the encoded pixels start and end."""
        shards = np.searchsorted(self._first, numbers, side="right") - 1
        # Plain numbers, taken all at once: indexing an array costs more than copying an image.
        rows = zip(shards.tolist(), self._rows[numbers].tolist(), strict=True)
        for shard, (offset, length, crc32c, _, image, image_bytes, _) in rows:
            yield self._shards[shard].frame(offset, length, crc32c), image, image + image_bytes

    def keys(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Yields the keys of these records."""
        ends = self._key_ends
        return (self._keys[ends[number] : ends[number + 1]].tobytes() for number in numbers)

    def strokes(self, number: int) -> bytes:
        """The strokes of one record, in the form of `boceto.strokes`; b"" where it has none.

        Raises:
            DataError: the record is damaged.
        """
        return self.inks(np.array([number]))[0]

    def inks(self, numbers: NDArray[np.integer[Any]]) -> list[bytes]:
        """int[B] record numbers -> the strokes of each, as `strokes`.

        Raises:
            DataError: a record is damaged.
        """
        from boceto import records  # numba is not needed to look at a manifest.

        frames = b"".join(frame for frame, _, _ in self._frames(numbers))
        places = records.index(np.frombuffer(frames, np.uint8)).strokes.tolist()
        return [frames[offset : offset + max(0, length)] for offset, length in places]


@dataclass(frozen=True)
class DataSet:
    """A finished data set at `url`. Files of this machine are read in place, others from their copies in `cache`;
    where there is no cache, they are held in memory.
    """

    url: str
    manifest: Manifest
    cache: staging.Cache | None = None

    def split(self, name: str, *, verify: bool = False) -> Split:
        """Opens a split for reading, by its shards' indexes. With `verify`, every byte of the shards is checked first.

        Raises:
            SettingsError: the data set has no such split, or the cache no room for it.
            DataError: a shard or its index is missing, has changed, or is not what the manifest says.
        """
        info = self._info(name)
        split = self._open(name, info.shards, verify=verify)
        if np.bincount(split.labels, minlength=len(self.manifest.classes)).tolist() != info.per_class:
            raise DataError(f"{self.url}: split {name!r} has other drawings a class than {MANIFEST} says; {AGAIN}")
        return split

    def shards(self, name: str) -> Iterator[Split]:
        """Yields the shards of a split, each opened as a split of its own.

        Raises:
            SettingsError: as `split`.
            DataError: as `split`.
        """
        for shard in self._info(name).shards:
            if shard.records:
                yield self._open(name, [shard])

    def _info(self, name: str) -> SplitInfo:
        info = self.manifest.splits.get(name)
        if info is None or not info.records:
            there = [split for split, entry in self.manifest.splits.items() if entry.records]
            raise SettingsError(f"{self.url} has no drawings in split {name!r}; it has {', '.join(there) or 'none'}")
        return info

    def _open(self, name: str, shards: Sequence[Shard], *, verify: bool = False) -> Split:
        paths, remedy = self._paths([file for shard in shards for file in shard.files], verify=verify)
        first = np.cumsum([0, *(shard.records for shard in shards)])
        rows, keys, files = np.empty(first[-1], shard_index.ROW), [], []
        for shard, start in zip(shards, first.tolist(), strict=False):
            file = open_shard(paths[shard.name], remedy)
            if file.size != shard.bytes:
                raise DataError(f"{file.path} has {file.size} bytes, its manifest says {shard.bytes}; {remedy}")
            if verify and not self._is_staged:  # Staging has checked its copies.
                _check(file.whole().data, shard.crc32c, file.path, remedy)
            if shard.index_crc32c:
                index = self._read_index(shard, paths[shard.index], remedy)
            else:
                index = self._index(shard, file)
            rows[start : start + shard.records] = index.rows
            keys.append(index.keys)
            files.append(file)
        ends = np.concatenate([[0], rows["key_bytes"]]).cumsum(dtype=np.int64)
        return Split(name, self.manifest, rows["label"].copy(), files, first, rows, np.concatenate(keys), ends)

    @property
    def _is_staged(self) -> bool:
        return self.cache is not None and not storage.is_local(self.url)

    def _paths(self, files: Sequence[staging.File], *, verify: bool) -> tuple[Mapping[str, str], str]:
        """-> (where each file is read, by its name; what a reader of a damaged file may do)."""
        if self.cache is None or not self._is_staged:
            return {file.name: storage.join(self.url, file.name) for file in files}, AGAIN
        copies = self.cache.stage(self.url, self.manifest.digest, files, verify=verify)
        return {file.name: str(copy) for file, copy in zip(files, copies, strict=True)}, COPY_AGAIN

    def _read_index(self, shard: Shard, path: str, remedy: str) -> shard_index.ShardIndex:
        data = open_shard(path, remedy).whole().data
        _check(data, shard.index_crc32c, path, remedy)
        try:
            return self._parse(data, shard)
        except ValueError as error:
            raise DataError(f"{path} is no index of {shard.name}: {error}; {remedy}") from error

    def _parse(self, data: bytes | memoryview, shard: Shard) -> shard_index.ShardIndex:
        index = shard_index.parse(data, shard.records, len(self.manifest.classes), shard.bytes)
        if self.manifest.encoding == "raw" and (index.rows["image_bytes"] != np.prod(self.manifest.shape)).any():
            raise ValueError("an image has too few or too many bytes")
        return index

    def _index(self, shard: Shard, file: ShardFile) -> shard_index.ShardIndex:
        """Indexes a shard of a data set without indexes. The cache keeps the result, behind its checksum."""
        kept = self.cache and str(self.cache.folder / self.manifest.digest / f"{shard.crc32c}-{shard.index}")
        with contextlib.suppress(OSError, ValueError, SettingsError):  # SettingsError: it is a pipe.
            content = storage.read_bytes(kept) if kept else b""
            if content[:8] == storage.crc32c(content[8:]).encode():
                return self._parse(content[8:], shard)
        data = file.whole()
        _check(data.data, shard.crc32c, file.path, file.remedy)
        index = build_index(shard, data, self.manifest, file.path)
        content = index.to_bytes()
        with contextlib.suppress(OSError):
            if kept:
                storage.write_bytes(kept, storage.crc32c(content).encode() + content)
        return index


def _check(data: memoryview, crc32c: str, path: str, remedy: str) -> None:
    if storage.crc32c(data) != crc32c:
        raise DataError(f"{path} is damaged: its checksum is not the manifest's; {remedy}")


def build_index(shard: Shard, data: NDArray[np.uint8], manifest: Manifest, path: str) -> shard_index.ShardIndex:
    """Makes the index of the shard at `path` from its content, uint8[bytes].

    Raises:
        DataError: the content is not what the manifest says.
    """
    from boceto import records  # numba is not needed to look at a manifest.

    layout = records.Layout(*manifest.shape, manifest.encoding, manifest.classes)
    try:
        index = shard_index.build(data, layout)
    except ValueError as error:
        raise DataError(f"{path}: {error}; {AGAIN}") from error
    if len(index.rows) != shard.records:
        raise DataError(f"{path}: it has {len(index.rows)} records, its manifest says {shard.records}; {AGAIN}")
    return index


def load(url: str, cache: staging.Cache | None = None) -> DataSet:
    """Opens the data set at `url`, whose shards are staged in `cache` where they are not on this machine.

    Raises:
        DataError: there is none, it is unfinished, or its manifest is damaged.
        SettingsError: it is a file.
    """
    path = storage.join(url, MANIFEST)
    try:
        text = storage.read_bytes(path)
    except NotADirectoryError as error:
        raise SettingsError(f"{url} is a file; give the folder of a data set") from error
    except FileNotFoundError as error:
        unfinished = storage.list_files(url)
        state = "holds an unfinished data set" if unfinished else "does not exist or is empty"
        raise DataError(f"{url} {state}: there is no {MANIFEST}; run `boceto prepare --output {url}`") from error
    return DataSet(url, parse_manifest(text, path), cache)
