"""The Beam job: parts -> candidates of a class -> drawings of a shard -> shards -> `dataset.json`.

    parts ─ Read ─▶ (class, file) ─ group, Claim, Compare ─▶ Deal ─▶ (shard, range of a file) ─ Write ─▶ Commit
              └─ what was read and refused ──────────┴─ counts ─▶ verdict ─────┘

The strokes (some 100 bytes a drawing), or the deflated pixels of drawings without strokes, pass from stage to stage in
files of the output's work folder; the runner carries their names, and what must not be the same in two classes. Nothing
is shared between workers but that folder. A stage that runs twice writes the same file again, or one of another name.
"""

import contextlib
import hashlib
import json
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindows

from beam_pipelines import columns, select, sources
from beam_pipelines.drawer import BATCH, Drawer
from beam_pipelines.select import Smallest
from beam_pipelines.settings import Settings
from beam_pipelines.shards import Drawings, ShardWriter
from beam_pipelines.sources import Drawing, InputPart, Refused
from boceto import __version__, storage
from boceto.dataset import MANIFEST, SPLITS, Manifest, Shard, SourceFile, SplitInfo, content_digest
from boceto.errors import DataError
from boceto.records import Layout

T = TypeVar("T")

WORK = "_work"
REFUSED = "refused.jsonl"
PROBLEM = "problem.json"
OWNER = "owner.json"
SHARD = "shard"
MOST_SHARDS = 4096
# Each class is spread over this many shards at most: the pieces grow with the classes, not with their product.
SPREAD = 32
# Strokes that a worker holds before it writes them to a file of all shards, bytes.
HELD = 64 << 20
_BUCKETS = 16
_READ, _COUNTS = "read", "counts"
_ROW = {"ranks": bytes, "labels": int, "keys": str, "strokes": bytes, "pixels": bytes}

ShardKey = tuple[str, int]  # split and number
Row = tuple[bytes, int, str, bytes, bytes]  # rank, class, key, strokes, pixels
ByteRange = tuple[str, int, int]  # file of strokes, first byte, size
Claims = tuple[str, list[str], bytes]  # class, files of its parts, `select.claim` of its candidates, joined


@dataclass(frozen=True)
class PrepareJob:
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

    def strokes_file(self, name: str) -> str:
        """The URL of a file of strokes, which no other job in this folder can mistake for its own."""
        return self.work_file(f"strokes-{self.token}-{name}")

    def read_strokes(self, take: Callable[[bytes], T], name: str, first: int = 0, size: int = -1) -> T:
        """What `take` makes of `size` bytes, from `first` on, of a file of strokes."""
        try:
            data = storage.read_bytes(self.strokes_file(name), first, None if size < 0 else first + size)
            with self.told_as_damaged(name):
                return take(data)
        except FileNotFoundError:
            self.check_owner()
            raise

    @contextlib.contextmanager
    def told_as_damaged(self, *names: str) -> Iterator[None]:
        """Makes a ValueError in the block, over the content of these files of strokes, one that names them."""
        try:
            yield
        except ValueError as error:
            files = ", ".join(map(self.strokes_file, names))
            raise DataError(f"{files} is damaged: {error}; run the same command again") from error

    def drawer(self) -> Drawer:
        """What makes this job's images."""
        settings = self.settings
        return Drawer(settings.shape, settings.line_width, settings.margin, settings.ink)


class Stage(beam.DoFn):
    """A stage of the job."""

    def __init__(self, job: PrepareJob) -> None:
        self._job = job


