"""How evenly Redis Cluster's hash slots would divide the rows of a namespace."""

from __future__ import annotations

import binascii

import numpy as np

SLOTS = 16_384


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM, as Redis Cluster's specification has it."""
    return binascii.crc_hqx(data, 0)


def imbalance(namespace_id: bytes, bits: int, shards: int) -> float:
    """What the fullest shard holds of a namespace, beside the mean, if its rows are in slots by a
    tag of namespace and the first ``bits`` of the digest.

    Args:
        namespace_id: 16 bytes.
        bits: 0 to 16.
        shards: servers with equal, contiguous ranges of slots.
    """
    tags = [b"%b:%04x" % (namespace_id.hex().encode(), part) for part in range(2**bits)]
    slots = np.array([crc16(tag) % SLOTS for tag in tags])
    held = np.bincount(slots * shards // SLOTS, minlength=shards)
    return float(held.max() / held.mean())
