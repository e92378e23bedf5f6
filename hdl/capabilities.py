# SPDX-License-Identifier: Apache-2.0
"""What a machine says about itself in its first registers, and the configuration that software makes of it.

Every field of the configuration but its name has a capability register, so that software needs nothing but the
registers to schedule for a machine that it finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from hdl.config import FEEDS, MachineConfig, field_words
from hdl.config_file import ConfigError
from hdl.errors import A3dError

__all__ = ["MAGIC", "VERSION", "Capability", "CapabilityError", "capabilities", "config_from_capabilities"]

MAGIC = 0x4133_444D
"""Value of register ID: "A3DM"."""

VERSION = (4, 0)
"""Major and minor version of instruction set and registers. The major one grows with every change that software for the
version before does not understand, the minor one with every addition; ``tests/hdl/test_capabilities.py`` pins what is
meant."""

_ENCODED: Mapping[str, tuple[object, ...]] = {"stationary_feed": FEEDS, "vertical_links": (False, True)}
"""Fields that are no numbers: their values in the order of the numbers that stand for them."""


class CapabilityError(A3dError):
    """Registers that are not those of a machine that this software knows."""


@dataclass(frozen=True)
class Capability:
    """A register that tells something about the machine: its name, its constant value, and one line."""

    name: str
    value: int
    doc: str


def _register(field: str) -> str:
    return f"CAP_{field.upper()}"


def _fields() -> list[str]:
    return [each.name for each in dataclasses.fields(MachineConfig) if each.name != "name"]


def capabilities(config: MachineConfig, counters: int) -> list[Capability]:
    """Return the capabilities of a machine in the order of their registers, given how many counters it has."""
    words = field_words()
    fields = []
    for field in _fields():
        value, doc = getattr(config, field), words[field]
        if field in _ENCODED:
            names = ", ".join(f"{number} = {name}" for number, name in enumerate(_ENCODED[field]))
            value, doc = _ENCODED[field].index(value), f"{doc} ({names.lower()})"
        fields.append(Capability(_register(field), int(value), doc))
    return [
        Capability("ID", MAGIC, "magic number of the machine"),
        Capability("VERSION", VERSION[0] << 16 | VERSION[1], "version of instruction set and registers"),
        Capability("CONFIG_HASH", int(config.digest()[:8], 16), "first 32 bits of the configuration's SHA-256"),
        *fields,
        Capability("CAP_COUNTERS", counters, "performance counters"),
    ]


def config_from_capabilities(values: Mapping[str, int], name: str = "machine") -> MachineConfig:
    """Return the configuration of a machine, given what its capability registers hold.

    Parameters
    ----------
    values : mapping of str to int
        Values by the names of the registers; others may be there too.
    name : str
        Name of the configuration, which the machine does not know.

    Raises
    ------
    CapabilityError
        A register that is missing, or a value that no machine of this version has; one line.
    """
    for register in ("ID", "VERSION", "CONFIG_HASH", *map(_register, _fields())):
        if register not in values:
            raise CapabilityError(f"register {register}: not read; read all capability registers")
    if values["ID"] != MAGIC:
        raise CapabilityError(f"register ID: {values['ID']:#x} is not {MAGIC:#x}; is there a machine at this address?")
    major, minor = values["VERSION"] >> 16, values["VERSION"] & 0xFFFF
    if major != VERSION[0]:
        raise CapabilityError(
            f"register VERSION: the machine has version {major}.{minor}, this software is for {VERSION[0]}.x; "
            "use software of the machine's version"
        )
    fields: dict[str, object] = {}
    for field in _fields():
        value: object = values[_register(field)]
        if field in _ENCODED:
            choices = _ENCODED[field]
            if value not in range(len(choices)):
                raise CapabilityError(
                    f"register {_register(field)}: {value} is not defined; it is 0 to {len(choices) - 1}"
                )
            value = choices[values[_register(field)]]
        fields[field] = value
    try:
        config = MachineConfig(name=name, **fields)  # type: ignore[arg-type]
    except ConfigError as error:
        raise CapabilityError(f"capability registers: {error}") from None
    expected = int(config.digest()[:8], 16)
    if values["CONFIG_HASH"] != expected:
        raise CapabilityError(
            f"register CONFIG_HASH: {values['CONFIG_HASH']:#010x} is not the {expected:#010x} of the capabilities; "
            "read the registers again, or use software of the machine's version"
        )
    return config
