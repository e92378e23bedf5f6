# SPDX-License-Identifier: Apache-2.0
"""HBM behind a memory channel: banks and rows, the controller's rules, refresh."""
