"""The fast explanation of steps is `Machine.explain`'s, and says so where softmax ends."""

import dataclasses

import numpy as np
import pytest

import exploring
import onengine
import wasmjax
from wasmjax.explore import hull
from wasmjax.explore.columns import unpack
from wasmjax.explore.exploration import model
from wasmjax.explore.heads import Explained
from wasmjax.model.explain import StepExplanation


def assert_same(reference: StepExplanation, found: Explained, s: int) -> None:
    """Position `s` of `found` is the reference; sums are rounded in another order."""
    for n, head in enumerate(reference.heads):
        np.testing.assert_allclose(found.query[s, n], head.query, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(found.output[s, n], head.output, rtol=1e-12, atol=1e-12)
        if head.uniform:
            assert np.isnan(found.weight[s, n])
            continue
        got = found.answered[s, n], found.weight[s, n], *found.key[s, n], *found.value[s, n]
        assert got == (head.answered, head.weight, *head.key, *head.value), head.name
    # Rounding leaves neurons that clear an inexact sum with next to nothing, or with nothing.
    mine = found.neurons[:, 0] == s
    places, outputs = found.neurons[mine][:, 1:].tolist(), found.active[mine][:, 2]
    got_neurons = {(k, n): x for (k, n), x in zip(places, outputs, strict=True) if abs(x) > 1e-6}
    assert got_neurons == pytest.approx(
        {(x.layer, x.neuron): x.output for x in reference.neurons if abs(x.output) > 1e-6}
    )
    np.testing.assert_allclose(found.residual[s], reference.residual, rtol=1e-12, atol=1e-9)
    assert found.emitted[s].tolist() == [*reference.emitted.values()]


def test_the_reference_s_numbers():
    machine, run = onengine.machine(), exploring.hello()
    steps = [0, 1, 7, 500, 1000, run.record.steps - 1]
    indices = np.array([run.record.index_of(step) - 1 for step in steps])
    found = run.explainer.explain(indices)
    module = wasmjax.load(exploring.EXAMPLES / "hello.wasm")
    for s in (1, 3, 5):
        assert_same(machine.explain(machine.start(module, ["program"]), steps[s]), found, s)


def test_every_step_emits_its_successor():
    """All steps of the tour at once, one by one and in any order are the same."""
    tour = exploring.the_tour()
    record, explainer = tour.run.record, tour.run.explainer
    first = record.index_of(0) - 1
    indices = np.arange(first, record.tokens - 1)
    found = explainer.explain(indices)
    assert np.array_equal(found.emitted, record.rows(first + 1, record.tokens))
    shuffled = np.random.default_rng(0).permutation(len(indices))[:40]
    again = explainer.explain(indices[shuffled])
    for name in ("answered", "weight", "value", "key"):
        expected = getattr(found, name)[shuffled]
        assert np.array_equal(getattr(again, name), expected, equal_nan=True)
    one = explainer.explain(indices[100:101])
    assert np.array_equal(one.answered[0], found.answered[100])


def test_named_heads_read_what_replaying_says():
    """The other way round: what heads answer is what was last written there."""
    tour = exploring.the_tour()
    run = tour.run
    for moment, head, address in (("add", "operand a[0]", 21), ("add", "operand b[0]", 22)):
        index = tour.before(moment)
        number = tour.head(head)
        found = run.explainer.explain(np.array([index]))
        value, writer = run.state.slots(index, address, 1)
        assert found.query[0, number].tolist() == [address, 1]
        assert found.answered[0, number] == writer[0]
        assert found.value[0, number, 0] == int(value[0]) & 255
    index = tour.before("load42")
    found = run.explainer.explain(np.array([index]))
    number = tour.head("memory bank 0[0]")
    assert found.value[0, number, 0] == 42 == run.state.memory(index, 16, 1)[0][0]


def test_beyond_the_horizon_no_weight_is_claimed(monkeypatch):
    tour = exploring.the_tour()
    explainer = tour.run.explainer
    index = tour.before("add")
    expected = explainer.explain(np.array([index]))
    monkeypatch.setattr(explainer, "horizon", index)
    found = explainer.explain(np.array([index - 1, index]))
    assert np.isnan(found.weight[1]).all() and not np.isnan(found.weight[0]).all()
    assert np.array_equal(found.answered[1], expected.answered[0])
    assert np.array_equal(found.emitted[1], expected.emitted[0])


def test_attention_that_is_spread(monkeypatch):
    """With a scale at which softmax is no lookup, weights and outputs are still the softmax's."""
    from wasmjax.model.explain import explain

    tour = exploring.the_tour()
    explainer, record = tour.run.explainer, tour.run.record
    soft = dataclasses.replace(explainer.weights, softmax_scale=0.25)
    monkeypatch.setattr(explainer, "weights", soft)
    monkeypatch.setattr(explainer, "writes", [explainer._writes(s) for s in explainer.spaces])
    index = tour.before("load42")
    tokens = record.full(np.arange(index + 1))
    reference = explain(soft, None, tokens, explainer.symbolic)
    found = explainer.explain(np.array([index]))
    # Of the first two layers: what is read there is what the next ones ask.
    for n, head in enumerate(reference.heads):
        if head.layer < 2 and not head.uniform:
            assert found.answered[0, n] == head.answered
            np.testing.assert_allclose(found.weight[0, n], head.weight, rtol=1e-9)
            np.testing.assert_allclose(found.output[0, n], head.output, rtol=1e-9, atol=1e-9)
    assert min(found.weight[0, n] for n, h in enumerate(reference.heads) if h.layer == 1) < 0.9


def test_packed_steps_come_last():
    tour = exploring.the_tour()
    indices = np.array([tour.before("add"), tour.before("load42")])
    found = tour.run.explainer.explain(indices)
    arrays = unpack(tour.run.heads(indices))
    heads = len(tour.run.explainer.heads)
    assert arrays["query"].shape == (heads, 2, 2)
    for s in range(2):
        assert np.array_equal(arrays["query"][..., s], found.query[s])
        assert np.array_equal(arrays["answered"][:, s], found.answered[s])
        lo, hi = arrays["first"][s : s + 2]
        assert np.array_equal(
            arrays["neuron"][:, lo:hi].T, found.neurons[found.neurons[:, 0] == s][:, 1:]
        )


def test_coordinates_have_the_names_of_what_they_hold_now():
    """Heads write to coordinates that are called after them, or to the part of a sum."""
    tour = exploring.the_tour()
    found = model(onengine.machine(), tour.run.explainer)
    names = found["coordinates"]
    called = [
        names[component[0][0]][head["layer"]].startswith(head["name"].split("[")[0])
        for head in found["heads"]
        for component in head["o"]
        if len(component) == 1
    ]
    assert len(called) > 250 and sum(called) / len(called) > 0.95
    (bank,) = (head for head in found["heads"] if head["name"] == "memory bank 3[0]")
    assert [names[c][3] for c, _ in bank["v"][0]] == ["bank 3 value"]


@pytest.mark.parametrize("scene", range(4))
def test_the_hull_s_path_leads_to_the_winner(scene):
    """The keys that a query compares include the one that scores highest, and not all."""
    found = exploring.the_tour().scenes[scene]
    key = np.array(found["key"])
    for position, visited in enumerate(found["visits"]):
        x = found["low"] + position / found["unit"]
        score = x * key[:, 0] + key[:, 1]
        latest = [k for k in range(len(key)) if score[k] == score.max()][-1]
        assert latest in visited
        assert len(visited) == len(set(visited)) <= 26
    asked = found["query"][0] / found["query"][1]
    score = asked * key[:, 0] + key[:, 1]
    assert found["token"][int(np.argmax(score))] == found["answered"]


def test_a_tree_of_one_key():
    from wasmjax.cache.lichao import Domain

    domain = Domain(-3, 9)
    nodes = hull.plant(np.array([4]), domain)
    assert hull.visits(nodes, domain, 0) == [0]
