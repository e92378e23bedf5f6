# SPDX-License-Identifier: Apache-2.0
"""Text generation on the machine: model, batch, sampling, engines, report."""
