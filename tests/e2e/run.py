"""`make e2e`: the scenarios on the cluster that the kubeconfig names, each timed.

    python tests/e2e/run.py [--tag dev] [--only 1,4]

The images boceto-prepare, -train, -eval and -emulator with the tag must be where the cluster finds them.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import cluster
import scenarios
import watching

from boceto.console import Console, table


def main(argv: Sequence[str]) -> int:
    """Runs the scenarios; returns 1 where one failed."""
    parser = argparse.ArgumentParser(description="Scenarios on a real cluster.")
    parser.add_argument("--tag", default="dev", help="tag of the images")
    parser.add_argument("--only", default="", help="numbers of scenarios, with commas; the first makes data for others")
    asked = parser.parse_args(argv)
    chosen = {int(number) for number in asked.only.split(",") if number}
    why = cluster.reachable()
    if why:
        print(f"e2e: no cluster can be reached: {why}", file=sys.stderr)
        return 1
    console, rows = Console(), []
    with cluster.namespace(asked.tag) as place:
        for number, scenario in enumerate(scenarios.SCENARIOS, 1):
            if not chosen or number in chosen:
                rows.append(_row(number, scenario, place))
                console.line("  ".join(rows[-1]))
    print(table(["scenario", "what", "outcome", "seconds", "found"], [_short(row) for row in rows], left=5))
    return int(any(row[2] == "FAILED" for row in rows))


def _row(number: int, scenario: object, place: cluster.Cluster) -> list[str]:
    begun = time.monotonic()
    try:
        outcome, found = "ok", scenario(place)  # type: ignore[operator]
    except watching.LeftOut as error:
        outcome, found = "left out", str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the next scenario is to run too
        outcome, found = "FAILED", f"{type(error).__name__}: {error}"
    name = scenario.__name__.replace("_", " ")  # type: ignore[attr-defined]
    return [str(number), name, outcome, f"{time.monotonic() - begun:.0f}", str(found)]


def _short(row: Sequence[str]) -> list[str]:
    *cells, found = row
    return [*cells, " ".join(found.split())[:100]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
