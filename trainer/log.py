"""The log of a run, as text for people or as JSON for programs."""

import datetime as dt
import json
from typing import Any

from boceto.console import Console
from boceto.environment import alive


class Log:
    """Lines and a progress line on the console, or one JSON object a line."""

    def __init__(self, console: Console, form: str) -> None:
        self._console = console
        self._json = form == "json"
        self._waits = ""

    def line(self, text: str, **fields: Any) -> None:
        """Logs an event. `fields` are logged with it where the log is JSON."""
        self._write("info", text, fields)

    def alert(self, text: str, **fields: Any) -> None:
        """Logs a warning."""
        self._write("warning", text, fields)

    def progress(self, text: str, *amounts: Any) -> None:
        """Shows the progress line, in a text log only. amounts: as of `Console.progress`."""
        alive()
        if not self._json:
            self._console.progress(text, *amounts)

    def waits(self, text: str) -> None:
        """Logs a wait in the progress line; in a JSON log, as a line whenever `text` changes."""
        alive()
        if self._json and text != self._waits:
            self._write("info", text, {})
        self._waits = text
        self.progress(text)

    def point(self, text: str, **fields: Any) -> None:
        """Logs a log point, in a JSON log only: a text log has the progress line."""
        if self._json:
            self._write("info", text, fields)

    def _write(self, level: str, text: str, fields: dict[str, Any]) -> None:
        if self._json:
            now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
            self._console.line(json.dumps({"time": now, "level": level, "message": text, **fields}))
        elif level == "warning":
            self._console.warning(text)
        else:
            self._console.line(text)
