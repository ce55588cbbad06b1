"""What embstore costs as a store grows: ``python -m benchmarks.growth --help``."""
