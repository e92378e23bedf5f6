# SPDX-License-Identifier: Apache-2.0
"""cocotb benches: each module holds the coroutines that run inside the simulator."""
