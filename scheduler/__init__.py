# SPDX-License-Identifier: Apache-2.0
"""The first floor: models, their memory, planning, lowering, streams with their verifier, and costs (imports hdl)."""
