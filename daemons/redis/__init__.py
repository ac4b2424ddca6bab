"""The embedded Redis or Valkey server."""
