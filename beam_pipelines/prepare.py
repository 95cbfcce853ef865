"""`boceto prepare`: plans the job, runs it on a Beam runner, shows how far it is, and says what came of it."""

import contextlib
import errno
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import apache_beam as beam

from beam_pipelines import select, sources
from beam_pipelines.pipeline import OWNER, PROBLEM, WORK, PrepareJob, build
from beam_pipelines.preview import PREVIEW, draw_preview
from beam_pipelines.progress import watching
from beam_pipelines.settings import Settings
from beam_pipelines.verdict import REFUSED
from boceto import contract, dataset, lease, storage, strokes
from boceto.console import Console, clock_time
from boceto.dataset import MANIFEST, SHARD_NAME
from boceto.errors import DataError, SettingsError, Stopped
from boceto.exposition import serving
from boceto.telemetry import Telemetry

DIRECT = "DirectRunner"
SHOWN = 3
# Reasons to refuse a file, not a drawing.
BROKEN = frozenset({"truncated_file", "damaged_file", "trailing_bytes"})


def prepare(settings: Settings, beam_options: Sequence[str], console: Console) -> Mapping[str, Any]:
    """Makes the data set of `settings`, and returns what it holds.

    Raises:
        SettingsError: settings that cannot be carried out; the folder is as it was.
        DataError: too many bad drawings, or too few good ones; there is no `dataset.json`.
    """
    # Refuses what cannot be drawn, and compiles the kernels once for all workers.
    PrepareJob(settings, ()).drawer().images([strokes.pack([[[0], [0]]])], [b""])
    storage.check_lasting(settings.output, "prepare.output")
    parts, job = _plan(settings)
    there = _finished(job, parts)
    if there is not None:
        console.line(f"{settings.output} holds this data set already; --overwrite makes it anew")
        _tidy(settings, console)
        return _summary(settings, there, console)
    storage.check_writable(settings.output, "prepare.output")
    _warn_of_names(parts, console)
    _take(job)
    is_all = not settings.train_per_class or all(part.split for part in parts)
    each = "" if is_all else f" x {settings.wanted} drawings"
    console.line(f"preparing {len(job.classes)} classes{each} out of {len(parts)} parts of input")
    started = time.monotonic()
    with serving("prepare", settings.metrics_port, settings.metrics_linger) as telemetry:
        _run(job, parts, beam_options, console, telemetry)
        if storage.exists(problem := job.work_file(PROBLEM)):
            raise DataError(storage.read_bytes(problem).decode())
        manifest = dataset.load(settings.output).manifest
        _tidy(settings, console)
        console.line(f"done in {clock_time(time.monotonic() - started)}")
        return _summary(settings, manifest, console)


def _warn_of_names(parts: Sequence[sources.InputPart], console: Console) -> None:
    """Warns of files whose name says another category than their lines."""
    odd = [f"{part.name} ({part.named!r}) has drawings of {part.category!r}" for part in parts if part.named]
    if odd:
        more = f", and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        console.warning(f"the words in the lines count, not the files' names: {', '.join(odd[:SHOWN])}{more}")


def _warn_of_damage(settings: Settings, manifest: dataset.Manifest, console: Console) -> None:
    """Warns of each file that is damaged or cut off."""
    if not BROKEN & set(manifest.refused):
        return
    with storage.open_file(storage.join(settings.output, REFUSED)) as file:
        for line in map(json.loads, file):
            if line["reason"] in BROKEN:
                console.warning(f"{line['file']} from line {line['line']} on: {line['reason']}: {line['what']}")


def _tidy(settings: Settings, console: Console) -> None:
    """Removes the work folder and draws the preview, as an earlier job may have been stopped before that."""
    storage.delete_folder(storage.join(settings.output, WORK))
    if settings.preview and not storage.exists(storage.join(settings.output, PREVIEW)):
        try:
            draw_preview(settings.output)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - the data set is finished without a preview
            console.warning(f"{PREVIEW} cannot be drawn: {error}")


