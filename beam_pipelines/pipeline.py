"""The Beam job: parts -> candidates of a class -> drawings of a shard -> shards -> `dataset.json`.

    parts ─ Read ─▶ (class, file) ─ group, Claim, Compare ─▶ Deal ─▶ (shard, range of a file) ─ Write ─▶ Commit
              └─ what was read and refused ──────────────────┴─ counts ─▶ verdict ─────┘

The strokes (some 100 bytes a drawing), or the deflated pixels of drawings without strokes, pass from stage to stage in
files of the output's work folder; the runner carries their names, and what must not be the same in two classes. Nothing
is shared between workers but that folder. A stage that runs twice writes the same file again, or one of another name.
"""

import hashlib
import itertools
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindows

from beam_pipelines import columns, select, sources
from beam_pipelines.drawer import BATCH, Drawer
from beam_pipelines.select import Candidate, Candidates, Smallest
from beam_pipelines.settings import Settings
from beam_pipelines.shards import Drawings, write_shard
from beam_pipelines.sources import Drawing, InputPart, Refused
from beam_pipelines.verdict import REFUSED, problem_of, total
from boceto import __version__, storage
from boceto.dataset import MANIFEST, SPLITS, Manifest, SourceFile, SplitInfo, content_digest, shard_name
from boceto.errors import DataError
from boceto.records import Layout

WORK = "_work"
PROBLEM = "problem.txt"
OWNER = "owner.json"
SHARD = "shard"
MOST_SHARDS = 4096
# Each class is spread over this many shards at most: the pieces grow with the classes, not with their product.
SPREAD = 32
# Strokes that a worker holds before it writes them to a file of all shards, bytes.
HELD = 64 << 20
_BUCKETS = 16
_READ, _COUNTS, _SIZES = "read", "counts", "sizes"
_ROWS = pa.schema(
    {"rank": pa.binary(), "label": pa.int64(), "key": pa.string(), "strokes": pa.binary(), "pixels": pa.binary()}
)

ShardKey = tuple[str, int]  # split and number
Row = tuple[bytes, int, str, bytes, bytes]  # as _ROWS
ByteRange = tuple[str, int, int]  # file of strokes, first byte, end
ClassFile = tuple[str, bool]  # name, and whether the part has more candidates than the file
Claims = tuple[str, list[ClassFile], bytes]  # class, its files, `select.claim` of its candidates, joined


