"""Runs every benchmark over real drawings, one after the other: `make bench INPUT=folder of QuickDraw files`.

Each prints a table and a line of JSON. Those that need a peer that is not installed say so and the rest go on.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
QUARTER = ("--nets", "sknet", "--width", "0.25", "--batch-size", "64", "--steps", "20", "--deterministic")


def main() -> int:
    """Runs them; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder of QuickDraw files")
    folder = parser.parse_args().input
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        data = str(Path(scratch, "data"))
        words = ["--input", folder, "--output", data, "--classes", "100", "--allow-fewer", "--no-preview"]
        subprocess.run([sys.executable, "-m", "boceto", "prepare", *words], check=True)
        small = str(Path(scratch, "small"))
        words = ["--input", folder, "--output", small, "--classes", "10", "--allow-fewer", "--size", "64"]
        subprocess.run([sys.executable, "-m", "boceto", "prepare", *words], check=True)
        runs = [
            ("rasteriser.py", "--input", folder),
            ("encodings.py", "--input", folder),
            ("prepare.py", "--input", folder),
            ("reading.py", "--data", data),
            ("start.py",),
            ("train_step.py", "--data", data),
            ("train_step.py", "--data", small, "--augment", "stroke", *QUARTER),
            ("retrieval.py",),
            ("checkpoint.py",),
            ("storage.py",),
        ]
        for name, *flags in runs:
            print(f"\n== {name}", flush=True)
            failed += subprocess.run([sys.executable, str(HERE / name), *flags], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
