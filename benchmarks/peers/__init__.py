"""embstore beside everything a user could pick instead: ``python -m benchmarks.peers``."""
