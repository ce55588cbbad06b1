"""A store on a Redis or Valkey server (docs/server.md)."""