class Read(Stage):
    """A part of the input -> (class, file of its candidates); beside it, what was read and refused."""

    def process(self, part: InputPart) -> Iterator[Any]:
        """Reads one part. Its refused lines go to a file of their own: they may be many."""
        settings = self._job.settings
        drawer = self._job.drawer()
        smallest = Smallest(select.keep_of(settings.wanted), settings.seed, part.category, drawer)
        read = 0
        refused: dict[str, int] = {}
        filtered: dict[str, int] = {}
        lines: list[dict[str, Any]] = []
        first: dict[str, dict[str, Any]] = {}  # of each reason
        for item in sources.load(settings.source).read(InputPart(*part), settings):
            read += item.lost if isinstance(item, Refused) else 1
            if isinstance(item, Drawing):
                self._check(item, part)
                smallest.add_drawing(item)
            elif isinstance(item, Refused):
                refused[item.reason] = refused.get(item.reason, 0) + item.lost
                lines.append({"file": part.name, **item._asdict()})
                first.setdefault(item.reason, lines[-1])
            else:
                filtered[item.reason] = filtered.get(item.reason, 0) + 1
        report = {
            "name": part.name, "category": part.category, "bytes": part.size, "crc32c": sources.crc32c(part),
            "drawings": read, "filtered": filtered, "refused": refused, "first": first,
        }  # fmt: skip
        name = _file_name(part.name)
        if lines:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            storage.write_bytes(self._job.work_file(f"refused-{name}"), text.encode("utf-8", "replace"))
        storage.write_bytes(self._job.strokes_file(name), smallest.value().pack())
        storage.write_bytes(self._job.work_file(f"read-{name}.json"), json.dumps(report).encode())
        yield pvalue.TaggedOutput(_READ, json.dumps(report))
        yield part.category, name

    def _check(self, drawing: Drawing, part: InputPart) -> None:
        wanted, image = self._job.settings.shape, drawing.image
        if image is not None and (image.shape != wanted or image.dtype != np.uint8 or drawing.strokes):
            raise DataError(
                f"source {self._job.settings.source!r} gives {image.dtype}{list(image.shape)} from {part.name}, "
                f"and wanted is an image uint8{list(wanted)} without strokes; mend the source"
            )


def _file_name(part: str) -> str:
    return hashlib.blake2b(part.encode(), digest_size=12).hexdigest()


def _candidates(job: PrepareJob, category: str, names: Sequence[str]) -> tuple[select.Candidates, list[str]]:
    """The candidates of one class, out of the files of its parts, and why each is the same as one before it."""
    parts, drawer = [job.read_strokes(select.unpack, name) for name in names], job.drawer()
    with job.told_as_damaged(*names):
        found = select.merge(parts, job.settings.wanted, job.settings.seed, category, drawer)
        return found, select.reasons(found.rows, drawer)


class Claim(Stage):
    """(class, files of its parts) -> (bucket, (class, these files, its claims)): equal probes are in one bucket."""

    def process(self, element: tuple[str, Iterable[str]]) -> Iterator[tuple[int, Claims]]:
        """Looks at one class's candidates."""
        category, names = element[0], list(element[1])
        (_, rows), whys = _candidates(self._job, category, names)
        buckets: dict[int, list[bytes]] = {}
        for row, why in zip(rows, whys, strict=True):
            if not why:
                buckets.setdefault(row.probe[0] % _BUCKETS, []).append(select.claim(row))
        for bucket, claims in buckets.items():
            yield bucket, (category, names, b"".join(claims))


class Compare(Stage):
    """(bucket, claims of the classes) -> (class, beginning of the rank, why) of drawings that another class takes."""

    def process(self, element: tuple[int, Iterable[Claims]]) -> Iterator[tuple[str, bytes, str]]:
        """Draws the candidates that have the probe of a candidate of another class: few."""
        claims = list(element[1])
        names = {category: files for category, files, _ in claims}
        rows = {}
        for category, ranks in select.unclear({category: joined for category, _, joined in claims}).items():
            (_, found), _ = _candidates(self._job, category, names[category])
            rows[category] = [row for row in found if row.rank[: select.RANK_BYTES] in ranks]
        with self._job.told_as_damaged(*(name for category in rows for name in names[category])):
            yield from select.lost(rows, self._job.drawer())


