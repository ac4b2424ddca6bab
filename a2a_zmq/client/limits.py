"""Bounds and pauses of the client's core."""

from __future__ import annotations

from typing import Final

# Largest body of one task until the coordinator's welcome says otherwise; below the transport's limit of 1 MiB a frame.
DEFAULT_MAX_PAYLOAD_BYTES: Final = 900 * 1024
# Pause before a request is repeated when the refusal names none (a coordinator that is loading or stepping down).
DEFAULT_RETRY_AFTER_S: Final = 0.2
# How often deadlines of unanswered requests are looked at; a caller's deadline is kept to this precision.
DEADLINE_SCAN_S: Final = 0.1

# What a task's body has besides its payload at most (ids, metadata); the coordinator judges the payload itself.
BODY_OVERHEAD_BYTES: Final = 8 * 1024

# An authentic refusal of our greeting: unless keys or clocks change within a moment, repeating it does not help.
FINAL_REFUSALS: Final = frozenset({"token", "identity", "revoked", "forbidden", "version", "skew"})
LOCKED_OUT_S: Final = 2.0

# Refusals that say "not now": the request is repeated until its deadline. All others are final.
TRANSIENT: Final = frozenset({"BUSY", "UNAVAILABLE", "NOT_LEADER", "DRAINING"})
# What a coordinator answers to a message that it cannot read, whatever is in it.
MALFORMED: Final = "MALFORMED"
