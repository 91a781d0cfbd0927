import sys

import pytest

import vectors


@pytest.fixture(scope="session")
def load_vectors():
    """`load_vectors("i32")` gives the rows of that file; skips where there are none."""
    reason = vectors.missing()
    if reason:
        pytest.skip(reason)
    return vectors.load


@pytest.fixture(autouse=True)
def operators_that_ran(record_property):
    """Leaves the operators that a test has run, fixtures included, in its report."""
    yield
    # Not imported here: wasmtime must set its signal handlers after pytest has set its own.
    onengine = sys.modules.get("onengine")
    if onengine is not None and onengine.RAN:
        record_property("operators", " ".join(sorted(onengine.RAN)))
        onengine.RAN.clear()
