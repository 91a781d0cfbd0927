"""Output fields as numbers: a proof that argmax over a field's logits is rounding."""

import dataclasses

import numpy as np

from wasmjax.model.symbolic import Form, Symbolic


class ReadoutError(ValueError):
    """A field whose logits are no parabola a (2 v x - v^2) + b."""


@dataclasses.dataclass(frozen=True)
class Readout:
    """An emitted field: its value is the integer nearest to `form`, if within lo..hi.

    Attributes:
      field: index in the vocabulary. form: x. lo, hi: range of the field's values.
    """

    field: int
    form: Form
    lo: int
    hi: int


def readouts(symbolic: Symbolic) -> list[Readout]:
    """The readouts of all emitted fields.

    Raises:
      ReadoutError: naming the field whose argmax is not rounding.
    """
    weights = symbolic.weights
    out = []
    for f, (field, rows) in enumerate(zip(weights.vocabulary, weights.unembedding, strict=True)):
        if rows is None:
            continue
        form = _parabola(symbolic, field.name, rows, field.lo)
        out.append(Readout(f, form, field.lo, field.lo + field.size - 1))
    return out


def _parabola(symbolic: Symbolic, name: str, rows: np.ndarray, lo: int) -> Form:
    """x of a field whose rows are a (2 v x - v^2) + b for v = lo, lo + 1, ..."""
    values = lo + np.arange(len(rows), dtype=np.float64)
    difference = rows - rows[0]
    if len(rows) < 2:
        return {}
    # Everything but the constant feature is linear in v; the constant's share is quadratic.
    ends = difference[-1] / (values[-1] - values[0])
    rest = difference - ends * (values - values[0])[:, None]
    bent = np.flatnonzero(np.any(rest != 0, axis=0))
    if len(rows) == 2:
        curvature = np.zeros(rows.shape[1])
        raise ReadoutError(f"field {name}: two entries do not determine a parabola")
    curvature = rows[2] - 2 * rows[1] + rows[0]
    scale = symbolic.row(curvature)
    a = -_constant(scale, name) / 2
    expected = -(values - values[0]) * (values - values[-1])
    for c in bent:
        if not np.array_equal(rest[:, c], -curvature[c] / 2 * expected):
            raise ReadoutError(f"field {name}: its logits are no parabola")
    if not a > 0:
        raise ReadoutError(f"field {name}: its logits have no maximum")
    # rows[v] - rows[0] = 2 a (v - v0) x - a (v^2 - v0^2): at v = hi this gives x.
    form = symbolic.row(ends / (2 * a))
    form[0] = form.get(0, 0.0) + (values[-1] + values[0]) / 2
    return {entry: weight for entry, weight in form.items() if weight}


def _constant(form: Form, name: str) -> float:
    if any(entry != 0 for entry in form) or not form:
        raise ReadoutError(f"field {name}: its logits are no parabola")
    return form[0]
