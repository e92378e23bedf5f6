# SPDX-License-Identifier: Apache-2.0
"""The machine's memory: what lies where, and with which bytes."""
