"""`boceto demo`: the whole chain on drawings made by rule, small enough for a laptop; ends in a table and pictures."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boceto import contract, process, storage, telemetry
from boceto.console import Console, clock_time, run_program
from boceto.errors import BocetoError, DataError, SettingsError
from boceto.settings import option, parse

NETS = ("sknet", "skresnet")
RESULT = "demo.json"
# A folder without this file in it was not made by the chain: (a run's, a data set's).
_MARKS = ("run.json", "dataset.json")
WIDTH = 0.25
PREPARE = ("--source", "synthetic", "--line-width", "1.5", "--seed", "0")
COUNTS = ("--train-per-class", "60", "--test-per-class", "20")
TRAIN = f"--width-multiplier {WIDTH} --epochs 12 --batch-size 64 --warmup-steps 20 --schedule cosine".split()
COLUMNS = {
    "parameters": (",", "parameters"),
    "train_accuracy": (".3f", "train accuracy"),
    "test_accuracy": (".3f", "test accuracy"),
    "map": (".3f", "mAP"),
    "images_per_second": (",.0f", "images/s"),
}


class StepFailed(BocetoError):  # noqa: N818 - it is reported, not handled
    """A program of the chain failed; it has said why itself."""

    def __init__(self, verb: str, code: int) -> None:
        super().__init__(f"`boceto {verb}` ended with exit code {code}; what it said stands above")
        self.exit_code = code


@dataclass(frozen=True)
class Settings:
    """The flags of `boceto demo`."""

    output: str = option("demo", help="folder, also in object storage, for the data set, the runs and their scores")
    net: str = option(
        ",".join(NETS), help="nets to train and score, with commas; `boceto nets` lists them", listed=True
    )
    size: int = option(32, help="height and width of an image, pixels", at_least=8, at_most=1024)
    fresh: bool = option(False, help="start afresh instead of showing what is there")
    metrics_port: int = option(
        0, help="first port of the Prometheus metrics, each program has its own; 0: off", at_least=0, at_most=65500
    )
    metrics_linger: float | None = telemetry.linger_option()

    @property
    def nets(self) -> list[str]:
        """The names of the nets, in their order.

        Raises:
            SettingsError: a part is no name.
        """
        found = [name.strip() for name in self.net.split(",")]
        for name in found:
            if not name.isidentifier() or name == "data":  # Names become folders.
                raise SettingsError(f"demo.net = {self.net!r}: {name!r} is no net; `boceto nets` lists them")
        return found


def ports(first: int, nets: Sequence[str] = NETS) -> dict[tuple[str, str], int]:
    """Returns the port of each program, by (folder, verb)."""
    programs = [("data", "prepare"), *((net, verb) for net in nets for verb in ("train", "eval"))]
    return {program: first + number for number, program in enumerate(programs)}


def _program(verb: str, *words: str) -> dict[str, Any]:
    """Runs one program of the chain as people do, with its progress on standard error; returns its result."""
    command = [sys.executable, "-m", "boceto", verb, *words, "--json"]
    with process.child(command, subprocess.Popen.terminate, stdout=subprocess.PIPE) as child:
        said, _ = child.communicate()
    if child.returncode:
        raise StepFailed(verb, child.returncode)
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    return result


def _chain(settings: Settings, missing: Sequence[str], console: Console) -> Iterator[tuple[str, Any]]:
    """Makes the data set, and trains and scores the missing nets; yields the result of each."""
    output = settings.output
    data = storage.join(output, "data")

    def watched(folder: str, verb: str) -> list[str]:
        if not settings.metrics_port:
            return []
        linger = [] if settings.metrics_linger is None else ["--metrics-linger", str(settings.metrics_linger)]
        return ["--metrics-port", str(ports(settings.metrics_port, settings.nets)[folder, verb]), *linger]

    console.line("1/3 drawing and recording: boceto prepare")
    words = ["--output", data, "--size", str(settings.size), *PREPARE, *COUNTS, *watched("data", "prepare")]
    yield "data", {**_program("prepare", *words), "size": settings.size}
    for net in missing:
        run = storage.join(output, net)
        console.line(f"2/3 training {net}: boceto train")
        trained = _program("train", "--data", data, "--run", run, "--net", net, *TRAIN, *watched(net, "train"))
        console.line(f"3/3 scoring {net}: boceto eval")
        scored = _program("eval", "--data", data, "--run", run, *watched(net, "eval"))
        yield net, {**scored, "images_per_second": trained["images_per_second"]}


def _remove(output: str, nets: Sequence[str]) -> None:
    """Removes what an earlier demo made.

    Raises:
        SettingsError: there is a folder of such a name, but no result of a demo.
    """
    there = [
        name
        for name in ("data", *dict.fromkeys([*NETS, *nets]))
        if storage.exists(storage.join(output, name, _MARKS[name == "data"]))
    ]
    if there and not storage.exists(storage.join(output, RESULT)):
        raise SettingsError(
            f"demo.output = {output} holds {there[0]}, and no {RESULT} says that a demo made it; give another folder"
        )
    for name in there:
        storage.delete_folder(storage.join(output, name))
    storage.delete(storage.join(output, RESULT))


def demo(settings: Settings, console: Console) -> dict[str, Any]:
    """Runs the chain, or shows the result of the last time; returns each net's scores."""
    storage.check_lasting(settings.output, "demo.output")
    path = storage.join(settings.output, RESULT)
    if settings.fresh:
        _remove(settings.output, settings.nets)
    started = time.monotonic()
    try:
        results = contract.decode(storage.read_bytes(path))
    except FileNotFoundError:
        results = {}
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; use --fresh") from error
    missing = [net for net in settings.nets if net not in results]
    if not missing:
        console.line(f"{settings.output} holds a finished demo already; `make demo FRESH=1` or --fresh starts afresh")
    else:
        storage.check_writable(settings.output, "demo.output")
        storage.write_bytes(path, json.dumps(results).encode())  # The folders are the demo's own from now on.
        for name, result in _chain(settings, missing, console):
            results[name] = result
            storage.write_bytes(path, json.dumps(results).encode())
        console.line(f"the whole chain took {clock_time(time.monotonic() - started)}")
    try:
        classes, size = results["data"]["classes"], results["data"].get("size", 32)
        rows = [
            [net, *(format(results[net][name], form) for name, (form, _) in COLUMNS.items())] for net in settings.nets
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged; use --fresh") from error
    console.line(
        f"\nSmall nets: {WIDTH} of their width, {size}x{size} pixels, {classes} classes of synthetic drawings;"
        f" a net that guesses has accuracy {1 / classes:.3f}.\n"
    )
    console.table(["net", *(title for _, title in COLUMNS.values())], rows)
    for net in settings.nets:
        console.line(f"\n{net}: test drawings and their nearest neighbours: {results[net]['picture']}")
    return results


def main(argv: Sequence[str]) -> int:
    """Runs `boceto demo` with these words; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool]:
        asked = parse(Settings, "demo", argv, "Draws, records, trains nets and scores them, small.")
        return demo(asked.settings, console), asked.json

    return run_program("demo", work)
