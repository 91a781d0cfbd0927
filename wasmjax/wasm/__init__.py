"""WebAssembly binaries: decoding, validation and lowering to flat code."""
