# SPDX-License-Identifier: Apache-2.0
"""Energy of a run: what was done, times what each of it takes by a table that a user can replace."""
