import pytest

import vectors


@pytest.fixture(scope="session")
def load_vectors():
    """`load_vectors("i32")` gives the rows of that file; skips where there are none."""
    reason = vectors.missing()
    if reason:
        pytest.skip(reason)
    return vectors.load
