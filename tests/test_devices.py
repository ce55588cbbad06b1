"""Several processes compute: device=["cpu", "cpu"], and a pool of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from embstore import CachedEncoder, EmbeddingStore


def test_list_of_devices_and_pool(static: Any, texts: list[str], store: EmbeddingStore) -> None:
    encoder = CachedEncoder(static, store)
    expected = static.encode(texts)

    cold = encoder.encode(texts[:10], device=["cpu", "cpu"], chunk_size=3)
    assert type(cold) is np.ndarray
    np.testing.assert_allclose(cold, expected[:10], rtol=0, atol=1e-6)

    pool = encoder.start_multi_process_pool(["cpu"])
    try:
        mixed = encoder.encode(texts, pool=pool, convert_to_tensor=True)
        bare = static.encode(texts, pool=pool, convert_to_tensor=True)
    finally:
        encoder.stop_multi_process_pool(pool)
    assert (type(mixed), mixed.dtype, mixed.device) == (torch.Tensor, bare.dtype, bare.device)
    assert torch.allclose(mixed, bare, rtol=0, atol=1e-6)
    assert mixed[:10].numpy().tobytes() == cold.tobytes()
    assert store.stats().misses == len(texts)

    # The pool is gone: were anything computed in it, this would not return.
    listed = encoder.encode(texts, pool=pool, convert_to_numpy=False)
    assert torch.stack(listed).equal(mixed)
    quantized = encoder.encode(texts, device=["cpu", "cpu"], precision="ubinary")
    assert (quantized.dtype, quantized.shape) == (np.uint8, (len(texts), 48))
    assert store.stats().misses == len(texts)
