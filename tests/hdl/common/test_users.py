# SPDX-License-Identifier: Apache-2.0
"""What lies in ``hdl/common`` is used by more than one block, and uses no block."""

from __future__ import annotations

import re
from pathlib import Path

HDL = Path(__file__).resolve().parents[3] / "hdl"
BLOCKS = ("array", "control", "drain", "memory", "result", "vector", "interfaces.py", "machine.py")


def test_common_modules_have_several_users_and_use_no_block() -> None:
    for module in HDL.glob("common/[a-z]*.py"):
        name = f"hdl.common.{module.stem}"
        users = {
            path.relative_to(HDL).parts[0]
            for path in HDL.rglob("*.py")
            if re.search(rf"from {re.escape(name)} import", path.read_text()) and path.parent != module.parent
        }
        assert len(users & set(BLOCKS)) > 1, f"{name} is used by {users}"
        blocks = "|".join(block for block in BLOCKS if not block.endswith(".py"))
        assert not re.search(rf"from hdl\.({blocks})\b", module.read_text()), name
