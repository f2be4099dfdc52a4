# SPDX-License-Identifier: MIT
"""The benchmark behind bench/run.py: contenders as processes, measured in turns."""
