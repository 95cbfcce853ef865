"""Pictures in folders: one folder a class, `CLASS/PICTURE`, or `SPLIT/CLASS/PICTURE` with the splits train, test and
validation (or val, valid).

The folders are splits if all of them are called so and hold folders. Pictures may lie deeper in the folder of their
class. Files outside of a class's folder are passed over.
"""

from collections.abc import Mapping

from beam_pipelines.settings import Settings
from beam_pipelines.sources import InputPart, _pictures
from beam_pipelines.sources._pictures import read
from boceto import storage
from boceto.errors import SettingsError
from boceto.stores import Entry

__all__ = ["plan", "read"]
_SPLIT_DEPTH = 2  # A split, a class, and then the file.


def plan(settings: Settings) -> list[InputPart]:
    """A part for each class, or for each split and class.

    Raises:
        SettingsError: there is no folder with files; or some folders are splits and others are not; or the pictures of
            a split are in no folder of a class.
    """
    files = {tuple(name.split("/")): entry for name, entry in _pictures.files(settings).items()}
    depth = 2 if _are_splits(files, settings) else 1  # Folders above a picture: a split and a class, or a class.
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


def _are_splits(files: Mapping[tuple[str, ...], Entry], settings: Settings) -> bool:
    """Whether the folders of the input are splits, with folders of classes in them."""
    top = sorted({path[0] for path in files if len(path) > 1})
    divided = sorted({path[0] for path in files if len(path) > _SPLIT_DEPTH})
    splits = [name for name in divided if name.lower() in _pictures.SPLITS]
    if not splits:
        return False
    if others := [name for name in top if name.lower() not in _pictures.SPLITS]:
        raise SettingsError(
            f"prepare.input = {settings.input!r} holds the split {splits[0]}/ beside {others[0]}/, which is none; give "
            f"--input {storage.join(settings.input, splits[0])}, or a folder that holds splits alone"
        )
    if flat := [name for name in top if name not in splits]:
        raise SettingsError(
            f"prepare.input: {flat[0]}/ holds files beside the split {splits[0]}/, and no folder of a class; put its "
            "pictures into folders of their classes, or move it away"
        )
    return True
