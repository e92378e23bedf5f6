# SPDX-License-Identifier: Apache-2.0
"""The simulated machine: jobs, sessions, and what generates text on it."""
