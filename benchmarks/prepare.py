"""`boceto prepare` against a bare Python loop, and two workers against one.

    python benchmarks/prepare.py --input FOLDER_OF_QUICKDRAW_FILES

The bare loop does only what must be done: parse, raster, encode, frame, write, one drawing after the other in the order
of the files, with the same kernels. Both are whole processes, start-up and imports included; repeats alternate. Both
find every module's bytecode cached, as after an installation by pip, even where this Python was told to write none.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from boceto.console import table

REPEATS = 3
BATCH = 32


def bare_loop(folder: str, output: str) -> None:
    """Every drawing of the folder into one TFRecord file a category, with nothing else around it."""
    from beam_pipelines.settings import Settings
    from beam_pipelines.sources import Drawing, quickdraw
    from boceto import images, records
    from boceto.raster import Rasteriser

    settings = Settings(output=output, input=folder)
    parts = quickdraw.plan(settings)
    rasteriser = Rasteriser(settings.size, settings.size, settings.line_width, settings.margin)
    png = images.PngEncoder(settings.size, settings.size)
    encoder = records.Encoder(records.Layout(settings.size, settings.size, 1, "png", [part.category for part in parts]))
    pixels = np.empty((BATCH, settings.size, settings.size), np.uint8)
    Path(output).mkdir()
    for label, part in enumerate(parts):
        sketches = [item for item in quickdraw.read(part, settings) if isinstance(item, Drawing)]
        with Path(output, f"{label}.tfrecord").open("wb") as file:
            for at in range(0, len(sketches), BATCH):
                batch = sketches[at : at + BATCH]
                drawn = rasteriser.draw([sketch.strokes for sketch in batch], pixels)
                file.writelines(
                    records.frame(encoder.encode(label, png.encode(image), sketch.key, sketch.strokes))
                    for sketch, image in zip(batch, drawn, strict=True)
                )


def _environment(folder: Path) -> dict[str, str]:
    """The environment in which bytecode is cached below `folder`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def _timed(words: list[str], output: Path) -> float:
    """Seconds of one run into a fresh folder."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, *words]
    start = time.perf_counter()
    subprocess.run(
        command, check=True, env=_environment(output.parent), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def _memory(words: list[str], output: Path) -> float:
    """Most memory in MB of a run and its workers together, sampled; shared pages count once."""
    shutil.rmtree(output, ignore_errors=True)
    most = 0
    command, where = [sys.executable, *words], _environment(output.parent)
    with subprocess.Popen(command, env=where, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            most = max(most, sum(_pss(process) for process in _family(run.pid)))
            time.sleep(0.1)
    return most / 1024


def _family(process: int) -> list[int]:
    found = [process]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children")
        if children.exists():
            found += [int(child) for child in children.read_text().split()]
    return found


def _pss(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder of QuickDraw files")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.bare:
        bare_loop(asked.input, asked.bare)
        return
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "data")
        counts = ["--train-per-class", "2000", "--test-per-class", "50", "--allow-fewer", "--no-preview"]
        job = ["-m", "boceto", "prepare", "--input", asked.input, "--output", str(output), *counts, "--workers"]
        runs = {
            "bare loop": [__file__, "--input", asked.input, "--bare", str(output)],
            "prepare, 1 worker": [*job, "1"],
            "prepare, 2 workers": [*job, "2"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for words in runs.values():
            _timed(words, output)  # Warms the page cache, the bytecode and the compiled kernels.
        for _ in range(REPEATS):
            for name, words in runs.items():
                seconds[name].append(_timed(words, output))
        # The same on a hundred drawings: what each spends before it works.
        few = Path(folder, "few")
        few.mkdir()
        lines = (f'{{"word":"a","drawing":[[[0,255],[0,{number}]]]}}' for number in range(100))
        Path(few, "a.ndjson").write_text("\n".join(lines))
        start_up = {
            name: statistics.median(
                _timed([str(few) if word == asked.input else word for word in words], output) for _ in range(REPEATS)
            )
            for name, words in runs.items()
        }
        memory = {name: _memory(words, output) for name, words in runs.items()}
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [(name, f"{medians[name]:.2f}", f"{start_up[name]:.2f}", f"{memory[name]:,.0f}") for name in runs]
    print(table(("all drawings, start-up included", "seconds", "start-up", "MB"), rows))
    one, two, bare = medians["prepare, 1 worker"], medians["prepare, 2 workers"], medians["bare loop"]
    works = {name: medians[name] - start_up[name] for name in runs}
    one_works, two_works = works["prepare, 1 worker"], works["prepare, 2 workers"]
    print(f"less start-up: {one_works / works['bare loop']:.2f} of the bare loop; {one_works / two_works:.2f} times")
    result = {
        "start_up": start_up,
        "of_bare_loop": one / bare,
        "two_workers": one / two,
        "cores": os.cpu_count(),
        "seconds": medians,
    }
    print(f"1 worker: {one / bare:.2f} of the bare loop's time; 2 workers: {one / two:.2f} times as fast as 1")
    print(json.dumps({"prepare": {**result, "memory_mb": memory}}))


if __name__ == "__main__":
    main()
