"""Measuring how embeddings are made: batch sizes, caches, and what to choose."""
