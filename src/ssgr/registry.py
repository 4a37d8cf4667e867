"""Methods by name: a pruner, a source, an engine is one file in its package, found without being listed anywhere."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from ssgr.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """The methods of one kind, each registered by a decorator in a module of `package`.

    The package's modules are imported at the first look-up, so that registering needs no list of imports.
    """

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            if self._entries.setdefault(name, entry) is not entry:
                raise ValueError(f"two {self.kind}s are named {name}")
            return entry

        return add

    def names(self) -> list[str]:
        if not self._discovered:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._discovered = True
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """The entry of this name; raises UserError with the choices where there is none."""
        if name not in self.names():
            raise UserError(f"no {self.kind} is named {name!r}; choices: {', '.join(self.names())}")
        return self._entries[name]