class Deal(Stage):
    """(class, files of its parts) -> (shard, range of a file of strokes); beside them, the class's counts."""

    def start_bundle(self) -> None:
        """Holds nothing yet."""
        self._held: dict[ShardKey, list[Row]] = {}
        self._size = 0

    def process(self, element: tuple[str, Iterable[str]], lost: list[tuple[str, bytes, str]]) -> Iterator[Any]:
        """Deals one class's drawings out over the shards of each split, evenly."""
        category, names = element[0], list(element[1])
        settings = self._job.settings
        (full, rows), whys = _candidates(self._job, category, names)
        elsewhere = {rank: why for loser, rank, why in sorted(lost, reverse=True) if loser == category}
        whys = [why or elsewhere.get(row.rank[: select.RANK_BYTES], "") for row, why in zip(rows, whys, strict=True)]
        mine = [number for number, why in enumerate(whys) if not why]
        dealt = select.deal(mine, settings.per_class)
        label = self._job.classes.index(category)
        for split, numbers in dealt.items():
            shards = self._job.shards[split]
            spread = min(shards, SPREAD)
            for place in range(min(spread, len(numbers))):
                # Each class begins elsewhere, so the shards become about equally large.
                held = self._held.setdefault((split, (label * (spread + 1) + place) % shards), [])
                for row in (rows[number] for number in numbers[place::spread]):
                    held.append((row.rank, label, row.key, row.strokes, row.pixels))
                    self._size += len(row.strokes) + len(row.pixels)
        counts = {
            "category": category,
            "available": len(mine),
            "more": full,
            "taken": {split: len(numbers) for split, numbers in dealt.items()},
            # Where there are more than are taken, those behind the last one were not in question.
            "duplicates": select.count(rows, whys, mine[settings.wanted - 1] if len(mine) > settings.wanted else -1),
        }
        yield pvalue.TaggedOutput(_COUNTS, json.dumps(counts))
        if self._size > HELD:
            yield from self._write()

    def finish_bundle(self) -> Iterator[Any]:
        """Writes what is held."""
        yield from map(GlobalWindows.windowed_value, self._write())

    def _write(self) -> list[tuple[ShardKey, ByteRange]]:
        name = secrets.token_hex(12)
        pieces, at = [], 0
        held, self._held, self._size = self._held, {}, 0
        with storage.writing(self._job.strokes_file(name)) as file:
            for (split, shard), rows in held.items():
                data = columns.pack(dict(zip(_ROW, zip(*rows, strict=True), strict=True)))
                file.write(data)
                pieces.append(((split, shard), (name, at, len(data))))
                at += len(data)
        return pieces


class Write(Stage):
    """((split, shard), where its drawings stand) -> one shard file and its description."""

    def process(self, element: tuple[ShardKey, Iterable[ByteRange]], problem: str) -> Iterator[str]:
        """Draws and writes one shard, unless the job has failed already."""
        if problem:
            return
        self._job.check_owner()
        (split, shard), places = element[0], list(element[1])
        rows = sorted(row for place in places for row in self._rows(place))
        settings = self._job.settings
        drawer = self._job.drawer()
        writer = ShardWriter(settings.output, Layout(*settings.shape, settings.encoding, self._job.classes))
        columns = (list(zip(*rows[at : at + BATCH], strict=True)) for at in range(0, len(rows), BATCH))
        drawn = (
            (Drawings(labels, keys, strokes), drawer.images(strokes, pixels))
            for _, labels, keys, strokes, pixels in columns
        )
        with self._job.told_as_damaged(*sorted({name for name, _, size in places if size})):
            written, per_class = writer.write(split, shard, self._job.shards[split], drawn)
        if settings.metrics_port:
            report = json.dumps({"records": written.records}).encode()
            storage.write_bytes(self._job.work_file(f"{SHARD}-{split}-{shard}.json"), report)
        yield json.dumps({"split": split, "shard": written.__dict__, "per_class": per_class})

    def _rows(self, place: ByteRange) -> Iterator[Row]:
        name, first, size = place
        return iter(self._job.read_strokes(self._unpacked, name, first, size) if size else ())

    def _unpacked(self, data: bytes) -> list[Row]:
        found = columns.unpack(data, _ROW)
        if not set(found["labels"]) <= set(range(len(self._job.classes))):
            raise ValueError("a label is none of the classes")
        return list(zip(*found.values(), strict=True))


