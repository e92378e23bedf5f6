# SPDX-License-Identifier: Apache-2.0
"""The reader of energy tables: the one that comes with the package, and what is wrong with others."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from scheduler.cost.energy.table import ENTRIES, EnergyTableError, load_table

TEXT = resources.files("scheduler.cost.energy").joinpath("default.toml").read_text()


def saved(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


def test_the_packages_table_is_whole_and_says_where_its_numbers_are_from() -> None:
    table = load_table()
    assert table.name == "default" and len(ENTRIES) == 17
    for name in ENTRIES:
        entry = table[name]
        assert 0 <= entry.low <= entry.value <= entry.high and entry.low < entry.high
        assert entry.unit.startswith("mW" if name.startswith("static") else "pJ") and len(entry.source) > 10
    # 3.48 pJ/bit of HBM less the interposer, and an activate of 0.11 pJ/bit over 1 KB.
    assert table.hbm_read_byte.value / 8 + table.offchip_bit.value == pytest.approx(3.48)
    assert table.hbm_activate.value / 8192 == pytest.approx(0.11, abs=0.002)


def test_a_copy_is_read_as_it_is(tmp_path: Path) -> None:
    own = load_table(saved(tmp_path, TEXT.replace("value = 909.0", "value = 1000")))
    assert own.name == "own.toml" and own.hbm_activate.value == 1000.0
    assert own.mac == load_table().mac


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: re.sub(r"\[mac\]\n(.+\n)+", "", t), r"entry mac is missing; write \[mac\], and value, low"),
        (lambda t: t + "\n[adder]\nvalue = 1\n", "adder is no entry; leave it out, or use one of mac, idle_pe"),
        (lambda t: t.replace("low = 460.0", "low = 910"), "entry hbm_activate: low is 910, above the value 909.0; use"),
        (lambda t: t.replace("high = 1800.0", "high = 3"), "entry hbm_activate: high is 3, below the value 909.0; use"),
        (lambda t: t.replace("value = 909.0", "value = -1"), "hbm_activate: value is -1; use a number, 0 or more"),
        (lambda t: t.replace("value = 909.0", "value = nan"), "hbm_activate: value is nan; use a number, 0 or more"),
        (lambda t: t.replace("value = 909.0", "value = true"), "hbm_activate: value is True; use a number"),
        (lambda t: t.replace("value = 909.0", 'value = "9"'), "hbm_activate: value is '9'; use a number, 0 or more"),
        (lambda t: t.replace("value = 909.0\n", ""), "entry hbm_activate: value is missing; write value ="),
        (lambda t: t.replace("value = 909.0", "values = 9"), "hbm_activate: values is no field; use value, low, high"),
        (lambda t: t.replace('"interposer"', '" "'), "entry offchip_bit: technology is ' '; use a text"),
        (lambda t: "mac = 3\n" + re.sub(r"\[mac\]\n(.+\n)+", "", t), r"entry mac: 3; write \[mac\], and"),
        (lambda t: t + "\n[mac", "is not TOML: .*; correct it"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_entry_and_value(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(EnergyTableError, match=message) as caught:
        load_table(saved(tmp_path, change(TEXT)))
    assert "own.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(EnergyTableError, match=r"absent.toml: does not exist; name a TOML file"):
        load_table(tmp_path / "absent.toml")
    with pytest.raises(EnergyTableError, match="is not a file; name a TOML file"):
        load_table(tmp_path)
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EnergyTableError, match="raw.toml: cannot be read: .*; save it as UTF-8"):
        load_table(tmp_path / "raw.toml")
