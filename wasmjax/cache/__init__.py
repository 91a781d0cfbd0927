"""KV caches: what a transformer remembers of earlier tokens, behind one interface."""

from wasmjax.cache.base import Attention, Cache, CacheState
from wasmjax.cache.hull import HullCache, HullState
from wasmjax.cache.indexed import IndexedCache, IndexedState
from wasmjax.cache.softmax import SoftmaxCache, SoftmaxState

__all__ = [
    "Attention",
    "Cache",
    "CacheState",
    "HullCache",
    "HullState",
    "IndexedCache",
    "IndexedState",
    "SoftmaxCache",
    "SoftmaxState",
]
