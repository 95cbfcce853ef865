"""The Beam job: parts -> candidates of a class -> drawings of a shard -> shards -> `dataset.json`.

    parts ─ Read ─▶ (class, candidates) ─ group, Merge ─▶ Deal ─▶ ((split, shard), drawings) ─ group, Write ─▶ Commit
              └─ what was read and refused ────────────────┴─ counts ─▶ verdict ──────────────────┘

What passes from stage to stage is strokes (some 100 bytes a drawing) in one packed value a class and shard; pixels
exist only inside `Write`. Nothing is shared between workers but the output folder.
"""

import hashlib
import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue

from beam_pipelines import select, sources
from beam_pipelines.raster import Rasteriser
from beam_pipelines.select import Smallest
from beam_pipelines.settings import Settings
from beam_pipelines.shards import Drawing, ShardWriter
from beam_pipelines.sources import Part, Refused, Sketch
from boceto import __version__, storage
from boceto.dataset import MANIFEST, SPLITS, Manifest, Shard, SourceFile, SplitInfo, content_digest
from boceto.errors import DataError

WORK = "_work"
REFUSED = "refused.jsonl"
PROBLEM = "problem.json"
OWNER = "owner.json"
MOST_SHARDS = 4096
BATCH = 32
# Each class is spread over this many shards at most: what is grouped grows with the classes, not with their product.
SPREAD = 32
_BUCKETS = 16
_READ, _COUNTS, _IDS = "read", "counts", "ids"

ShardKey = tuple[str, int]


