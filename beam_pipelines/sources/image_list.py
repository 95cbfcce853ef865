"""Pictures in lists, as courses divide TU-Berlin's sketches: `train.txt`, `test.txt`, `validation.txt` (or `val.txt`).

They lie in the folder of the input and name a picture a line: its path below the folder, TAB, its label. `mapping.txt`
names the classes: class, TAB, index. A label is an index or a class, and without `mapping.txt` it is a class.

The lists are read in the order test, validation, train. A picture that was named before is refused, so of a picture in
two lists the test picture stays.
"""

import posixpath
from collections.abc import Iterator, Mapping

from beam_pipelines.settings import Settings
from beam_pipelines.sources import InputPart, Refused, _pictures
from beam_pipelines.sources._pictures import read
from boceto import storage
from boceto.errors import DataError, SettingsError
from boceto.inputs import normal
from boceto.stores import Entry

__all__ = ["plan", "read"]
_MAPPING = "mapping.txt"


def plan(settings: Settings) -> list[InputPart]:
    """A part for each split and class.

    Raises:
        SettingsError: there is no `train.txt`.
        DataError: a line has no TAB, or a label that `mapping.txt` does not have.
    """
    files = _pictures.files(settings)
    if "train.txt" not in files:
        raise SettingsError(
            f"prepare.input = {settings.input!r} holds no train.txt; give a folder with lists of pictures, "
            "or --source image_folder for one folder a class"
        )
    classes = _classes(files)
    found: dict[tuple[str, str], tuple[dict[str, Entry], list[Refused]]] = {}
    first: dict[str, str] = {}
    for name, split in _pictures.SPLITS.items():
        for number, path, label in _lines(files, f"{name}.txt"):
            place = f"{name}.txt, line {number}"
            category = classes.get(label, "") if classes else label
            if not category or not category.isprintable():
                raise DataError(f"{place}: label {label!r} is no class and no index of {_MAPPING}; mend the list")
            entries, refused = found.setdefault((split, category), ({}, []))
            picture = normal(posixpath.normpath(path.replace("\\", "/")))
            if picture in first:
                what = f"line {number} names {picture}, as {first[picture]} does"
                refused.append(Refused(number, "listed_twice", path, what, file=f"{name}.txt"))
            elif picture not in files:
                what = f"line {number} names {picture}, and the folder has no such file"
                refused.append(Refused(number, "missing_file", path, what, file=f"{name}.txt"))
            else:
                entries[picture] = files[picture]
            first.setdefault(picture, place)
    return sorted(_pictures.part(*key, *listed) for key, listed in found.items())


def _lines(files: Mapping[str, Entry], name: str) -> Iterator[tuple[int, str, str]]:
    """The number of each line of a list that is not empty, what stands before its last TAB, and behind."""
    if name not in files:
        return
    try:
        lines = storage.read_bytes(files[name].url).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is no UTF-8 text: {error}; save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        before, tab, behind = line.strip().rpartition("\t")
        if line.strip() and not (tab and before):
            raise DataError(f"{name}, line {number}: {line.strip()[:80]!r} has no TAB between two texts; mend the list")
        if tab:
            yield number, before.strip(), normal(behind)


def _classes(files: Mapping[str, Entry]) -> dict[str, str]:
    """`mapping.txt` -> the class of each label: of each class's name, and of its index where no class is called so."""
    found: dict[str, str] = {}
    names: set[str] = set()
    for number, name, index in _lines(files, _MAPPING):
        category = normal(name)
        if not index.isdecimal() or index in found or category in names:
            raise DataError(
                f"{_MAPPING}, line {number}: {category!r} or {index!r} stands there twice, or is no index; mend it"
            )
        found[index] = category
        names.add(category)
    return found | {name: name for name in names}
