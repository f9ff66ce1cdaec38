"""The clock by which a replica tells whether its leases may be over."""

from __future__ import annotations

import time
from functools import partial

lease_clock = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds, those of a machine that was suspended among them where the system counts them."""
