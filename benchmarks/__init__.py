"""What embstore takes, as ratios; docs/performance.md says how to read them."""
