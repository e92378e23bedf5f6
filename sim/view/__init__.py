# SPDX-License-Identifier: Apache-2.0
"""What is made of a run: traces, timelines, pictures, reports."""
