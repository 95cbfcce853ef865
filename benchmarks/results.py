"""Trains every net on one common set of real drawings, small, and scores it: the table of the nets in docs/results.md.

    make results INPUT=FOLDER_OF_QUICKDRAW_FILES

Run again, it goes on where it stopped: a finished net is not trained again, a half trained one goes on from its newest
checkpoint. All nets have one recipe, the course's; no net is tuned.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from boceto import storage
from boceto.console import table

# The categories of which a sample of 180,221 drawings of Quick, Draw! has 1,050 or more.
CLASSES = (
    "airplane,alarm clock,ambulance,ant,apple,backpack,basket,butterfly,cactus,calculator,campfire,candle,car,cat,"
    "coffee cup,crab,duck,eyeglasses,face,fork,ice cream,monkey,pig,pineapple,power outlet,shoe,star,suitcase,sun"
)
BEGIN, END = "<!-- nets: `make results` writes this table -->", "<!-- nets: end -->"
COLUMNS = {
    "parameters": ",",
    "accuracy, %": ".1f",
    "mAP": ".3f",
    "images/s": ",.0f",
    "seconds": ",.0f",
}


def program(verb: str, *words: str) -> dict[str, Any]:
    """Runs a program of Boceto; returns its result.

    Raises:
        CalledProcessError: it failed; it has said why on standard error.
    """
    command = [sys.executable, "-m", "boceto", verb, *words, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured(net: str, run: Path, data: Path, asked: argparse.Namespace) -> dict[str, float]:
    """Trains and scores one net; returns its row."""
    recipe = ["--width-multiplier", asked.width, "--epochs", asked.epochs, "--batch-size", asked.batch_size]
    words = ["--data", data, "--run", run]
    trained = program("train", *map(str, [*words, "--net", net, *recipe]))
    scored = program("eval", *map(str, [*words, "--splits", "test"]))
    seconds = json.loads((run / "run.json").read_text())["seconds"]
    return {
        "parameters": scored["parameters"],
        "accuracy, %": 100 * scored["test_accuracy"],
        "mAP": scored["map"],
        "images/s": trained["images_per_second"],
        "seconds": sum(seconds.values()),
    }


def cells(rows: dict[str, dict[str, float]]) -> list[list[str]]:
    """The rows as text, the most accurate net first."""
    order = sorted(rows, key=lambda net: -rows[net]["accuracy, %"])
    return [[net, *(format(rows[net][name], form) for name, form in COLUMNS.items())] for net in order]


def write(page: Path, setting: str, rows: dict[str, dict[str, float]]) -> None:
    """Puts the table into the page, in place of an earlier one."""
    lines = [BEGIN, "", setting, "", f"| net | {' | '.join(COLUMNS)} |", f"| --- {'| ---: ' * len(COLUMNS)}|"]
    lines += [f"| {' | '.join(row)} |" for row in cells(rows)]
    text = page.read_text() if page.exists() else f"# Results\n\n## Every net on one set\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## Every net on one set\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    page.write_text(before + "\n".join([*lines, "", END]) + rest.partition(END)[2])


def main() -> int:
    """Measures the nets that are missing; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder of QuickDraw files")
    parser.add_argument("--work", default="out/results", help="folder for the data set, the runs and results.json")
    parser.add_argument("--page", default="docs/results.md", help="page that takes the table")
    parser.add_argument("--nets", default="", help="nets with commas; empty: all")
    parser.add_argument("--classes", default=CLASSES)
    parser.add_argument("--train-per-class", type=int, default=1000)
    parser.add_argument("--test-per-class", type=int, default=50)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    asked = parser.parse_args()
    work, results = Path(asked.work), Path(asked.work, "results.json")
    counts = f"{asked.train_per_class:,} training and {asked.test_per_class:,} test drawings each"
    setting = (
        f"{asked.classes.count(',') + 1} categories of Quick, Draw!, {counts}, {asked.size}x{asked.size} pixels, "
        f"{asked.width:g} of each net's width, {asked.epochs} epochs of batches of {asked.batch_size}, Adam with a "
        f"learning rate of 0.001, seed 0, {os.cpu_count()} cores. Accuracy and mAP are of the test drawings; the "
        "distance of the mAP is L2 of the embedding; seconds are those of the whole training."
    )
    there = json.loads(results.read_text()) if results.exists() else {"setting": setting, "nets": {}}
    if there["setting"] != setting:
        parser.error(f"--work {work} holds results of other settings: {there['setting']}; give another folder")
    names = ["--classes", asked.classes, "--size", str(asked.size), "--no-preview"]
    numbers = ["--train-per-class", str(asked.train_per_class), "--test-per-class", str(asked.test_per_class)]
    program("prepare", "--input", asked.input, "--output", str(work / "data"), *names, *numbers)
    shape = ["--height", str(asked.size), "--width", str(asked.size), "--width-multiplier", str(asked.width)]
    failed = 0
    for net in asked.nets.split(",") if asked.nets else [row["net"] for row in program("nets", *shape)["nets"]]:
        if net in there["nets"]:
            continue
        try:
            there["nets"][net] = measured(net, work / net, work / "data", asked)
        except subprocess.CalledProcessError:  # It has said why.
            failed += 1
            continue
        storage.write_bytes(str(results), json.dumps(there, indent=1).encode())
        write(Path(asked.page), setting, there["nets"])
    print(table(["net", *COLUMNS], cells(there["nets"])))
    return failed


if __name__ == "__main__":
    sys.exit(main())
