# SPDX-License-Identifier: Apache-2.0
"""What the machine is given: random streams, illegal streams, random configurations and models, example programs."""
