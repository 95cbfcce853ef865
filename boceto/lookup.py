"""A folder as a registry: each file of a package is one choice, under the name of the file.

A file whose name begins with an underscore is shared by the others and is no choice.
"""

import importlib
import pkgutil
from types import ModuleType

from boceto.errors import SettingsError


def names(package: str) -> list[str]:
    """The choices in a package, sorted."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def modules(package: str) -> dict[str, ModuleType]:
    """Imports all choices of a package, by name."""
    return {name: importlib.import_module(f"{package}.{name}") for name in names(package)}


def find(package: str, name: str, setting: str, *needs: str) -> ModuleType:
    """Imports the module that a setting names, and checks that it defines the names in `needs`.

    Raises:
        SettingsError: the package has no such choice, or the module lacks a name.
    """
    known = names(package)
    if name not in known:
        raise SettingsError(f"{setting} = {name!r} is unknown; choose one of {', '.join(known)}")
    module = importlib.import_module(f"{package}.{name}")
    for need in needs:
        if not hasattr(module, need):
            raise SettingsError(f"{setting} = {name!r}: {module.__file__} does not define {need}; add it")
    return module