def _finished(job: PrepareJob, parts: Sequence[sources.InputPart]) -> dataset.Manifest | None:
    """Returns the finished data set in the folder if the same input and settings made it, and None if there is none."""
    settings = job.settings
    if settings.overwrite or not storage.exists(storage.join(settings.output, MANIFEST)):
        return None
    manifest = dataset.load(settings.output).manifest
    # A setting that is younger than the data set had its default.
    was = {**Settings(settings.output).content_options(), **manifest.options, "classes": manifest.classes}
    was |= dict(zip(("height", "width", "channels"), manifest.shape, strict=True))
    now = {**settings.content_options(), "classes": list(job.classes)}
    was["input"] = [[source.name, source.bytes] for source in manifest.sources]
    now["input"] = [[part.name, part.size] for part in parts]
    for name in sorted(name for name, value in now.items() if was[name] != value):
        told = "" if isinstance(now[name], list) else f" = {was[name]!r}, not {now[name]!r}"
        raise SettingsError(
            f"{settings.output} holds a finished data set with other prepare.{name}{told}; "
            "give another --output, or --overwrite to replace it"
        )
    for part, source in zip(parts, manifest.sources, strict=True):  # The time of a file tells less than its bytes.
        if sources.crc32c(part) != source.crc32c:
            raise SettingsError(
                f"{settings.output} holds a finished data set of another {part.name}: the file was changed since, "
                "though its size is the same; give another --output, or --overwrite to replace it"
            )
    sizes = {storage.relative(entry.url, settings.output): entry.size for entry in storage.list_files(settings.output)}
    for file in (file for split in manifest.splits.values() for shard in split.shards for file in shard.files):
        if sizes.get(file.name) != file.size:
            raise DataError(f"{settings.output}: {file.name} is missing or damaged; {dataset.AGAIN}")
    return manifest


def _plan(settings: Settings) -> tuple[list[sources.InputPart], PrepareJob]:
    parts = sources.load(settings.source).plan(settings)
    classes = select.choose_categories(settings, sorted({part.category for part in parts}))
    job = PrepareJob(settings, tuple(classes), secrets.token_hex(8))
    return [part for part in parts if part.category in classes], job


def _take(job: PrepareJob) -> None:
    """Makes the folder this job's own and empties it: the manifest goes first; files of other origin stay.

    Raises:
        SettingsError: a job that still runs on this machine is writing there, or Boceto did not make what is there.
    """
    output, path = job.settings.output, job.work_file(OWNER)
    _check_folders(output)
    _check_ours(output)
    process = os.getpid()
    owner = {"token": job.token, "process": process, "machine": lease.machine(), "begun": lease.begun(process)}
    me = json.dumps(owner).encode()
    try:
        try:
            storage.create_bytes(path, me)
        except FileExistsError:
            before, version = storage.read_versioned(path)
            _check_idle(before, output)
            storage.replace_bytes(path, me, version)
    except (FileNotFoundError, storage.Changed) as error:
        raise SettingsError(
            f"prepare.output = {output} is being taken by another job at this moment; "
            "wait for it, or give another folder"
        ) from error
    storage.delete(storage.join(output, MANIFEST))
    for name in _made(output):
        if name != f"{WORK}/{OWNER}":
            storage.delete(storage.join(output, name))


def _check_folders(output: str) -> None:
    """Checks that no folder is in the place of a data set's file, and no file in the place of the work folder."""
    if not storage.is_local(output):
        return
    for path in sorted(storage.local_folder(output).iterdir()):
        is_file = path.name in {MANIFEST, REFUSED, PREVIEW} or SHARD_NAME.fullmatch(path.name)
        if path.is_dir() if is_file else path.name == WORK and not path.is_dir():
            wrong, right = ("folder", "file") if is_file else ("file", "folder")
            raise SettingsError(
                f"prepare.output = {output} holds a {wrong} {path.name}, where the {right} of this name belongs; "
                "remove it, or give another folder"
            )


def _check_ours(output: str) -> None:
    """Checks that Boceto made the files that `_take` removes: a job's `owner.json` or a manifest says so."""
    found = _made(output)
    if not found or f"{WORK}/{OWNER}" in found:
        return
    try:
        ours = contract.decode(storage.read_bytes(storage.join(output, MANIFEST))).get("format") == dataset.FORMAT
    except FileNotFoundError:
        ours = False
    except ValueError:
        ours = True  # A damaged one.
    if not ours:
        raise SettingsError(
            f"prepare.output = {output} holds {found[0]}, and nothing says that Boceto made it; give another folder"
        )


def _check_idle(text: bytes, output: str) -> None:
    """Refuses to take the folder from a job that runs on this machine. A job on another machine cannot be seen: there,
    the later job wins, and the earlier job ends at its next shard.
    """
    try:
        owner = contract.decode(text)
        process, begun = contract.field(owner, "process", int), contract.field(owner, "begun", str)
    except ValueError:  # No job wrote it.
        return
    is_other = process != os.getpid() and owner.get("machine") == lease.machine()
    if is_other and begun and lease.begun(process) == begun:
        raise SettingsError(
            f"prepare.output = {output} is being written by process {process}, says {WORK}/{OWNER} there; "
            "wait for it, or give another folder"
        )


def _made(output: str) -> list[str]:
    """Returns the names of the files in the folder that belong to a data set or to a job's work."""
    names = [storage.relative(entry.url, output) for entry in storage.list_files(output)]
    return [
        name
        for name in names
        if ((shard := SHARD_NAME.match(name)) and (shard[0] == name or name.endswith(".partial")))
        or (name.startswith(f"{MANIFEST}.") and name.endswith(".partial"))
        or name.startswith(f"{WORK}/")
        or name in {MANIFEST, REFUSED, PREVIEW}
    ]