@dataclass(frozen=True)
class PrepareJob:
    """The settings, the classes in order, and a token that no other job has. Every stage holds it."""

    settings: Settings
    classes: tuple[str, ...]
    token: str = ""

    def shards(self, sizes: Iterable[Mapping[str, int]]) -> dict[str, int]:
        """The number of shards by split, from `select.sizes` of each class."""
        counts = total(sizes)
        return {split: min(MOST_SHARDS, -(-counts[split] // self.settings.records_per_shard)) for split in SPLITS}

    def check_owner(self) -> None:
        """Raises DataError where another job has begun to write into this folder."""
        try:
            owner = json.loads(storage.read_bytes(self.work_file(OWNER)))
        except FileNotFoundError:
            owner = {}
        if owner.get("token") != self.token:
            raise DataError(f"{self.settings.output} was taken over by another job; run this one with another --output")

    def work_file(self, name: str) -> str:
        """Returns the URL of a file that exists only while the data set is unfinished."""
        return storage.join(self.settings.output, WORK, name)

    def strokes_file(self, name: str) -> str:
        """Returns the URL of a file of strokes. The token in it keeps other jobs in this folder from reading it."""
        return self.work_file(f"strokes-{self.token}-{name}")

    def read_rows(self, schema: pa.Schema, name: str, start: int = 0, end: int | None = None) -> list[tuple[Any, ...]]:
        """Returns the rows in the bytes from `start` to `end` of a file of strokes.

        Raises:
            DataError: the file is damaged, or another job has taken the folder over.
        """
        path = self.strokes_file(name)
        try:
            return columns.unpack(storage.read_bytes(path, start, end), schema)
        except FileNotFoundError:
            self.check_owner()
            raise
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}; run the same command again") from error

    def candidates(self, category: str, files: Iterable[ClassFile]) -> tuple[Candidates, list[str]]:
        """Returns the candidates of a class, and for each why it is left out ("" if it is not).

        Raises:
            DataError: a file of its parts is damaged, or another job has taken the folder over.
        """
        parts = [
            Candidates(full, [Candidate(*row) for row in self.read_rows(select.SCHEMA, name)]) for name, full in files
        ]
        drawer = self.drawer()
        found = select.merge(parts, select.keep_of(self.settings), self.settings.seed, category, drawer)
        return found, select.reasons(found.rows, drawer)

    def drawer(self) -> Drawer:
        """Returns what makes this job's images."""
        settings = self.settings
        return Drawer(settings.shape, settings.line_width, settings.margin, settings.ink)


class Stage(beam.DoFn):
    """A stage of the job."""

    def __init__(self, job: PrepareJob) -> None:
        self._job = job


class Read(Stage):
    """The fields of a part of the input -> (class, file of its candidates); beside it, what was read and refused."""

    def process(self, fields: tuple[Any, ...]) -> Iterator[Any]:
        """Reads one part. Its refused lines go to a file of their own: they may be many."""
        part, job, settings = InputPart(*fields), self._job, self._job.settings
        smallest = Smallest(select.keep_of(settings), settings.seed, part.category, job.drawer())
        read = 0
        refused: Counter[str] = Counter()
        filtered: Counter[str] = Counter()
        lines: list[dict[str, Any]] = []
        found = sources.load(settings.source).read(part, settings)
        for item in itertools.chain(itertools.starmap(Refused, part.refused), found):
            read += item.lost if isinstance(item, Refused) else 1
            if isinstance(item, Drawing):
                self._check(item, part)
                smallest.add_drawing(item)
            elif isinstance(item, Refused):
                refused[item.reason] += item.lost
                line = item._asdict()
                lines.append({"file": line.pop("file") or part.name, **line})
            else:
                filtered[item.reason] += 1
        report = {
            "name": part.name, "category": part.category, "bytes": part.size, "crc32c": sources.crc32c(part),
            "drawings": read, "filtered": dict(filtered), "refused": dict(refused),
            "first": {line["reason"]: line for line in reversed(lines)},
        }  # fmt: skip
        name = _file_name(part.name)
        if lines:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            storage.write_bytes(job.work_file(f"refused-{name}"), text.encode("utf-8", "replace"))
        full, rows = smallest.value()
        storage.write_bytes(job.strokes_file(name), columns.pack(rows, select.SCHEMA))
        storage.write_bytes(job.work_file(f"read-{name}.json"), json.dumps(report).encode())
        yield pvalue.TaggedOutput(_READ, report)
        yield part.category, (name, full)

    def _check(self, drawing: Drawing, part: InputPart) -> None:
        wanted, image = self._job.settings.shape, drawing.image
        if drawing.split not in select.ORDER:
            raise DataError(
                f"source {self._job.settings.source!r} gives the split {drawing.split!r} in {part.name}, "
                f"and the splits are {', '.join(SPLITS)}; mend the source"
            )
        if image is not None and (image.shape != wanted or image.dtype != np.uint8 or drawing.strokes):
            raise DataError(
                f"source {self._job.settings.source!r} gives {image.dtype}{list(image.shape)} from {part.name}, "
                f"and wanted is an image uint8{list(wanted)} without strokes; mend the source"
            )


def _file_name(part: str) -> str:
    return hashlib.blake2b(part.encode(), digest_size=12).hexdigest()


class Claim(Stage):
    """(class, its files) -> (bucket, its claims): equal probes are in one bucket; beside them, the class's sizes."""

    def process(self, element: tuple[str, Iterable[ClassFile]]) -> Iterator[Any]:
        """Looks at one class's candidates."""
        category, files = element[0], list(element[1])
        (_, rows), whys = self._job.candidates(category, files)
        buckets: dict[int, list[bytes]] = {}
        for row, why in zip(rows, whys, strict=True):
            if not why:
                buckets.setdefault(row.probe[0] % _BUCKETS, []).append(select.claim(row))
        different = [row for row, why in zip(rows, whys, strict=True) if not why]
        yield pvalue.TaggedOutput(_SIZES, select.sizes(different, self._job.settings))
        for bucket, claims in buckets.items():
            yield bucket, (category, files, b"".join(claims))


class Compare(Stage):
    """(bucket, claims of the classes) -> (class, beginning of the rank, why) of drawings that another class takes."""

    def process(self, element: tuple[int, Iterable[Claims]]) -> Iterator[tuple[str, bytes, str]]:
        """Draws the candidates that have the probe of a candidate of another class: few."""
        claims = list(element[1])
        unclear = select.unclear({category: joined for category, _, joined in claims})
        rows = {}
        for category, files, _ in claims:
            if ranks := unclear.get(category):
                (_, found), _ = self._job.candidates(category, files)
                rows[category] = [row for row in found if row.rank[: select.RANK_BYTES] in ranks]
        yield from select.lost(rows, self._job.drawer())


class Deal(Stage):
    """(class, its files) -> (shard, range of a file of strokes); beside them, the class's counts."""

    def start_bundle(self) -> None:
        """Holds nothing yet."""
        self._held: dict[ShardKey, list[Row]] = {}
        self._size = 0

    def process(
        self, element: tuple[str, Iterable[ClassFile]], lost: list[tuple[str, bytes, str]], shards: Mapping[str, int]
    ) -> Iterator[Any]:
        """Deals one class's drawings out over the shards of each split, evenly."""
        category, settings = element[0], self._job.settings
        (full, rows), whys = self._job.candidates(*element)
        elsewhere = {rank: why for loser, rank, why in sorted(lost, reverse=True) if loser == category}
        whys = [why or elsewhere.get(row.rank[: select.RANK_BYTES], "") for row, why in zip(rows, whys, strict=True)]
        mine = [number for number, why in enumerate(whys) if not why]
        dealt = select.deal([rows[number] for number in mine], settings)
        for split, drawings in dealt.items():
            self._hold(shards[split], split, self._job.classes.index(category), drawings)
        taken = sum(map(len, dealt.values()))
        is_divided = bool(mine) and rows[mine[-1]].split != ""
        yield pvalue.TaggedOutput(_COUNTS, {
            "category": category,
            # Of drawings that the source has divided, one must be for training.
            "available": len(dealt["train"]) if is_divided else len(mine),
            "wanted": 1 if is_divided else settings.wanted,
            "divided": is_divided,
            "more": full,
            # Where there are more than are taken, those behind the last one were not in question.
            "duplicates": select.count(rows, whys, mine[taken - 1] if len(mine) > taken else -1),
        })  # fmt: skip
        if self._size > HELD:
            yield from self._write()

    def _hold(self, shards: int, split: str, label: int, rows: list[Candidate]) -> None:
        spread = min(shards, SPREAD)
        for number, row in enumerate(rows):
            # Each class begins elsewhere, so the shards become about equally large.
            shard = (label * (spread + 1) + number % spread) % shards
            self._held.setdefault((split, shard), []).append((row.rank, label, row.key, row.strokes, row.pixels))
            self._size += len(row.strokes) + len(row.pixels)

    def finish_bundle(self) -> Iterator[Any]:
        """Writes what is held."""
        yield from map(GlobalWindows.windowed_value, self._write())

    def _write(self) -> list[tuple[ShardKey, ByteRange]]:
        name, ranges, start = secrets.token_hex(12), [], 0
        held, self._held, self._size = self._held, {}, 0
        with storage.writing(self._job.strokes_file(name)) as file:
            for shard, rows in held.items():
                end = start + file.write(columns.pack(rows, _ROWS))
                ranges.append((shard, (name, start, end)))
                start = end
        return ranges


class Write(Stage):
    """((split, shard), where its drawings stand) -> one shard file and its description."""

    def process(
        self, element: tuple[ShardKey, Iterable[ByteRange]], problem: str, shards: Mapping[str, int]
    ) -> Iterator[dict[str, Any]]:
        """Draws and writes one shard, unless the job has failed already."""
        if problem:
            return
        job, settings = self._job, self._job.settings
        job.check_owner()
        (split, shard), ranges = element
        rows = sorted(row for name, start, end in ranges if end for row in job.read_rows(_ROWS, name, start, end))
        drawer = job.drawer()
        batches = (tuple(zip(*rows[at : at + BATCH], strict=True)) for at in range(0, len(rows), BATCH))
        drawn = (
            (Drawings(labels, keys, strokes), drawer.images(strokes, pixels))
            for _, labels, keys, strokes, pixels in batches
        )
        layout = Layout(*settings.shape, settings.encoding, job.classes)
        name = shard_name(split, shard, shards[split])
        written, per_class = write_shard(settings.output, name, layout, drawn)
        if settings.metrics_port:
            report = json.dumps({"records": written.records}).encode()
            storage.write_bytes(job.work_file(f"{SHARD}-{split}-{shard}.json"), report)
        yield {"split": split, "shard": written, "per_class": per_class}


class Commit(Stage):
    """Everything that is known at the end -> `refused.jsonl` and, last, `dataset.json`; or why there is none."""

    def process(self, _: None, shards: list[Any], reads: list[Any], counts: list[Any], problem: str) -> Iterator[str]:
        """Writes the last files of the data set."""
        job = self._job
        job.check_owner()
        reads = sorted(reads, key=lambda read: read["name"])
        with storage.writing(storage.join(job.settings.output, REFUSED)) as file:
            for read in reads:
                if read["refused"]:
                    file.write(storage.read_bytes(job.work_file(f"refused-{_file_name(read['name'])}")))
        if problem:
            storage.write_bytes(job.work_file(PROBLEM), problem.encode())
            return
        manifest = _manifest(job, shards, reads, counts)
        path = storage.join(job.settings.output, MANIFEST)
        try:
            storage.create_bytes(path, manifest.to_json())
        except FileExistsError:
            # A runner may do this stage again though it had been done; of two jobs, one finishes.
            if storage.read_bytes(path) != manifest.to_json():
                raise DataError(
                    f"another job has finished a data set in {job.settings.output} meanwhile; "
                    "run this one with another --output"
                ) from None
        yield manifest.digest


def _manifest(job: PrepareJob, shards: list[Any], reads: list[Any], counts: list[Any]) -> Manifest:
    settings = job.settings
    splits = {}
    for split in SPLITS:
        mine = sorted((entry for entry in shards if entry["split"] == split), key=lambda entry: entry["shard"].name)
        per_class = np.sum([entry["per_class"] for entry in mine] or [[0] * len(job.classes)], axis=0).tolist()
        splits[split] = SplitInfo(per_class, [entry["shard"] for entry in mine])
    short = {count["category"]: count["available"] for count in counts if count["available"] < count["wanted"]}
    digests = {split: [shard.digest for shard in info.shards] for split, info in splits.items()}
    height, width, channels = settings.shape
    return Manifest(
        digest=content_digest(settings.shape, job.classes, digests),
        seed=settings.seed,
        options=settings.content_options(),
        height=height,
        width=width,
        channels=channels,
        encoding=settings.encoding,
        classes=list(job.classes),
        splits=splits,
        drawings=sum(read["drawings"] for read in reads),
        duplicates={why: sum(count["duplicates"][why] for count in counts) for why in select.WHY},
        refused=dict(sorted(total(read["refused"] for read in reads).items())),
        short=dict(sorted(short.items())),
        sources=[SourceFile(read["name"], read["bytes"], read["drawings"], read["crc32c"]) for read in reads],
        boceto=__version__,
        filtered=total(read["filtered"] for read in reads).total(),
    )


def _empty(shards: Mapping[str, int]) -> list[tuple[ShardKey, ByteRange]]:
    """Nothing for each shard, so that a shard without drawings is written too."""
    return [((split, shard), ("", 0, 0)) for split, count in shards.items() for shard in range(count)]


def build(pipeline: beam.Pipeline, job: PrepareJob, parts: Iterable[InputPart]) -> None:
    """Adds the whole job to `pipeline`."""
    read = (
        pipeline
        | "Parts" >> beam.Create([tuple(part) for part in parts])
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(Read(job)).with_outputs(_READ, main="files")
    )
    by_class = read.files | "ByClass" >> beam.GroupByKey()
    claimed = by_class | "Claim" >> beam.ParDo(Claim(job)).with_outputs(_SIZES, main="claims")
    lost = claimed.claims | "ByProbe" >> beam.GroupByKey() | "Compare" >> beam.ParDo(Compare(job))
    once = pipeline | "Once" >> beam.Create([None])
    counted = once | "Count" >> beam.Map(lambda _, sizes: job.shards(sizes), pvalue.AsList(claimed[_SIZES]))
    shards = pvalue.AsSingleton(counted)
    deal = beam.ParDo(Deal(job), pvalue.AsList(lost), shards).with_outputs(_COUNTS, main="ranges")
    dealt = by_class | "Deal" >> deal
    reads, counts = pvalue.AsList(read[_READ]), pvalue.AsList(dealt[_COUNTS])
    verdict = beam.Map(lambda _, reads, counts: problem_of(reads, counts, job.settings), reads, counts)
    problem = pvalue.AsSingleton(once | "Verdict" >> verdict)
    written = (
        (dealt.ranges, counted | "Shards" >> beam.FlatMap(_empty))
        | "All" >> beam.Flatten()
        | "ByShard" >> beam.GroupByKey()
        | "Write" >> beam.ParDo(Write(job), problem, shards)
    )
    once | "Commit" >> beam.ParDo(Commit(job), pvalue.AsList(written), reads, counts, problem)
