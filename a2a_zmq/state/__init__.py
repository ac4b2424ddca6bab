"""Shared state: stores, leases, hints and key names; import what you need from the modules (no Redis for pure code)."""
