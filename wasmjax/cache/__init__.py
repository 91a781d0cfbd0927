"""KV caches: what a transformer remembers of earlier tokens, behind one interface."""

from wasmjax.cache.indexed import IndexedCache, IndexedState
from wasmjax.cache.softmax import SoftmaxCache, SoftmaxState

Cache = IndexedCache | SoftmaxCache
CacheState = IndexedState | SoftmaxState

__all__ = [
    "Cache",
    "CacheState",
    "IndexedCache",
    "IndexedState",
    "SoftmaxCache",
    "SoftmaxState",
]
