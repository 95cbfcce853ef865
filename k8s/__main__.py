"""`boceto submit`: the programs as Jobs of a Kubernetes cluster."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from boceto.console import Console, run_program
from boceto.errors import EXIT_DONE, SettingsError
from boceto.settings import parse
from k8s.settings import ClusterSettings, FollowSettings, NamedRun, ProgramSettings, RunSettings

# The settings of each verb, and its description.
VERBS: Mapping[str, tuple[type[ClusterSettings], str]] = {
    "run": (RunSettings, "Starts a run's Job, or its chain of Jobs, and follows it; the exit code is the Job's."),
    "status": (NamedRun, "Shows a run's state: its attempts, why they ended, its progress and its last checkpoint."),
    "logs": (FollowSettings, "Shows the log of a run's program; Ctrl-C leaves the program running."),
    "stop": (ProgramSettings, "Stops a run gracefully: it saves a checkpoint, and `resume` goes on from there."),
    "resume": (FollowSettings, "Goes on with a run that was stopped or has failed, in a new Job on the same folder."),
    "list": (ClusterSettings, "Lists all runs of the namespace."),
}
HELP = (
    "usage: boceto submit VERB …\n\nRuns the programs as Jobs of a Kubernetes cluster.\n\n"
    + "\n".join(f"  boceto submit {verb:8} {description}" for verb, (_, description) in VERBS.items())
    + "\n\n`boceto submit VERB --help` lists a verb's settings."
)


def main(argv: Sequence[str]) -> int:
    """Runs `boceto submit` with `argv`; returns the exit code."""
    if argv and argv[0] in ("-h", "--help"):
        print(HELP)
        return EXIT_DONE
    code = EXIT_DONE

    def work(console: Console) -> tuple[Mapping[str, Any], bool]:
        nonlocal code
        if not argv or argv[0] not in VERBS:
            given = f"there is no verb {argv[0]!r}" if argv else "a verb is missing"
            raise SettingsError(f"{given}; the verbs are {', '.join(VERBS)}; see `boceto submit --help`")
        kind, description = VERBS[argv[0]]
        asked = parse(kind, f"submit {argv[0]}", argv[1:], description, beside=[each for each, _ in VERBS.values()])
        from k8s import verbs  # The client takes a second to import, and --help needs none.

        function = verbs.list_runs if argv[0] == "list" else getattr(verbs, argv[0])
        result, code = function(asked.settings, console)
        return result, asked.json and bool(result)

    return run_program("submit", work) or code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
