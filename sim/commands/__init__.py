# SPDX-License-Identifier: Apache-2.0
"""The subcommands of ``a3d``: one module each, with ``add_parser(subparsers)`` and ``run(args) -> int``."""
