"""A data set: `dataset.json` and its shards."""

import fnmatch

import numpy as np

from boceto import dataset, storage
from boceto.dataset import MANIFEST, Manifest, Shard
from boceto.errors import DataError
from boceto.inspection import DAMAGED, OK, Found, Link, Table, Tell

MARKS = (MANIFEST, *(f"{split}-*-of-*.tfrecord" for split in dataset.SPLITS), "_work/*")
BESIDE = ("refused.jsonl", "preview.png")
_SHOWN = 20


def look(url: str, tell: Tell) -> Found:
    """Reads the manifest, every byte of the shards and of their indexes, and compares each index with its shard."""
    found = Found("data set", url)
    try:
        manifest = dataset.load(url).manifest
    except DataError as error:
        found.damaged.append(str(error))
        return found
    found.facts = _facts(manifest)
    shards = [(split, shard) for split, info in manifest.splits.items() for shard in info.shards]
    states = []
    for number, (_, shard) in enumerate(shards):
        tell(f"{number} of {len(shards)} shards")
        states.append(_check_shard(found, url, shard, manifest))
    found.details = {
        "classes": manifest.classes,
        "per_class": {split: info.per_class for split, info in manifest.splits.items()},
        "shards": [
            {"name": shard.name, "records": shard.records, "bytes": shard.bytes, "state": state}
            for (_, shard), state in zip(shards, states, strict=True)
        ],
        "options": manifest.options,
        "refused": manifest.refused,
        "short": manifest.short,
        "sources": [vars(source) for source in manifest.sources],
        "other_files": _others(url, {file.name for _, shard in shards for file in shard.files}),
    }
    found.tables = _tables(manifest, found.details["shards"])
    found.chain = [_sources(manifest), Link(MANIFEST, f"data set {manifest.digest}", matches=True)]
    return found


def _check_shard(found: Found, url: str, shard: Shard, manifest: Manifest) -> str:
    """Returns OK, MISSING or DAMAGED, for a shard and its index. Damage is noted."""
    paths = [storage.join(url, file.name) for file in shard.files]
    states = [found.check_file(path, file.crc32c, file.size) for path, file in zip(paths, shard.files, strict=True)]
    if set(states) != {OK}:
        return next(state for state in states if state != OK)
    try:
        index = dataset.build_index(shard, np.frombuffer(storage.read_bytes(paths[0]), np.uint8), manifest, paths[0])
    except DataError as error:
        found.damaged.append(str(error))
        return DAMAGED
    if shard.index_crc32c and storage.read_bytes(paths[1]) != index.to_bytes():
        found.damaged.append(f"{paths[1]} is not the index of {shard.name}; {dataset.AGAIN}")
        return DAMAGED
    return OK


def _facts(manifest: Manifest) -> dict[str, object]:
    return {
        "digest": manifest.digest,
        "boceto": manifest.boceto,
        "seed": manifest.seed,
        "images": f"{manifest.height}x{manifest.width}x{manifest.channels} {manifest.encoding}",
        "number_of_classes": len(manifest.classes),
        "drawings_read": manifest.drawings,
        "drawings_refused": sum(manifest.refused.values()),
        "drawings_filtered": manifest.filtered,
        "drawings_taken_as_the_same": sum(manifest.duplicates.values()),
    }


def _tables(manifest: Manifest, shards: list[dict[str, str]]) -> list[Table]:
    rows = []
    for split, info in manifest.splits.items():
        mine = [shard["state"] for shard in shards if shard["name"].startswith(f"{split}-")]
        size = sum(shard.bytes for shard in info.shards)
        row = [split, f"{info.records:,}", f"{len(mine)}", f"{size:,}", f"{mine.count(OK)} of {len(mine)} ok"]
        rows.append(row)
    tables = [Table("splits", ["split", "records", "shards", "bytes", "state"], rows)]
    refused = [[reason, f"{count:,}"] for reason, count in manifest.refused.items() if count]
    if refused:
        tables.append(Table("refused", ["reason", "drawings"], refused))
    same = [[why, f"{count:,}"] for why, count in manifest.duplicates.items() if count]
    if same:
        tables.append(Table("taken_as_the_same", ["by", "drawings"], same))
    sources = [[source.name, f"{source.bytes:,}", f"{source.drawings:,}"] for source in manifest.sources]
    if sources:
        rest = [[f"and {len(sources) - _SHOWN} more", "", ""]] if len(sources) > _SHOWN else []
        tables.append(Table("sources", ["source", "bytes", "drawings"], sources[:_SHOWN] + rest))
    return tables


def _sources(manifest: Manifest) -> Link:
    """Compares the counts of the sources with the manifest's. The sources themselves are not read again."""
    read = sum(source.drawings for source in manifest.sources)
    there = f"{len(manifest.sources)} source files"
    if not manifest.sources or read == manifest.drawings:
        return Link(MANIFEST, there, None, "the sources were not read again: their checksums are in the manifest")
    return Link(MANIFEST, there, matches=False, said=f"{read:,} drawings are in them, {manifest.drawings:,} were read")


def _others(url: str, shards: set[str]) -> list[str]:
    names = [storage.relative(entry.url, url) for entry in storage.list_files(url)]
    known = {MANIFEST, *BESIDE, *shards}
    return [name for name in names if name not in known and not fnmatch.fnmatch(name, "_work/*")]
