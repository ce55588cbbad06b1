"""One file for each cache, or family: how someone who knows it would keep vectors of texts in it.

A class takes a folder and a dimension, and is a :class:`~benchmarks.peers.base.Peer`. A file
imports what it wraps and little else: new processes that import it are measured.
"""
