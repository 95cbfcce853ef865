"""Pictures in folders: one folder a class, `CLASS/PICTURE`, or `SPLIT/CLASS/PICTURE` with the splits train, test and
validation (or val, valid).

The folders are splits if all of them are called so and hold folders. Pictures may lie deeper in the folder of their
class. Files outside of a class's folder are passed over.
"""

from beam_pipelines.settings import Settings
from beam_pipelines.sources import InputPart, _pictures
from beam_pipelines.sources._pictures import read
from boceto.errors import SettingsError
from boceto.stores import Entry

__all__ = ["plan", "read"]


def plan(settings: Settings) -> list[InputPart]:
    """A part for each class, or for each split and class.

    Raises:
        SettingsError: there is no folder with files.
    """
    files = {tuple(name.split("/")): entry for name, entry in _pictures.files(settings).items()}
    splits = {path[0].lower() for path in files if len(path) > 1} <= set(_pictures.SPLITS)
    depth = 1 + (splits and max(map(len, files)) > 2)  # noqa: PLR2004 - a split, a class and a file
    found: dict[tuple[str, str], dict[str, Entry]] = {}
    for path, entry in files.items():
        if len(path) > depth:
            split = _pictures.SPLITS[path[0].lower()] if depth > 1 else ""
            found.setdefault((split, path[depth - 1]), {})["/".join(path)] = entry
    if not found:
        raise SettingsError(
            f"prepare.input = {settings.input!r} holds no folder of pictures; give a folder that has one for each class"
        )
    return sorted(_pictures.part(split, category, entries) for (split, category), entries in found.items())
