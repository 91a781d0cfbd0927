"""Interactive exploration of a run: what `wasmjax explore` serves and exports (docs/explore.md)."""
