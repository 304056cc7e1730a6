"""A heavy library, imported when something of it is used and not where it is named.

An experiment is checked by the plugins that it names, and a method's file says `import torch` as any
other does, though its options need nothing of it. `opdlab validate` took ten seconds for that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

_loading = RLock()


def postpone(library: str) -> None:
    """Let `import LIBRARY` cost nothing until something of it, or a module below it, is used.

    One that is imported already, or is not there, is left as it is. `from LIBRARY import name` uses it at
    once. It must not put another module in its own place, as transformers does.
    """
    spec = None if library in sys.modules else find_spec(library)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    # Its absence makes Python ask for it, and so load the library, before a module below is imported.
    vars(module).pop("__path__", None)
    module.__class__ = _Postponed
    sys.modules[library] = module
    sys.meta_path.insert(0, _Below(library))


def is_postponed(module: ModuleType) -> bool:
    """Whether nothing of the module was used yet."""
    return type(module) is _Postponed


class _Postponed(ModuleType):
    """A module in its place, whose code has not run; it becomes the module itself."""

    def __getattr__(self, name: str) -> Any:
        with _loading:
            if is_postponed(self):
                _load(self)
        return getattr(self, name)


def _load(module: ModuleType) -> None:
    spec = module.__spec__
    assert isinstance(spec, ModuleSpec)
    assert isinstance(spec.loader, Loader)
    module.__class__ = ModuleType
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise


class _Below(MetaPathFinder, Loader):
    """Keeps a module from running twice: whose import loaded the library, and with it that module."""

    def __init__(self, library: str) -> None:
        self.prefix = f"{library}."

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        there = target is None and name.startswith(self.prefix) and name in sys.modules
        return ModuleSpec(name, self) if there else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.spec = sys.modules[spec.name].__spec__
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
