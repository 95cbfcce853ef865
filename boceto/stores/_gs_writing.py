"""Bytes to Google Cloud Storage: verified by crc32c, sent again until they are there, large files in parallel."""

import base64
import contextlib
import functools
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import google_crc32c

from boceto.stores import Progress, Unavailable
from boceto.stores._gs_link import Broken, Link, Place
from boceto.stores._gs_parallel import Told, in_parallel
from boceto.stores._gs_reading import TRIES, file_crc32c, hexadecimal, pieces, read_whole

_PART = 32 << 20
_MOST_PARTS = 32  # compose takes no more
_CLEANUP = 3.0  # seconds


@dataclass(frozen=True)
class Data:
    """Bytes to send."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)

    @property
    def crc32c(self) -> str:
        """8 hexadecimal digits."""
        return f"{google_crc32c.value(self.data):08x}"

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order."""
        yield self.data


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `end` of a file, to send. told: hears how far they were read."""

    path: Path
    start: int
    end: int
    told: Told | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @functools.cached_property
    def crc32c(self) -> str:
        """8 hexadecimal digits."""
        return file_crc32c(self.path, self.start, self.end)

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order."""
        at = self.start
        for data in pieces(self.path, self.start, self.end):
            yield data
            at += len(data)
            if self.told:
                self.told.at(self.start, at)


class _Body:
    """A multipart/related request: the metadata, then the bytes. Can be sent again."""

    def __init__(self, link: Link, place: Place, source: Data | Part) -> None:
        boundary = uuid.uuid4().hex
        crc32c = base64.b64encode(bytes.fromhex(source.crc32c)).decode()
        metadata = json.dumps({"name": place.name, "crc32c": crc32c})
        self._link = link
        self._source = source
        self._head = (
            f"--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{metadata}\r\n"
            f"--{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--".encode()
        self.content_type = f'multipart/related; boundary="{boundary}"'

    def __len__(self) -> int:
        return len(self._head) + self._source.size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        for data in self._source.chunks():
            self._link.go_on()
            yield data
        yield self._tail


class Put:
    """One object sent in one request, and again until it is there as it should be.

    match: the generation that must be there (0: none); with None the object is written whatever is there.
    """

    def __init__(self, link: Link, place: Place, source: Data | Part, match: str | None) -> None:
        self._link = link
        self._place = place
        self._source = source
        self._match = match
        self._tries = 0
        self._damaged: str | None = None

    def send(self) -> str:
        """Returns the new generation; raises the library's errors, PreconditionFailed among them."""
        from google.api_core.exceptions import RetryError

        try:
            sent: str = self._link.retry(self._try)()
        except RetryError:
            self._remove_damaged()
            raise
        return sent

    def _try(self) -> str:
        from google.api_core.exceptions import BadRequest, PreconditionFailed

        self._tries += 1
        params = {} if self._match is None else {"ifGenerationMatch": self._match}
        body = _Body(self._link, self._place, self._source)
        try:
            found = self._link.post(self._place.bucket, body, body.content_type, params)
        except PreconditionFailed:
            if self._tries > 1 and (generation := self._ours()):  # The answer to an earlier try was lost.
                return generation
            raise
        except BadRequest as error:
            if _damaged_on_its_way(error):
                raise Broken("the crc32c was another on arrival") from error
            raise
        generation = str(found["generation"])
        if (int(found["size"]), hexadecimal(found.get("crc32c"))) != (self._source.size, self._source.crc32c):
            self._damaged = generation
            if self._match is not None:
                self._match = generation  # The next try replaces the damaged one: nobody sees a gap.
            raise Broken("the stored crc32c is another than the one sent")
        return generation

    def _ours(self) -> str | None:
        """The generation of what is stored, if it is what was to be sent and not what was to be replaced."""
        from google.api_core.exceptions import NotFound

        try:
            data, generation = read_whole(self._link, self._place)
        except NotFound:
            return None
        return generation if generation != self._match and data == b"".join(self._source.chunks()) else None

    def _remove_damaged(self) -> None:
        from google.api_core.exceptions import GoogleAPIError

        if self._damaged:
            with contextlib.suppress(GoogleAPIError):
                self._link.blob(self._place).delete(if_generation_match=int(self._damaged), timeout=self._link.timeout)


def _damaged_on_its_way(error: Exception) -> bool:
    """Whether the storage refused bytes that were damaged on their way."""
    return any(word in str(error).lower() for word in ("crc32c", "checksum", "hash"))


def upload(link: Link, place: Place, path: Path, progress: Progress | None) -> None:
    """Sends a file: a large one in parts at once, which the storage then composes."""
    from google.api_core.exceptions import GoogleAPIError

    told = Told(progress)
    size = path.stat().st_size
    if size < 2 * _PART:
        Put(link, place, Part(path, 0, size, told), None).send()
        return
    step = max(_PART, -(-size // _MOST_PARTS))
    unique = uuid.uuid4().hex
    parts = {
        Place(place.bucket, f"{place.name}.{unique}-{start // step:02}.partial"): Part(
            path, start, min(start + step, size), told
        )
        for start in range(0, size, step)
    }
    try:
        in_parallel(link, lambda link, item: Put(link, item[0], item[1], "0").send(), parts.items())
        _compose(link, place, list(parts), Part(path, 0, size))
    except BaseException:
        with contextlib.suppress(GoogleAPIError, OSError):  # What went wrong is what to tell.
            in_parallel(replace(link, patience=replace(link.patience, deadline=_CLEANUP)), remove, parts)
        raise
    in_parallel(link, remove, parts)


def _compose(link: Link, place: Place, parts: list[Place], whole: Part) -> None:
    from google.api_core.exceptions import GoogleAPIError

    blob = link.blob(place)
    for _ in range(TRIES):
        blob.compose([link.blob(part) for part in parts], retry=link.retry, timeout=link.timeout)
        if (blob.size, hexadecimal(blob.crc32c)) == (whole.size, whole.crc32c):
            return
    with contextlib.suppress(GoogleAPIError):
        blob.delete(if_generation_match=blob.generation, timeout=link.timeout)
    raise Unavailable(f"{place.url} was composed to another crc32c than sent; run the same command again")


def remove(link: Link, place: Place) -> None:
    """Deletes an object, if there is one."""
    from google.api_core.exceptions import NotFound

    with contextlib.suppress(NotFound):
        link.blob(place).delete(retry=link.retry, timeout=link.timeout)
