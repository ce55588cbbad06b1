"""Measuring how embeddings are made: batch sizes, caches, and what to choose."""

from embstore.batching.cache_benchmarks import CacheBenchmark, cache_benchmark
from embstore.batching.hit_rate import HitRates, hit_rates
from embstore.batching.impacts import Impact, impact
from embstore.batching.recommend import Recommendation
from embstore.batching.sweeps import Sweep, sweep

__all__ = [
    "CacheBenchmark",
    "HitRates",
    "Impact",
    "Recommendation",
    "Sweep",
    "cache_benchmark",
    "hit_rates",
    "impact",
    "sweep",
]