@dataclass(frozen=True)
class Job:
    """What every stage knows: the settings, the classes in order, and a token that no other job has."""

    settings: Settings
    classes: tuple[str, ...]
    token: str = ""

    @property
    def shards(self) -> dict[str, int]:
        """Shards a split, from what is wanted: it must be known before the drawings are counted."""
        counts = {split: count * len(self.classes) for split, count in self.settings.per_class.items()}
        per_shard = self.settings.records_per_shard
        return {split: min(MOST_SHARDS, -(-counts[split] // per_shard)) for split in SPLITS}

    def check_owner(self) -> None:
        """Raises DataError where another job has begun to write into this folder."""
        try:
            owner = json.loads(storage.read_bytes(self.work_file(OWNER)))
        except FileNotFoundError:
            owner = {}
        if owner.get("token") != self.token:
            raise DataError(f"{self.settings.output} was taken over by another job; run this one with another --output")

    def work_file(self, name: str) -> str:
        """The URL of a file that exists only while the data set is unfinished."""
        return storage.join(self.settings.output, WORK, name)


class Read(beam.DoFn):
    """A part of the input -> (class, packed candidates); beside it, what was read and refused."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, part: Part) -> Iterator[Any]:
        """Reads one part. Its refused lines go to a file of their own: they may be many."""
        settings = self._job.settings
        smallest = Smallest(select.keep_of(settings.wanted), settings.seed, part.category)
        read = filtered = 0
        refused: dict[str, int] = {}
        lines = []
        for item in sources.load(settings.source).read(Part(*part), settings):
            read += 1
            if isinstance(item, Sketch):
                smallest.add_sketch(item)
            elif isinstance(item, Refused):
                refused[item.reason] = refused.get(item.reason, 0) + 1
                lines.append({"file": part.name, "line": item.line, "reason": item.reason, "text": item.text})
            else:
                filtered += 1
        report = {"name": part.name, "bytes": part.size, "drawings": read, "filtered": filtered, "refused": refused}
        name = hashlib.blake2b(part.name.encode(), digest_size=12).hexdigest()
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        storage.write_bytes(self._job.work_file(f"refused-{name}"), text.encode("utf-8", "replace"))
        storage.write_bytes(self._job.work_file(f"read-{name}.json"), json.dumps(report).encode())
        yield pvalue.TaggedOutput(_READ, json.dumps(report))
        candidates = smallest.value()
        yield part.category, select.pack(smallest.full, candidates)


class Merge(beam.DoFn):
    """(class, packed candidates of its parts) -> the same in one; beside it, the ids of its ink by bucket."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[Any]:
        """Merges one class."""
        category, parts = element
        settings = self._job.settings
        merged = select.merge(parts, settings.wanted, settings.seed, category)
        buckets: dict[int, list[bytes]] = {}
        for candidate in select.unpack(merged)[1]:
            buckets.setdefault(candidate.ink_id[0] % _BUCKETS, []).append(candidate.ink_id)
        for bucket, ids in buckets.items():
            yield pvalue.TaggedOutput(_IDS, (bucket, (category, b"".join(ids))))
        yield category, merged


class Deal(beam.DoFn):
    """(class, packed candidates) -> ((split, shard), packed drawings); beside it, the class's counts."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[str, bytes], shared: list[tuple[bytes, list[str]]]) -> Iterator[Any]:
        """Deals one class's drawings out over the shards of each split, evenly."""
        category, packed = element
        settings = self._job.settings
        full, found = select.unpack(packed)
        elsewhere = {
            ink_id
            for ink_id, owners in shared
            if category in owners and select.owner(settings.seed, ink_id, owners) != category
        }
        candidates = [candidate for candidate in found if candidate.ink_id not in elsewhere]
        dealt = select.deal(candidates, settings.per_class)
        label = self._job.classes.index(category)
        for split, mine in dealt.items():
            shards = self._job.shards[split]
            spread = min(shards, SPREAD)
            for place in range(min(spread, len(mine))):
                rows = [(row.rank, label, row.key, row.ink) for row in mine[place::spread]]
                # Each class begins elsewhere, so the shards become about equally large.
                yield (split, (label * (spread + 1) + place) % shards), pickle.dumps(rows, pickle.HIGHEST_PROTOCOL)
        taken = [candidate for mine in dealt.values() for candidate in mine]
        counts = {
            "category": category,
            "available": len(candidates),
            "more": full,
            "taken": {split: len(mine) for split, mine in dealt.items()},
            "duplicates": sum(row.times - 1 for row in taken)
            + sum(row.times for row in found if row.ink_id in elsewhere),
        }
        yield pvalue.TaggedOutput(_COUNTS, json.dumps(counts))


class Write(beam.DoFn):
    """((split, shard), packed drawings of many classes) -> one shard file and its description."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[ShardKey, Iterable[bytes]], problem: str) -> Iterator[str]:
        """Draws and writes one shard, unless the job has failed already."""
        if problem:
            return
        self._job.check_owner()
        (split, shard), packed = element
        rows = sorted(row for part in packed for row in pickle.loads(part))  # noqa: S301 - between the workers of one job
        drawings = [Drawing(label, key, ink) for _, label, key, ink in rows]
        settings = self._job.settings
        rasteriser = Rasteriser(settings.size, settings.line_width, settings.margin, settings.ink)
        writer = ShardWriter(settings.output, settings.size, settings.encoding, list(self._job.classes))
        batches = (drawings[at : at + BATCH] for at in range(0, len(drawings), BATCH))
        pixels = np.empty((BATCH, settings.size, settings.size), np.uint8)  # Fresh memory for each batch costs more.
        drawn = ((batch, rasteriser.draw([drawing.ink for drawing in batch], pixels)) for batch in batches)
        written, per_class = writer.write(split, shard, self._job.shards[split], drawn)
        yield json.dumps({"split": split, "shard": written.__dict__, "per_class": per_class})


def problem_of(reads: Iterable[str], counts: Iterable[str], job: Job) -> str:
    """Why the data set must not be made, as JSON with `exit` and `message`; "" where all is well."""
    settings = job.settings
    parts = [json.loads(read) for read in reads]
    total = sum(part["drawings"] for part in parts)
    refused = sum(sum(part["refused"].values()) for part in parts)
    if refused > settings.max_refused * total:
        worst = max(parts, key=lambda part: sum(part["refused"].values()))
        message = (
            f"{refused} of {total} drawings are bad, more than prepare.max_refused = {settings.max_refused} allows; "
            f"most are in {worst['name']} ({_reasons(worst['refused'])}); mend the input or raise --max-refused"
        )
        return json.dumps({"kind": "data", "message": message})
    classes = sorted((json.loads(count) for count in counts), key=lambda count: (count["available"], count["category"]))
    least: int = 0 if len(classes) < len(job.classes) else classes[0]["available"]
    if least < settings.wanted and not _enough_for_fewer(least, settings):
        return json.dumps({"kind": "data", "message": _too_few(classes, job)})
    return ""


def _reasons(refused: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items()))


def _enough_for_fewer(available: int, settings: Settings) -> bool:
    """With --allow-fewer, a class still needs a drawing to train on."""
    return settings.allow_fewer and available > settings.wanted - settings.train_per_class


def _too_few(classes: list[dict[str, Any]], job: Job) -> str:
    settings = job.settings
    there = {count["category"] for count in classes}
    missing = [{"category": name, "available": 0, "more": False} for name in job.classes if name not in there]
    short = [count for count in missing + classes if count["available"] < settings.wanted]
    first = short[0]
    others = f" (and {len(short) - 1} more categories are short)" if len(short) > 1 else ""
    message = (
        f"category {first['category']!r} has {first['available']} different drawings, "
        f"{settings.wanted} are wanted{others}"
    )
    train = first["available"] - (settings.wanted - settings.train_per_class)
    if first["more"]:
        return f"{message}: too much of its ink belongs to other categories; leave one of them out with --classes"
    if train > 0:
        return f"{message}; use --train-per-class {train}, or --allow-fewer to take what there is"
    return f"{message}; leave it out with --classes, or lower --test-per-class and --validation-per-class"


class Commit(beam.DoFn):
    """Everything that is known at the end -> `refused.jsonl` and, last, `dataset.json`; or why there is none."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, _: None, shards: list[str], reads: list[str], counts: list[str], problem: str) -> Iterator[str]:
        """Writes the last files of the data set."""
        self._job.check_owner()
        if problem:
            storage.write_bytes(self._job.work_file(PROBLEM), problem.encode())
            return
        parts = sorted((json.loads(read) for read in reads), key=lambda part: part["name"])
        output = self._job.settings.output
        with storage.writing(storage.join(output, REFUSED)) as file:
            for part in parts:
                name = hashlib.blake2b(part["name"].encode(), digest_size=12).hexdigest()
                file.write(storage.read_bytes(self._job.work_file(f"refused-{name}")))
        manifest = _manifest(
            self._job, [json.loads(text) for text in shards], parts, [json.loads(text) for text in counts]
        )
        _commit(output, manifest)
        yield manifest.digest


def _commit(output: str, manifest: Manifest) -> None:
    """Writes `dataset.json` where there is none: of two jobs, one finishes."""
    path = storage.join(output, MANIFEST)
    try:
        storage.create_bytes(path, manifest.to_json())
    except FileExistsError:
        # A runner may do this stage again though it had been done.
        if storage.read_bytes(path) != manifest.to_json():
            raise DataError(
                f"another job has finished a data set in {output} meanwhile; run this one with another --output"
            ) from None


def _manifest(job: Job, shards: list[Any], parts: list[Any], counts: list[Any]) -> Manifest:
    settings = job.settings
    splits = {}
    for split in SPLITS:
        mine = sorted((entry for entry in shards if entry["split"] == split), key=lambda entry: entry["shard"]["name"])
        per_class = [sum(column) for column in zip(*(entry["per_class"] for entry in mine), strict=True)]
        splits[split] = SplitInfo(per_class or [0] * len(job.classes), [Shard(**entry["shard"]) for entry in mine])
    refused: dict[str, int] = {}
    for part in parts:
        for reason, count in part["refused"].items():
            refused[reason] = refused.get(reason, 0) + count
    digests = {split: [shard.digest for shard in info.shards] for split, info in splits.items()}
    short = {count["category"]: count["available"] for count in counts if count["available"] < settings.wanted}
    return Manifest(
        digest=content_digest(settings.size, settings.size, job.classes, digests),
        seed=settings.seed,
        options=settings.content_options(),
        height=settings.size,
        width=settings.size,
        encoding=settings.encoding,
        classes=list(job.classes),
        splits=splits,
        drawings=sum(part["drawings"] for part in parts),
        duplicates=sum(count["duplicates"] for count in counts),
        refused=dict(sorted(refused.items())),
        short=dict(sorted(short.items())),
        sources=[SourceFile(part["name"], part["bytes"], part["drawings"]) for part in parts],
        boceto=__version__,
        filtered=sum(part["filtered"] for part in parts),
    )


def build(pipeline: beam.Pipeline, job: Job, parts: Iterable[Part]) -> None:
    """Adds the whole job to `pipeline`."""
    read = (
        pipeline
        | "Parts" >> beam.Create([tuple(part) for part in parts])
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.Map(lambda fields: Part(*fields))
        | "Select" >> beam.ParDo(Read(job)).with_outputs(_READ, main="candidates")
    )
    merged = (
        read.candidates
        | "ByClass" >> beam.GroupByKey()
        | "Merge" >> beam.ParDo(Merge(job)).with_outputs(_IDS, main="merged")
    )
    shared = (
        merged[_IDS]
        | "ByInk" >> beam.GroupByKey()
        | "Shared" >> beam.FlatMap(lambda bucket: select.shared_ink(bucket[1]))
    )
    dealt = merged.merged | "Deal" >> beam.ParDo(Deal(job), pvalue.AsList(shared)).with_outputs(
        _COUNTS, main="drawings"
    )
    once = pipeline | "Once" >> beam.Create([None])
    reads, counts = pvalue.AsList(read[_READ]), pvalue.AsList(dealt[_COUNTS])
    problem = pvalue.AsSingleton(
        once | "Verdict" >> beam.Map(lambda _, reads, counts: problem_of(reads, counts, job), reads, counts)
    )
    empty = [((split, shard), pickle.dumps([])) for split, count in job.shards.items() for shard in range(count)]
    written = (
        (dealt.drawings, pipeline | "Shards" >> beam.Create(empty))
        | "All" >> beam.Flatten()
        | "ByShard" >> beam.GroupByKey()
        | "Write" >> beam.ParDo(Write(job), problem)
    )
    once | "Commit" >> beam.ParDo(Commit(job), pvalue.AsList(written), reads, counts, problem)
