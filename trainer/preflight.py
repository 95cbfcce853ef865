"""`boceto preflight`: would `boceto train` with these settings run here?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from boceto.console import Console, run_check, table
from boceto.errors import BocetoError
from boceto.settings import parse
from trainer import environment
from trainer.checks import FAILED, Check, Checks
from trainer.settings import Settings

DESCRIPTION = (
    "Looks whether `boceto train` with these settings would run here: data, run folder, lease, checkpoints, devices, "
    "memory, disk, and a save timed against --grace. Takes all settings of `boceto train`, its table in the TOML file "
    "too. Data in object storage is copied to --cache-dir, where training finds it; the run's folder stays as it was. "
    "Exit code 0: all passed; 2: a setting or this machine does not do; 65: data or checkpoints do not; "
    "others: it could not be found out now."
)


def wrong(checks: Sequence[Check]) -> BocetoError | None:
    """What failed; the first decides on the exit code."""
    failed = [check for check in checks if check.state == FAILED]
    if not failed:
        return None
    more = f" (and {len(failed) - 1} more, above)" if len(failed) > 1 else ""
    found = BocetoError(f"{failed[0].name}: {failed[0].said}{more}")
    found.exit_code = failed[0].code
    return found


def main(argv: Sequence[str]) -> int:
    """Runs `boceto preflight` with these words; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool, BocetoError | None]:
        invocation = parse(Settings, "preflight", argv, DESCRIPTION, base="train")
        environment.prepare()
        checks = Checks(invocation.settings, console.progress).all()
        rows = [[check.name, check.state, check.said] for check in checks]
        console.line(table(["check", "", "what was found"], rows, 3))
        result = {
            "passed": not any(check.state == FAILED for check in checks),
            "checks": [dataclasses.asdict(check) for check in checks],
        }
        return result, invocation.json, wrong(checks)

    return run_check("preflight", work)
