"""The command `boceto`: finds a verb's program by its entry point and hands it the rest of the command line."""

import sys
from collections.abc import Sequence

from boceto import __version__, process
from boceto.errors import EXIT_DONE, EXIT_FAULT, EXIT_SETTINGS, EXIT_STOPPED

GROUP = "boceto.commands"
SUMMARIES = {
    "demo": "the whole chain on synthetic drawings, small",
    "prepare": "strokes to TFRecord shards",
    "train": "shards to checkpoints and an artefact",
    "eval": "artefact and shards to accuracy, mAP and a report",
    "predict": "artefact and pictures or drawings to classes and probabilities",
    "inspect": "what a data set, run, checkpoint, artefact or scores hold, and whether they are whole",
    "preflight": "whether a training would run here: data, storage, memory, disk, devices, time to save",
    "nets": "the nets, or the layers of a net, with parameters and operations",
    "submit": "the programs on a Kubernetes cluster: start, follow, stop, resume",
    "verify-resume": "whether a training that is killed and goes on ends the same, to the bit",
}
# Verbs that come with another one's extra.
EXTRAS = {"nets": "train", "predict": "eval", "preflight": "train", "verify-resume": "train"}


def usage(verbs: Sequence[str]) -> str:
    """The text of `boceto --help`."""
    rows = "\n".join(f"  boceto {verb:14} {SUMMARIES.get(verb, '')}".rstrip() for verb in sorted(verbs))
    return (
        f"Boceto {__version__}: trains sketch recognisers.\n\n{rows}\n\n`boceto VERB --help` lists a verb's settings."
    )


def main(argv: Sequence[str]) -> int:
    """Runs the verb `argv[0]` with the rest of `argv`; returns the exit code."""
    from importlib import metadata

    programs = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(list(programs)))
        return EXIT_DONE
    verb, rest = argv[0], argv[1:]
    if verb == "--version":
        print(__version__)
        return EXIT_DONE
    if verb not in programs:
        known = ", ".join(sorted(programs))
        print(f"boceto: error: there is no verb {verb!r}; the verbs are {known}", file=sys.stderr)
        return EXIT_SETTINGS
    try:
        program = programs[verb].load()
    except ModuleNotFoundError as error:
        print(
            f"`boceto {verb}` needs `pip install '.[{EXTRAS.get(verb, verb)}]'`, in the repository's folder: no module "
            f"{error.name!r}",
            file=sys.stderr,
        )
        return EXIT_SETTINGS
    return int(program(rest))


def run() -> None:
    """The console script."""
    process.begin("".join(sys.argv[1:2]))
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = EXIT_STOPPED
    except SystemExit as asked:  # Behind a program's help.
        code = int(asked.code or EXIT_DONE)
    except OSError as error:
        code = EXIT_FAULT
        print(f"boceto: fault: standard output: {error}", file=sys.stderr)
    process.end(code)


if __name__ == "__main__":
    run()
