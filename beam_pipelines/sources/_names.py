"""What the name of a file of drawings says, as people's browsers leave it: its category and its form."""

import re
from urllib.parse import unquote

from boceto.inputs import normal

_COPY = r"(?: ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?)?"  # What browsers, Windows and macOS put behind a name.
_FILE = re.compile(
    r"(?:(?:full[_/-](?:simplified|raw|binary)|sketchrnn)[_/-])?(?:.*/)?"
    rf"(?P<category>[^/]+?)(?:\.full(?=[^.]*\.npz$))?(?:-\d+-of-\d+)?{_COPY}"
    rf"\.(?:(?P<text>ndjson|csv){_COPY}(?:\.gz)?|(?P<form>bin|npz))",
    re.DOTALL | re.IGNORECASE,  # A name with a line break is refused, not passed over.
)
_NUMBER = re.compile(r"-\d+")


def form_of(name: str) -> tuple[str, str] | None:
    """`full%2Fsimplified%2Fhot dog (1).ndjson` -> (`hot dog`, `ndjson`); None for what holds no drawings.

    The forms are `ndjson`, `csv`, `bin` and `npz`.
    """
    name = name.rpartition("/")[2]
    match = _FILE.fullmatch(normal(unquote(name, errors="strict") if "%2F" in name.upper() else name))
    return (match["category"], (match["text"] or match["form"]).lower()) if match else None


def agree(named: str, word: str) -> bool:
    """Whether a file called `named` may be expected to hold drawings of `word`: `cat-1` is one of several of `cat`."""
    return named == word or (named.startswith(word) and bool(_NUMBER.fullmatch(named[len(word) :])))
