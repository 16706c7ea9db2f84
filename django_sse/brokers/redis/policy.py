"""The policy by which Redis evicts keys, and the warning about it."""

from __future__ import annotations


def evicting_policy(memory: bytes) -> str | None:
    """Return the policy by which Redis evicts keys, from the reply to ``INFO memory``; ``None`` for none."""
    fields = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
    policy = fields.get("maxmemory_policy", "noeviction")
    # The keys of events have an expiry time, so the policies for volatile keys evict them as well.
    return None if policy == "noeviction" or fields.get("maxmemory") == "0" else policy


def eviction_text(address: str, policy: str) -> str:
    """Return the warning about a Redis that evicts keys, with the remedy."""
    return (
        f"Redis at {address} throws keys away when its memory is full (maxmemory-policy {policy}): "
        "clients lose events, and are told by a reset at best. Set maxmemory-policy noeviction, or "
        "use another Redis for events than for the cache."
    )
