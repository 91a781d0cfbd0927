from collections import Counter

import pytest

from vectors import Value


@pytest.mark.parametrize(
    "name, operations",
    [("i32", 29), ("i64", 29), ("signext", 5), ("f32", 20), ("f64", 20), ("satfloat", 8)],
)
def test_files_are_read(load_vectors, name, operations):
    rows = load_vectors(name)
    assert len(Counter(row.operation for row in rows)) == operations
    for row in rows:
        assert (row.trap is None) == bool(row.results)
        assert all(isinstance(value.bits, int) for value in row.operands)


def test_a_trap_is_read(load_vectors):
    assert "integer divide by zero" in {row.trap for row in load_vectors("i32")}


@pytest.mark.parametrize(
    "value, accepted, refused",
    [
        (Value("i32", 7), 7, 8),
        (Value("f32", "nan:canonical"), 0xFFC0_0000, 0x7FC0_0001),
        (Value("f32", "nan:arithmetic"), 0x7FC0_0001, 0x7FA0_0000),
        (Value("f64", "nan:canonical"), 0x7FF8_0000_0000_0000, 0x7FF8_0000_0000_0001),
        (Value("f64", "nan:arithmetic"), 0xFFF8_0000_0000_0001, 0x7FF0_0000_0000_0000),
    ],
)
def test_values_accept_their_bits(value, accepted, refused):
    assert value.accepts(accepted)
    assert not value.accepts(refused)
