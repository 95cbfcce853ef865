"""Contract 2, the data set: shards beside a `dataset.json` that is written last, and the way to read them.

data = dataset.load("DATA")              # dataset.load("gs://…", staging.cache(…)) for one in object storage
test = data.split("test")
images = test.images(np.arange(100))     # uint8[100, H, W, C]
labels = test.labels[:100]               # int32[100]
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boceto import contract, staging, storage
from boceto.errors import DataError, SettingsError
from boceto.shards import ShardFile, open_shard

if TYPE_CHECKING:
    from boceto import records

MANIFEST = "dataset.json"
FORMAT = "boceto-dataset"
VERSION = 4
SPLITS = ("train", "validation", "test")
ENCODINGS = ("png", "raw")
CHANNELS = (1, 3)
AGAIN = "prepare it again with --overwrite"
COPY_AGAIN = "run the same command again with --verify: a damaged copy is replaced"
SHARD_NAME = re.compile(r"(train|validation|test)-\d{5}-of-\d{5}\.tfrecord")


def shard_name(split: str, shard: int, shards: int) -> str:
    """`train-00003-of-00016.tfrecord`."""
    return f"{split}-{shard:05}-of-{shards:05}.tfrecord"


@dataclass(frozen=True)
class Shard:
    """One shard: its file's name, records, bytes and crc32c (hex), and the digest of its decoded content."""

    name: str
    records: int
    bytes: int
    crc32c: str
    digest: str


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
    # A manifest's names become paths: nothing else may stand there.
    named = [shard.name for shard in split.shards]
    if named != [shard_name(name, number, len(named)) for number in range(len(named))]:
        raise ValueError(f"the shards of split {name!r} are not named as this format names them")
    counts = [*split.per_class, *(shard.records for shard in split.shards), *(shard.bytes for shard in split.shards)]
    if min(counts, default=0) < 0 or len(split.per_class) != classes:
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
    _shard_of: NDArray[np.int32] = field(repr=False)
    _frame: NDArray[np.int64] = field(repr=False)
    _image: NDArray[np.int32] = field(repr=False)
    _strokes: NDArray[np.int32] = field(repr=False)
    _keys: NDArray[np.uint8] = field(repr=False)
    _key_ends: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, numbers: NDArray[np.integer[Any]], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """int[B] record numbers -> their decoded pixels, uint8[B, H, W, C] (into `out` where given).

        Raises:
            DataError: a damaged image.
        """
        from boceto import images  # isal is not needed to look at a manifest.

        if out is None:
            out = np.empty((len(numbers), *self.manifest.shape), np.uint8)
        header = images.png_header(*self.manifest.shape)
        rows = out.reshape(len(out), -1) if self.manifest.encoding == "raw" else out
        # Plain numbers, taken all at once: indexing an array costs more than copying an image.
        places = zip(
            self._shard_of[numbers].tolist(), self._frame[numbers].tolist(), self._image[numbers].tolist(), strict=True
        )
        for row, (shard, frame, (offset, length)) in enumerate(places):
            data = memoryview(self._shards[shard].record(*frame))[offset : offset + length]
            if self.manifest.encoding == "raw":
                rows[row] = np.frombuffer(data, np.uint8)
                continue
            try:
                images.decode_png(data, rows[row], header)
            except DataError as error:
                raise DataError(f"record {numbers[row]} of split {self.name!r}: {error}") from error
        return out

    def keys(self, numbers: Iterable[int]) -> list[bytes]:
        """The keys of these records."""
        ends = self._key_ends
        return [self._keys[ends[number] : ends[number + 1]].tobytes() for number in numbers]

    def strokes(self, number: int) -> bytes:
        """The strokes of one record, in the form of `boceto.strokes`.

        Raises:
            DataError: a damaged record.
        """
        offset, length = self._strokes[number].tolist()
        record = self._shards[self._shard_of[number]].record(*self._frame[number].tolist())
        return record[offset : offset + max(0, length)]


