"""Units: the power of two that every value of an entry is a multiple of, from the weights alone.

It tells that a query can never lie half-way between two addresses, where softmax averages.
"""

import math

from wasmjax.circuit.ranges import granularity
from wasmjax.model.own import neurons_by_entry
from wasmjax.model.symbolic import COUNT, ONE, Form, Symbolic


class Units:
    """Units of forms and entries; 0 where none is known (means over tokens)."""

    def __init__(self, symbolic: Symbolic) -> None:
        self._symbolic = symbolic
        self._neurons = neurons_by_entry(symbolic)
        self._known: dict[int, float] = {ONE: 1.0, COUNT: 1.0}

    def form(self, form: Form) -> float:
        """The unit of a form (infinite if it is nothing)."""
        units = (granularity(weight) * self.entry(entry) for entry, weight in form.items())
        return min(units, default=math.inf)

    def entry(self, number: int) -> float:
        if number not in self._known:
            self._known[number] = self._compute(number)
        return self._known[number]

    def tie_margin(self, query: Form) -> float:
        """Distance between the values of a query and the nearest half integer."""
        constant = query.get(ONE, 0.0)
        step = self.form({entry: weight for entry, weight in query.items() if entry != ONE})
        if step >= 1:
            return abs(constant % 1 - 0.5)
        shift = (0.5 - constant) % step if step else 0.0
        return min(shift, step - shift)

    def _compute(self, number: int) -> float:
        symbolic, entry = self._symbolic, self._symbolic.entries[number]
        if entry.kind == "column":
            return min(granularity(x) for x in entry.table)
        if entry.kind == "wire":
            return self.form(symbolic.wires[number])
        if entry.kind == "head":
            return 0.0 if self._uniform(number) else self._value(number)
        if entry.kind == "neuron":
            neuron = self._neurons[number]
            if set(neuron.gate) == {COUNT}:  # the count times a mean is a sum
                return self.form(neuron.gate) * self._total(neuron.value)
            return self.form(neuron.gate) * self.form(neuron.value)
        return 1.0  # a field's value

    def _total(self, form: Form) -> float:
        """The unit of a form times the count of tokens."""
        units = []
        for number, weight in form.items():
            kind = self._symbolic.entries[number].kind
            if kind == "wire":
                unit = self._total(self._symbolic.wires[number])
            elif kind == "head" and self._uniform(number):
                unit = self._value(number)
            else:
                unit = self.entry(number)
            units.append(granularity(weight) * unit)
        return min(units, default=math.inf)

    def _uniform(self, number: int) -> bool:
        layer, head, _ = self._symbolic.entries[number].index
        forms = self._symbolic.layers[layer]
        return not any(forms.q[head]) or not any(forms.k[head])

    def _value(self, number: int) -> float:
        layer, head, component = self._symbolic.entries[number].index
        return self.form(self._symbolic.layers[layer].v[head][component])