def _run(
    job: PrepareJob, parts: Sequence[sources.InputPart], options: Sequence[str], console: Console, telemetry: Telemetry
) -> None:
    """Runs the job on the runner of the settings."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import ExternalEnvironment

    settings = job.settings
    workers = settings.workers or os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        # Beam's own DirectRunner first tries to download another runner; this is the one that it falls back to.
        if settings.runner != DIRECT:
            runner, words = None, [f"--runner={settings.runner}"]
        elif workers == 1:
            runner, words = FnApiRunner(), []
        elif sys.platform == "linux":
            from beam_pipelines.forked import forked_workers

            address = stack.enter_context(forked_workers(workers))
            runner, words = FnApiRunner(ExternalEnvironment(address)), [f"--direct_num_workers={workers}"]
        else:
            # Elsewhere a process cannot safely go on after a fork.
            runner = FnApiRunner()
            words = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_threading"]
        telemetry.serve()  # Behind the forks: it starts a thread.
        stack.enter_context(watching(job, len(parts), console, telemetry))
        try:
            pipeline = beam.Pipeline(runner=runner, options=PipelineOptions([*words, *options]))
        except ValueError as error:
            told = str(error).splitlines()[0]
            raise SettingsError(f"prepare.runner = {settings.runner!r} or its options are wrong: {told}") from error

        def run() -> None:
            with pipeline:
                build(pipeline, job, parts)

        try:
            _apart(run)
        except (RuntimeError, ValueError, OSError) as error:
            _raise_cause(error, settings.output)
            raise


def _apart(work: Callable[[], None]) -> None:
    """Runs `work` in a thread and waits for it. A signal ends the wait: amid Beam's code it would become an error of
    Beam's or be lost.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    done.result()


def _raise_cause(error: BaseException, output: str) -> None:
    """Raises the project's own error that a runner wrapped in one of Beam's, if there is one."""
    ours = (SettingsError, DataError, storage.Unavailable)
    kinds: dict[str, type[Exception]] = {re.escape(f"{kind.__module__}.{kind.__name__}: "): kind for kind in ours}
    kinds |= {r"\w*Error: (?=\[Errno \d+\])": OSError}  # Of any name: IsADirectoryError is one.
    kinds |= {f"{kind.__name__}: ": kind for kind in (FileNotFoundError, PermissionError, OSError, MemoryError)}
    for marker, kind in kinds.items():
        if found := re.search(rf"{marker}(.*?)(?: \[while running|$)", str(error), re.MULTILINE):
            said = found[1]
            if os.strerror(errno.ENOSPC) in said:
                said = f"prepare.output = {output} is full: {said}; make room, or give another folder"
            elif kind is OSError and (numbered := re.match(r"\[Errno (\d+)\] (.*)", said)):
                raise OSError(int(numbered[1]), numbered[2]) from None
            raise kind(said) from None


def _summary(settings: Settings, manifest: dataset.Manifest, console: Console) -> dict[str, Any]:
    """Says what the data set holds; returns the same as a result."""
    result: dict[str, Any] = {
        "output": settings.output,
        "digest": manifest.digest,
        "classes": len(manifest.classes),
        "records": {name: split.records for name, split in manifest.splits.items()},
        "bytes": sum(shard.bytes for split in manifest.splits.values() for shard in split.shards),
        "drawings": manifest.drawings,
        "refused": dict(manifest.refused),
        "duplicates": dict(manifest.duplicates),
        "short": len(manifest.short),
    }
    sizes = ", ".join(f"{name} {split.records:,}" for name, split in manifest.splits.items() if split.records)
    console.line(
        f"{settings.output}: {len(manifest.classes)} classes, {sizes}; "
        f"{manifest.height}x{manifest.width} {manifest.encoding}, {result['bytes'] / 1e6:,.1f} MB"
    )
    console.line(
        f"read {manifest.drawings:,} drawings; "
        f"refused {sum(manifest.refused.values()):,}{_why(manifest.refused, f': see {REFUSED}')}; "
        f"taken as the same {sum(manifest.duplicates.values()):,}{_why(manifest.duplicates)}"
    )
    _warn_of_damage(settings, manifest, console)
    if manifest.short:
        least = min(manifest.short, key=lambda name: (manifest.short[name], name))
        console.warning(
            f"{len(manifest.short)} classes have fewer than wanted; the least is {least!r} with {manifest.short[least]}"
        )
    console.line(f"digest {manifest.digest}")
    preview = storage.join(settings.output, PREVIEW)
    if storage.exists(preview):
        console.line(f"a look at it: {preview}")
    return result


def _why(counts: Mapping[str, int], where: str = "") -> str:
    told = ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
    return f" ({told}{where})" if told else ""