def problem_of(reads: Iterable[str], counts: Iterable[str], job: PrepareJob) -> str:
    """Why the data set must not be made, as JSON with `message`; "" where all is well."""
    settings = job.settings
    parts = [json.loads(read) for read in reads]
    total = sum(part["drawings"] for part in parts)
    refused = _sums(part["refused"] for part in parts)
    bad = sum(refused.values())
    classes = sorted((json.loads(count) for count in counts), key=lambda count: (count["available"], count["category"]))
    least: int = 0 if len(classes) < len(job.classes) else classes[0]["available"]
    few = ""
    if least < settings.wanted and not _enough_for_fewer(least, settings):
        few = _too_few(classes, parts, job)
    if bad > settings.max_refused * total:
        few = f"; without them, {few}" if few else f", or take the others with --max-refused {_share(bad, total)}"
        return json.dumps({"message": f"{_bad(refused, total, parts, job)}; mend the input{few}"})
    return json.dumps({"message": few}) if few else ""


def _bad(refused: dict[str, int], total: int, parts: Sequence[Any], job: PrepareJob) -> str:
    """What is bad, most of all, with an example."""
    reason = max(sorted(refused), key=lambda name: refused[name])
    worst = max(
        (part for part in parts if reason in part["first"]), key=lambda part: (part["refused"][reason], part["name"])
    )
    example = worst["first"][reason]
    return (
        f"{sum(refused.values())} of {total} drawings are bad, more than prepare.max_refused = "
        f"{job.settings.max_refused} allows ({_reasons(refused)}): in {worst['name']}, line {example['line']}, "
        f"{reason}: {example['what']} (all are in {storage.join(job.settings.output, REFUSED)})"
    )


def _share(bad: int, total: int) -> float:
    """The share, rounded up to something short."""
    return min(1.0, math.ceil(bad / total * 1000) / 1000)


def _sums(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _reasons(refused: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items()))


def _enough_for_fewer(available: int, settings: Settings) -> bool:
    """With --allow-fewer, a class still needs a drawing to train on."""
    return settings.allow_fewer and available > settings.wanted - settings.train_per_class


def _too_few(classes: list[dict[str, Any]], parts: Sequence[Any], job: PrepareJob) -> str:
    settings = job.settings
    there = {count["category"] for count in classes}
    none: dict[str, Any] = {"available": 0, "more": False, "duplicates": {}}
    missing = [{**none, "category": name} for name in job.classes if name not in there]
    short = [count for count in missing + classes if count["available"] < settings.wanted]
    first = short[0]
    others = f" (and {len(short) - 1} more categories are short)" if len(short) > 1 else ""
    same = ", ".join(f"{count} more are the same by {why}" for why, count in first["duplicates"].items() if count)
    message = (
        f"category {first['category']!r} has {first['available']} different drawings{same and f' ({same})'}, "
        f"{settings.wanted} are wanted{others}"
    )
    mine = [part for part in parts if part["category"] == first["category"]]
    left_out = _sums(each for part in mine for each in (part["filtered"], part["refused"]))
    if left_out:
        message += f", and left out are {_reasons(left_out)}"
    train = first["available"] - (settings.wanted - settings.train_per_class)
    if first["more"]:
        return (
            f"{message}: too many of its drawings are the same, or are in other categories too; "
            "leave one of these out with --classes, or take fewer"
        )
    if train > 0:
        return f"{message}; use --train-per-class {train}, or --allow-fewer to take what there is"
    if not first["available"]:
        return f"{message}; mend its files, or leave it out with --classes"
    return f"{message}; leave it out with --classes, or lower --test-per-class and --validation-per-class"


