# SPDX-License-Identifier: Apache-2.0
"""The C header compiles as C and C++, and says what the register map says."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hdl.emit import EmitError
from hdl.emit.header import render_header

REGISTERS: list[dict[str, Any]] = [
    {
        "name": "control",
        "offset": 0,
        "access": "rw",
        "doc": "Start and stop. /* nested */",
        "fields": [
            {"name": "start", "lsb": 0, "width": 1, "doc": "begin"},
            {"name": "mode", "lsb": 4, "width": 3, "values": {"idle": 0, "run": 5}},
        ],
    },
    {"name": "STATUS", "offset": 4, "access": "ro", "doc": "", "fields": [{"name": "all", "lsb": 0, "width": 32}]},
    {"name": "id", "offset": 8, "access": "ro", "doc": "", "value": 0x41334444},
]
ISA: dict[str, tuple[int, list[dict[str, Any]]]] = {
    "GEMM": (1, [{"name": "tiers", "lsb": 8, "width": 4}, {"name": "address", "lsb": 200, "width": 40}]),
    "LoadPair": (2, [{"name": "bytes", "lsb": 8, "width": 16, "doc": "at most 4 KiB"}]),
}
CONFIG = {
    "preset": 'na"no\\\n',
    "array": {"tiers": 4, "big": 1 << 40, "low": -3},
    "fast": True,
    "ratio": 0.5,
    "list": [1],
    "none": None,
}


def preprocess(text: str, expression: str, tmp_path: Path) -> int:
    source = tmp_path / "main.c"
    body = f'printf("%lld", (long long)({expression})); return 0;'
    source.write_text(f'#include "a3d.h"\n#include <stdio.h>\nint main(void) {{ {body} }}\n')
    (tmp_path / "a3d.h").write_text(text)
    subprocess.run(["g++", "-x", "c", "-o", tmp_path / "main", source], check=True, timeout=60)
    return int(subprocess.run([tmp_path / "main"], capture_output=True, check=True, timeout=60).stdout)


def test_header_compiles_without_a_warning(tmp_path: Path) -> None:
    header = tmp_path / "a3d.h"
    header.write_text(render_header(REGISTERS, ISA, CONFIG))
    source = tmp_path / "twice.c"
    names = re.findall(r"^#define (\w+) ", header.read_text(), flags=re.MULTILINE)
    assert len(names) > 20
    uses = "\n".join(f"  (void)({name});" for name in names)
    source.write_text(f'#include "a3d.h"\n#include "a3d.h"\nvoid use(void);\nvoid use(void) {{\n{uses}\n}}\n')
    for language in (["-x", "c", "-std=c99"], ["-x", "c++"]):
        command = ["g++", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic", *language, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("A3D_REG_STATUS", 4),
        ("A3D_REG_CONTROL_MODE_MASK", 0x70),
        ("A3D_REG_CONTROL_MODE_SHIFT", 4),
        ("A3D_REG_CONTROL_MODE_RUN", 5),
        ("A3D_REG_STATUS_ALL_MASK", 0xFFFFFFFF),
        ("A3D_REG_ID_VALUE", 0x41334444),
        ("A3D_OP_LOAD_PAIR", 2),
        ("A3D_GEMM_ADDRESS_LSB + A3D_GEMM_ADDRESS_WIDTH", 240),
        ("A3D_CFG_ARRAY_BIG", 1 << 40),
        ("A3D_CFG_ARRAY_LOW", -3),
        ("A3D_CFG_FAST", 1),
        ("sizeof(A3D_CFG_PRESET)", 8),
    ],
)
def test_values(expression: str, value: int, tmp_path: Path) -> None:
    assert preprocess(render_header(REGISTERS, ISA, CONFIG), expression, tmp_path) == value


def test_other_prefix() -> None:
    text = render_header(REGISTERS, ISA, {}, prefix="demo")
    assert text.count("#ifndef DEMO_H\n#define DEMO_H\n") == 1 and "A3D" not in text


def register(**changes: object) -> dict[str, Any]:
    return {"name": "R", "offset": 0, "access": "rw", "doc": "", "fields": [], **changes}


@pytest.mark.parametrize(
    ("registers", "isa", "message"),
    [
        ([register(), register()], {}, "registers R and R share the offset 0x0"),
        ([register(), register(offset=4)], {}, "would define A3D_REG_R twice"),
        ([register(offset=2)], {}, "offset 2: it must be a multiple of 4"),
        ([register(access="xx")], {}, "access 'xx': use one of ro, rw"),
        (
            [register(fields=[{"name": "f", "lsb": 30, "width": 3}])],
            {},
            "lsb 30 and width 3: it must lie within 32 bits",
        ),
        ([], {"A": (1, []), "B": (1, [])}, "instructions A and B share the opcode 0x1"),
        ([register(name="--")], {}, "gives no C identifier"),
    ],
)
def test_misuse_is_refused(registers: list[dict[str, Any]], isa: dict[str, Any], message: str) -> None:
    with pytest.raises(EmitError, match=message):
        render_header(registers, isa, {})