@dataclass(frozen=True)
class DataSet:
    """A finished data set at `url`. Files of this machine are read in place, others from their copies in `cache`;
    where there is no cache, they are held in memory.
    """

    url: str
    manifest: Manifest
    cache: staging.Cache | None = None

    def split(self, name: str, *, verify: bool = True) -> Split:
        """Opens a split for reading; with `verify`, every byte is first checked against the manifest.

        Raises:
            SettingsError: the data set has no such split, or the cache no room for it.
            DataError: a shard is missing, has changed, or is not what the manifest says.
        """
        info = self._info(name)
        split = self._open(name, info.shards, verify=verify)
        if np.bincount(split.labels, minlength=len(self.manifest.classes)).tolist() != info.per_class:
            raise DataError(f"{self.url}: split {name!r} has other drawings a class than {MANIFEST} says; {AGAIN}")
        return split

    def shards(self, name: str, *, verify: bool = True) -> Iterator[Split]:
        """The shards of a split one after the other, each as a split of its own, for who needs only some.

        Raises:
            SettingsError: as `split`.
            DataError: as `split`.
        """
        for shard in self._info(name).shards:
            if shard.records:
                yield self._open(name, [shard], verify=verify)

    def _info(self, name: str) -> SplitInfo:
        info = self.manifest.splits.get(name)
        if info is None or not info.records:
            there = [split for split, entry in self.manifest.splits.items() if entry.records]
            raise SettingsError(f"{self.url} has no drawings in split {name!r}; it has {', '.join(there) or 'none'}")
        return info

    def _open(self, name: str, shards: Sequence[Shard], *, verify: bool) -> Split:
        files = self._files(shards, verify=verify)
        indices = [self._indexed(shard, file, verify=verify) for shard, file in zip(shards, files, strict=True)]
        return Split(
            name,
            self.manifest,
            np.concatenate([part.label for part, _ in indices]).astype(np.int32),
            files,
            np.repeat(np.arange(len(shards), dtype=np.int32), [len(part.label) for part, _ in indices]),
            np.concatenate([part.frames for part, _ in indices]),
            np.concatenate([_within(part.frames, part.image) for part, _ in indices]),
            np.concatenate([_within(part.frames, part.strokes) for part, _ in indices]),
            np.concatenate([keys for _, keys in indices]),
            np.concatenate([[0], *(part.key[:, 1] for part, _ in indices)]).cumsum(),
        )

    @property
    def _is_staged(self) -> bool:
        return self.cache is not None and not storage.is_local(self.url)

    def _files(self, shards: Sequence[Shard], *, verify: bool) -> list[ShardFile]:
        if self.cache is None or not self._is_staged:
            return [open_shard(storage.join(self.url, shard.name), AGAIN) for shard in shards]
        wanted = [staging.File(shard.name, shard.bytes, shard.crc32c) for shard in shards]
        copies = self.cache.stage(self.url, self.manifest.digest, wanted, verify=verify)
        return [open_shard(str(copy), COPY_AGAIN) for copy in copies]

    def _indexed(self, shard: Shard, file: ShardFile, *, verify: bool) -> tuple["records.Index", NDArray[np.uint8]]:
        """-> (where the values of a shard's records are, their keys one behind the other)."""
        if file.size != shard.bytes:
            raise DataError(f"{file.path} has {file.size} bytes, its manifest says {shard.bytes}; {file.remedy}")
        data = file.whole()
        # Staging has checked its copies.
        if verify and not self._is_staged and storage.crc32c(data.data) != shard.crc32c:
            raise DataError(f"{file.path} is damaged: its checksum is not the manifest's; {file.remedy}")
        found = _index_shard(self.url, shard, data, self.manifest)
        return found, _gathered(data, found.key)


def _gathered(data: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bytes at (offset, length) int64[N, 2], one behind the other."""
    starts, lengths = places.T
    offsets = np.repeat(starts - lengths.cumsum() + lengths, lengths)
    return data[offsets + np.arange(len(offsets))]


def _within(frames: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int32]:
    """(offset, length) int64[N, 2] of values in a shard -> of the values in their frames, int32[N, 2]."""
    return np.stack([values[:, 0] - frames[:, 0], values[:, 1]], axis=1).astype(np.int32)


def _index_shard(url: str, shard: Shard, data: NDArray[np.uint8], manifest: Manifest) -> "records.Index":
    from boceto import records  # numba is not needed to look at a manifest.

    path = storage.join(url, shard.name)
    try:
        found = records.index(data)
    except ValueError as error:
        raise DataError(f"{path}: {error}; {AGAIN}") from error
    encodings = {data[at : at + length].tobytes() for at, length in np.unique(found.encoding, axis=0)}
    problems = (
        (len(found.label) != shard.records, f"it has {len(found.label)} records, its manifest says {shard.records}"),
        (
            (found.shape != manifest.shape).any(),
            "an image has another size or number of channels than the manifest says",
        ),
        (
            ((found.label < 0) | (found.label >= len(manifest.classes))).any(),
            "a label is none of the manifest's classes",
        ),
        (encodings - {manifest.encoding.encode()}, "an image has another encoding than the manifest says"),
        (
            manifest.encoding == "raw" and (found.image[:, 1] != np.prod(manifest.shape)).any(),
            "an image has too few or too many bytes",
        ),
    )
    for wrong, message in problems:
        if wrong:
            raise DataError(f"{path}: {message}; {AGAIN}")
    return found


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
