"""The client: how programs give a fleet work. See ``docs/client.md``."""
