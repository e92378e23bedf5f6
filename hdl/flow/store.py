# SPDX-License-Identifier: Apache-2.0
"""The modules of a design, each with its text, and a cache of what was found out about it.

The key of a module in the cache is made of its own text and the ports of its submodules, so that a second run
synthesises nothing, and a run after an edit only what the edit changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hdl.flow.yosys import SynthError
from hdl.scratch import scratch_folder, whole_file

__all__ = ["CACHE_VARIABLE", "ModuleStore", "cache_root", "hash_text", "module_texts", "yosys_version"]

CACHE_VARIABLE = "A3D_SYNTH_CACHE"
"""Environment variable that moves the cache away from ``build/synthcache``."""

_MODULE = re.compile(r"^(?:\(\*[^\n]*\*\)\n)?module\s+(\w+)\b.*?^endmodule$", re.MULTILINE | re.DOTALL)
_HEADER = re.compile(r"^module\s+\w+\s*\(.*?\);", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^\s*(\w+)\s+\w+\s*\(", re.MULTILINE)


def cache_root() -> Path:
    """Return the cache directory: ``$A3D_SYNTH_CACHE``, or ``build/synthcache`` below the current directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path("build") / "synthcache").absolute()


def module_texts(verilog: str) -> dict[str, str]:
    """Split Verilog text into its modules."""
    return {found[1]: found[0] + "\n" for found in _MODULE.finditer(verilog)}


def yosys_version() -> str:
    """Return the version of the Yosys that synthesises."""
    try:
        return importlib.metadata.version("pyosys")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def hash_text(text: str) -> str:
    """Return a hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class ModuleStore:
    """The modules of a design and the cache of results about them.

    Parameters
    ----------
    texts : mapping of str to str
        Verilog text of every module by name, as :class:`hdl.emit.design.EmittedDesign` has it.
    recipe : str
        What is done to a module, in words: part of its key.
    cache : Path, optional
        Cache directory; :func:`cache_root` by default.
    """

    def __init__(self, texts: Mapping[str, str], recipe: str, cache: Path | None = None) -> None:
        self.texts = dict(texts)
        self.recipe = recipe
        self.cache = cache_root() if cache is None else cache
        self.keys = {name: self._key(name) for name in self.texts}

    def mentioned(self, name: str) -> list[str]:
        """Modules that module `name` may have instances of."""
        return [word for word in dict.fromkeys(_INSTANCE.findall(self.texts[name])) if word in self.texts]

    def stub(self, name: str) -> str:
        """Return a module's ports alone, as those see it that have it as a black box."""
        header = _HEADER.search(self.texts[name])
        if header is None:
            return self.texts[name]
        # Initial values belong to registers; a black box has none.
        return re.sub(r"output reg\b", "output wire", re.sub(r" = [^,\n)]+", "", header[0])) + "\nendmodule\n"

    def write_sources(self, names: list[str], folder: Path) -> None:
        """Write modules as ``NAME.v`` and those that they mention as ``NAME.stub.v``."""
        for child in {child for name in names for child in self.mentioned(name)}:
            (folder / f"{child}.stub.v").write_text(self.stub(child), encoding="utf-8")
        for name in names:
            (folder / f"{name}.v").write_text(self.texts[name], encoding="utf-8")

    def read_passes(self, name: str) -> list[str]:
        """Return the passes that read what :meth:`write_sources` wrote for one module."""
        stubs = [f"read_verilog -lib {child}.stub.v" for child in self.mentioned(name)]
        return [*stubs, f"read_verilog {name}.v", f"hierarchy -check -top {name}"]

    def key_of(self, *parts: object) -> str:
        """Return a key for something else that belongs in the cache."""
        return hash_text(" ".join([self.recipe, *map(str, parts)]))[:32]

    def read(self, key: str) -> Any:
        """Return an entry, or None where there is none or it is not what was written."""
        try:
            text = self._path(key, ".json").read_text(encoding="utf-8")
            entry = json.loads(text)["entry"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry if text == _sealed(entry) else None

    def write(self, key: str, entry: Any) -> None:
        """Write an entry of plain data."""
        self.write_text(key, ".json", _sealed(entry))

    def read_text(self, key: str, suffix: str) -> str | None:
        """Return a text beside an entry, or None where there is none."""
        try:
            return self._path(key, suffix).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    def write_text(self, key: str, suffix: str, text: str) -> None:
        """Write a text beside an entry.

        Raises
        ------
        SynthError
            The cache cannot be written.
        """
        try:
            with whole_file(self._path(key, suffix)) as scratch:
                scratch.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SynthError(f"synthesis cache {self.cache} cannot be written: {error.strerror}") from None

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a scratch folder for a run of the tools; the cache is there, too.

        Raises
        ------
        SynthError
            The cache cannot be made.
        """
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SynthError(
                f"synthesis cache {self.cache} cannot be made: {error.strerror}; set {CACHE_VARIABLE}"
            ) from None
        with scratch_folder("a3d-synth-") as folder:
            yield folder

    def _key(self, name: str) -> str:
        parts = [f"{self.recipe} {yosys_version()}", self.texts[name]]
        parts += [self.stub(child) for child in self.mentioned(name)]
        return hash_text("\0".join(parts))[:32]

    def _path(self, key: str, suffix: str) -> Path:
        return self.cache / f"{key}{suffix}"


def _sealed(entry: Any) -> str:
    """Return the text of a cache entry, with a hash that tells whether it has been changed or cut short."""
    return json.dumps({"entry": entry, "sha256": hash_text(json.dumps(entry))})
