# SPDX-License-Identifier: Apache-2.0
"""The order of a stream, one instruction at a time: the independent reference of `scheduler.stream`."""