class Commit(Stage):
    """Everything that is known at the end -> `refused.jsonl` and, last, `dataset.json`; or why there is none."""

    def process(self, _: None, shards: list[str], reads: list[str], counts: list[str], problem: str) -> Iterator[str]:
        """Writes the last files of the data set."""
        self._job.check_owner()
        parts = sorted((json.loads(read) for read in reads), key=lambda part: part["name"])
        output = self._job.settings.output
        with storage.writing(storage.join(output, REFUSED)) as file:
            for part in parts:
                if part["refused"]:
                    file.write(storage.read_bytes(self._job.work_file(f"refused-{_file_name(part['name'])}")))
        if problem:
            storage.write_bytes(self._job.work_file(PROBLEM), problem.encode())
            return
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


def _manifest(job: PrepareJob, shards: list[Any], parts: list[Any], counts: list[Any]) -> Manifest:
    settings = job.settings
    splits = {}
    for split in SPLITS:
        mine = sorted((entry for entry in shards if entry["split"] == split), key=lambda entry: entry["shard"]["name"])
        per_class = [sum(column) for column in zip(*(entry["per_class"] for entry in mine), strict=True)]
        splits[split] = SplitInfo(per_class or [0] * len(job.classes), [Shard(**entry["shard"]) for entry in mine])
    refused = _sums(part["refused"] for part in parts)
    digests = {split: [shard.digest for shard in info.shards] for split, info in splits.items()}
    short = {count["category"]: count["available"] for count in counts if count["available"] < settings.wanted}
    return Manifest(
        digest=content_digest(settings.shape, job.classes, digests),
        seed=settings.seed,
        options=settings.content_options(),
        height=settings.shape[0],
        width=settings.shape[1],
        channels=settings.channels,
        encoding=settings.encoding,
        classes=list(job.classes),
        splits=splits,
        drawings=sum(part["drawings"] for part in parts),
        duplicates={why: sum(count["duplicates"][why] for count in counts) for why in select.WHY},
        refused=dict(sorted(refused.items())),
        short=dict(sorted(short.items())),
        sources=[SourceFile(part["name"], part["bytes"], part["drawings"], part["crc32c"]) for part in parts],
        boceto=__version__,
        filtered=sum(sum(part["filtered"].values()) for part in parts),
    )


def build(pipeline: beam.Pipeline, job: PrepareJob, parts: Iterable[InputPart]) -> None:
    """Adds the whole job to `pipeline`."""
    read = (
        pipeline
        | "Parts" >> beam.Create([tuple(part) for part in parts])
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.Map(lambda fields: InputPart(*fields))
        | "Select" >> beam.ParDo(Read(job)).with_outputs(_READ, main="candidates")
    )
    by_class = read.candidates | "ByClass" >> beam.GroupByKey()
    lost = (
        by_class
        | "Claim" >> beam.ParDo(Claim(job))
        | "ByClaim" >> beam.GroupByKey()
        | "Compare" >> beam.ParDo(Compare(job))
    )
    dealt = by_class | "Deal" >> beam.ParDo(Deal(job), pvalue.AsList(lost)).with_outputs(_COUNTS, main="pieces")
    once = pipeline | "Once" >> beam.Create([None])
    reads, counts = pvalue.AsList(read[_READ]), pvalue.AsList(dealt[_COUNTS])
    problem = pvalue.AsSingleton(
        once | "Verdict" >> beam.Map(lambda _, reads, counts: problem_of(reads, counts, job), reads, counts)
    )
    empty = [((split, shard), ("", 0, 0)) for split, count in job.shards.items() for shard in range(count)]
    written = (
        (dealt.pieces, pipeline | "Shards" >> beam.Create(empty))
        | "All" >> beam.Flatten()
        | "ByShard" >> beam.GroupByKey()
        | "Write" >> beam.ParDo(Write(job), problem)
    )
    once | "Commit" >> beam.ParDo(Commit(job), pvalue.AsList(written), reads, counts, problem)
