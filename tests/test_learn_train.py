"""Learnability: training, resumption, the script, the machine. Small models, few steps."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import learn
import learn_report
import numpy as np
import pytest
from ml_collections import ConfigDict

import onengine
import programs
import wasmjax
from wasmjax.engine.decode import Engine, Session, Stop
from wasmjax.instance import invocation_of
from wasmjax.learn import analysis, machine, suite
from wasmjax.learn.arms import Arm
from wasmjax.learn.model import forward
from wasmjax.learn.rescale import largest, rescale, smallest
from wasmjax.learn.runs import Evaluation, Paused, Run
from wasmjax.learn.train import Budget, Trainer
from wasmjax.machine import isa
from wasmjax.machine.build import build_machine
from wasmjax.machine.config import SMALL, WASM
from wasmjax.machine.program import prompt, registers
from wasmjax.machine.tokens import columns
from wasmjax.model.transformer import Transformer
from wasmjax.vm import stop_rule
from wasmjax.wasm.lower import lower

ROOT = pathlib.Path(__file__).parent.parent
T1 = {"addresses": 4, "length": 12, "reads": 4, "width": 8, "values": 4}
T3 = {"places": 4, "steps": 8, "width": 16, "heads": (2, 2), "neurons": (4, 4)}
BUDGET = Budget(steps=8, batch=2, seeds=2)
LOOK = Evaluation(chunk=4, looks=2, screen=16, confirm=32, scales=(1, 4))


def bits(params):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(params)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiled in a hurry, as these models are tiny; what one test compiled, the next ones take."""
    wanted = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("jit")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in wanted}
    configure(wanted)
    yield
    configure(before)


def configure(values):
    for name, value in values.items():
        jax.config.update(name, value)


# -- gradients and frozen parts ---------------------------------------------------------------


def test_gradients_flow_where_claimed(compiled):
    """Through both kinds of soft attention and the straight-through hard one, to every part."""
    task = suite.build("T3", T3)
    for kind in ("softmax", "hard", "entmax"):
        trainer = Trainer(task, Arm("x", attention=kind), BUDGET)
        params = jax.tree.map(lambda x: x[0], trainer.begin().params)
        grads = jax.jit(jax.grad(trainer.loss))(params, trainer.held_out(0, 8), 1.0)
        for layer in grads["blocks"]:
            for name in ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_in", "w_out"):
                assert float(jnp.abs(layer[name]).max()) > 0, (kind, name)
        for table in grads["embedding"].values():
            assert float(jnp.abs(table).max()) > 0
    # Plain argmax sends nothing to W_Q and W_K.
    trainer = Trainer(task, Arm("x"), BUDGET)
    trainer._apply = lambda p, t, b, tail: forward(p, t, task.shape, "argmax", b, tail)
    grads = jax.jit(jax.grad(trainer.loss))(params, trainer.held_out(0, 8), 1.0)
    assert float(jnp.abs(grads["blocks"][1]["w_q"]).max()) == 0
    assert float(jnp.abs(grads["blocks"][1]["w_v"]).max()) > 0


def test_named_signals_are_supervised(compiled):
    task = suite.build("T3", T3)
    plain, told = (Trainer(task, Arm("x", supervision=s), BUDGET) for s in ("tokens", "signals"))
    params = jax.tree.map(lambda x: x[0], plain.begin().params)
    data = plain.held_out(0, 4)
    grads = [jax.jit(jax.grad(t.loss))(params, data, 1.0) for t in (plain, told)]
    assert float(jnp.abs(grads[0]["probe"]).max()) == 0 < float(jnp.abs(grads[1]["probe"]).max())


def test_frozen_parts_stay_bit_identical(compiled):
    task = suite.build("T3", T3)
    frozen = ("embedding.*", "position", "blocks.1.w_q", "blocks.1.w_k")
    trainer = Trainer(task, Arm("x", frozen, frozen), BUDGET)
    state = trainer.begin()
    before = jax.tree.map(np.asarray, state.params)
    after = trainer.chunk(state, 4)[0].params
    for name in ("embedding", "position", "sharpness"):
        assert bits(before[name]) == bits(after[name])
    for name in ("w_q", "w_k"):
        assert bits(before["blocks"][1][name]) == bits(after["blocks"][1][name])
    for name in ("w_v", "w_o", "w_gate", "w_in", "w_out"):
        assert bits(before["blocks"][1][name]) != bits(after["blocks"][1][name])
    # All seeds hold the construction there.
    reference = np.asarray(trainer.reference.params["blocks"][1]["w_q"])
    np.testing.assert_array_equal(np.asarray(after["blocks"][1]["w_q"]), np.stack([reference] * 2))


def test_given_coordinates_are_nobody_elses(compiled):
    task = suite.build("T1.parabola", T1)
    given = ("embedding.kind", "embedding.a")
    trainer = Trainer(task, Arm("x", given, given), BUDGET)
    params = trainer.chunk(trainer.begin(), 4)[0].params
    tables = trainer.reference.params["embedding"]
    used = np.asarray(tables["kind"].any(0) | tables["a"].any(0))
    value = np.asarray(params["embedding"]["v"])
    assert not value[..., used].any() and value[..., ~used].all()


def test_wired_noise_keeps_zeros(compiled):
    task = suite.build("T3", T3)
    trainer = Trainer(task, suite.noise(0.1, wired=True), BUDGET)
    reference = trainer.reference.params
    state = trainer.begin()
    begun = jax.tree.map(np.asarray, state.params)
    after = trainer.chunk(state, 4)[0].params
    for built, first, last in zip(*map(jax.tree.leaves, (reference, begun, after)), strict=True):
        zero = np.broadcast_to(np.asarray(built) == 0, first.shape)
        assert not first[zero].any() and not np.asarray(last)[zero].any()
    dense = Trainer(task, suite.noise(0.1), BUDGET).begin().params
    assert (np.asarray(dense["blocks"][1]["w_q"]) != 0).all()
    # Noise is relative: a tenth of an entry's own size.
    built = np.asarray(reference["embedding"]["a"])
    ratio = (begun["embedding"]["a"] / np.where(built, built, 1))[:, built != 0]
    assert 0.03 < np.std(ratio) < 0.3


def test_temperature_schedule():
    task = suite.build("T1.free", T1)
    trainer = Trainer(task, Arm("x"), Budget(steps=100, seeds=1))
    found = [float(trainer.beta(step)) for step in (0, 20, 55, 90, 100)]
    assert found[0] == found[1] == pytest.approx(1) and found[3] == found[4]
    assert found[2] ** 2 == pytest.approx(found[1] * found[3])
    assert found[4] == pytest.approx(trainer.last_beta)


# -- runs -------------------------------------------------------------------------------------


def run_of(folder, budget=BUDGET, look=LOOK, **more):
    return Run(folder, suite.build("T1.free", T1), Arm("x"), budget, look, progress=False, **more)


def without_time(result):
    return {k: v for k, v in result.items() if k != "seconds_of_last_call"}


def test_same_seed_same_numbers_and_resumption(tmp_path, compiled):
    whole = run_of(tmp_path / "a").execute()
    with pytest.raises(Paused):  # after a chunk, as if killed
        run_of(tmp_path / "b", seconds=0.0).execute()
    half = run_of(tmp_path / "b")
    assert not half.done and int(half.restore().step[0]) == 4
    assert without_time(half.execute()) == without_time(whole)
    states = [run_of(tmp_path / x).restore() for x in "ab"]
    assert bits(states[0]) == bits(states[1])
    lines = [(tmp_path / x / "T1.free" / "x" / "metrics.jsonl").read_text() for x in "ab"]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == 3
    other = run_of(tmp_path / "c", seed=1).execute()
    assert other["accuracy_by_length"] != whole["accuracy_by_length"]


def test_records_of_runs(tmp_path, compiled):
    folder = tmp_path / "T1.free" / "x"
    first = run_of(tmp_path).execute()
    record = json.loads((folder / "config.json").read_text())
    assert record["config"]["seed"] == 0 and record["revision"]
    with pytest.raises(ValueError, match="another configuration"):
        run_of(tmp_path, budget=Budget(steps=9)).execute()
    # A record from before a field existed is the same run.
    del record["config"]["evaluation"]["total"], record["config"]["arm"]["wired"]
    (folder / "config.json").write_text(json.dumps(record))
    assert run_of(tmp_path).execute() == json.loads(json.dumps(first))
    # Judged on more, the training stays: every seed counts as much as the others.
    state = (folder / "metrics.jsonl").read_text()
    again = run_of(tmp_path, look=dataclasses.replace(LOOK, total=100)).execute()
    assert first["held_out"]["tokens"] == 2 * 16 and again["held_out"]["tokens"] >= 100
    assert again["by_length"] == first["by_length"]
    assert (folder / "metrics.jsonl").read_text() == state


def test_the_construction_recovers(tmp_path, compiled):
    """Noise that is nearly none, hardly trained: exact in every seed, at a small distance."""
    gentle = dataclasses.replace(BUDGET, learning_rate=1e-9, steps=4)
    task = suite.build("T3", T3)
    run = Run(tmp_path, task, suite.noise(1e-9, wired=True), gentle, LOOK, progress=False)
    result = run.execute()
    assert result["recovered"] == [True, True]
    assert result["by_length"]["4"]["exact_rollout"] == 1
    assert all(c["tokens"] >= 32 for c in result["confirmed"])
    found = analysis.analyse(run)
    assert max(found["distance"]) < 0.05 and max(found["disagreement"]) == 0
    assert max(found["barrier"]) < 0.1 and found["fields_right"] == [1, 1]


def test_copy_last(tmp_path, compiled):
    """Right where the last write of all is asked for: one time in four addresses, or by chance."""
    look = dataclasses.replace(LOOK, screen=1024)
    task = suite.build("T1.free", T1)
    arm = Arm("copy", baseline="copy_last")
    result = Run(tmp_path, task, arm, BUDGET, look, progress=False).execute()
    expected = 1 / 4 + 3 / 4 * 1 / 4
    assert result["accuracy_by_length"]["4"] == pytest.approx([expected] * 2, abs=0.07)
    assert result["recovered_count"] == 0


@pytest.mark.parametrize("name", ["lstm", "standard", "wide"])
def test_baselines_train(name, compiled):
    task = suite.build("T1.free", T1)
    trainer = Trainer(task, Arm("x", baseline=name), BUDGET)
    state = trainer.begin()
    before = bits(state.params)
    state, loss, norm = trainer.chunk(state, 2)
    assert np.isfinite(loss).all() and (np.asarray(norm) > 0).all()
    assert any(a != b for a, b in zip(before, bits(state.params), strict=True))


# -- the script -------------------------------------------------------------------------------


def config_of(name):
    sys.path.insert(0, str(ROOT / "configs"))
    config = __import__(name).get_config()
    sys.path.pop(0)
    return config


def tiny(name, **tasks):
    """A configuration of configs/, cut down to a few steps."""
    config = config_of(name)
    config.budget.update({"steps": 4, "batch": 1, "seeds": 2})
    config.evaluation.update({"chunk": 4, "looks": 1, "screen": 8, "confirm": 16, "total": 0})
    config.evaluation.scales = (1, 4)
    config.tasks = ConfigDict(tasks)
    return config


def test_configurations_name_what_exists():
    for name in ("learn_smoke", "learn_cpu", "learn_gpu"):
        config = config_of(name)
        for key, entry in config.tasks.items():
            known = suite.arms(entry.get("task", key).replace("_", "."))
            assert set(entry.get("arms", ())) <= set(known)
            assert all(0 < sigma <= 1 for sigma in entry.get("sigmas", ()))


@pytest.mark.parametrize("key", ["T1_free", "T3", "T5_small"])
def test_gpu_configuration_in_full_size(key, tmp_path):
    """Everything but the numbers: the whole training step of every seed, traced."""
    config = config_of("learn_gpu")
    config.tasks = ConfigDict({key: config.tasks[key]})
    run = next(learn.planned(config, tmp_path))
    state = jax.eval_shape(run.trainer.begin)
    after, loss, norm = jax.eval_shape(lambda state: run.trainer.chunk(state, 2), state)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert loss.shape == norm.shape == (config.budget.seeds,)


def test_gpu_configuration_in_small(tmp_path, compiled):
    """What configs/learn_gpu.py asks for is trained and reported, cut down."""
    t1 = {"options": T1, "arms": ("random_softmax",)}
    t7 = {"task": "T1_free", "options": T1, "sigmas": (1e-4,), "wired": (False, True)}
    config = tiny("learn_gpu", T1_free=t1, T7_T1=t7)
    runs = list(learn.planned(config, tmp_path))
    assert [run.arm.name for run in runs] == ["random_softmax", "sigma_0.0001", "wired_0.0001"]
    for run in runs:
        run.progress = False
        assert len(run.execute()["recovered"]) == 2
    text = learn_report.make(config, tmp_path, tmp_path / "report")
    assert "| random_softmax | 0 of 2 |" in text and "| T7.T1 | kept | 0.0001 |" in text
    value = json.loads((tmp_path / "report" / "results.json").read_text())
    assert set(value) >= {"revision", "tasks", "heads", "gradients"}
    curves = value["tasks"]["T7"]["curves"]
    assert [curve["name"] for curve in curves] == ["T1, zeros disturbed", "T1, zeros kept"]
    assert all(curve["seeds"] == [2] and len(curve["wilson"]) == 1 for curve in curves)
    (arm,) = value["tasks"]["T1"]["arms"]
    assert arm["seeds"] == 2 and all(len(point) == 4 for point in arm["curve"])
    assert np.array(value["heads"]["T1"]["learned"]["keys"]).shape == (4, 2)
    for name in ("t1.png", "t7.png", "t1_head.png", "gradients.png"):
        assert (tmp_path / "report" / name).read_bytes()[:4] == b"\x89PNG"
    page = tmp_path / "page.md"
    page.write_text(f"before\n{learn_report.BEGIN}\nold\n{learn_report.END}\nafter\n")
    learn_report.insert(page, text)
    assert "old" not in page.read_text() and page.read_text().endswith("\nafter\n")


def test_bad_input_is_one_line(tmp_path):
    script = [sys.executable, ROOT / "scripts" / "learn.py"]
    config = f"--config={ROOT / 'configs' / 'learn_smoke.py'}"
    done = subprocess.run(
        [*script, config, f"--out={tmp_path}", "--only=T9/*"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.strip().endswith("no arm matches T9/*")
    assert "Traceback" not in done.stderr
    wrong = tiny("learn_smoke", T1_free={"arms": ("nothing",)})
    with pytest.raises(ValueError, match=r"task T1\.free has no arm nothing"):
        list(learn.planned(wrong, tmp_path))


# -- the machine ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "most", "engine", "cache"),
    [
        (rescale, 32, "packed", "indexed"),
        (rescale, 32, "dense", "softmax"),
        (smallest, 2, "packed", "hull"),
        (smallest, 2, "dense", "softmax"),
    ],
)
def test_rescaled_small_machine_gives_the_same_tokens(method, most, engine, cache):
    weights = build_machine(SMALL).weights
    scaled = method(weights).weights
    assert largest(scaled) <= most < 10**6 <= largest(weights)
    stop = Stop(columns(SMALL)["kind"], isa.STOP_KINDS, isa.STOP_KINDS)
    tokens = prompt(SMALL, programs.counter_loop(SMALL, 5))
    expected = machine.truth(SMALL, tokens, 100)
    session = Session(Engine(scaled, stop, engine, cache, chunk=64))
    session.feed(tokens)
    made = np.concatenate([kept for _, kept in session.generate(100, keep_all=True)])
    np.testing.assert_array_equal(made, expected)
    assert session.stopped


def fib():
    """A real program's prompt for the universal machine and what follows: fib(10)."""
    lowered = lower(wasmjax.load(ROOT / "examples" / "freestanding" / "fib.wasm"))
    tokens = prompt(WASM, lowered.program)
    call = invocation_of(lowered.program, registers(WASM, tokens), lowered.exports["fib"], (10,))
    tokens = np.concatenate([tokens, call])
    return tokens, machine.truth(WASM, tokens, 1000)


def test_rescaled_universal_machine_gives_the_same_tokens():
    weights = onengine.machine().engine.weights
    scaled = smallest(weights).weights
    assert largest(scaled) == 32 and largest(weights) > 2**50
    tokens, expected = fib()
    found = wasmjax.Machine(model=Transformer(scaled)).engine
    session = Session(found)
    session.feed(tokens)
    made = np.concatenate([kept for _, kept in session.generate(1000, keep_all=True)])
    np.testing.assert_array_equal(made, expected)


def test_a_head_put_back_is_executed():
    """A head in the learned form, here the construction's own: same tokens; a wrong one: others."""
    built = build_machine(WASM)
    tokens, expected = fib()
    ideal = machine.LearnedHead(np.array([[2.0, 0, 0, 0], [0, -1.0, -(2.0**16), 0]]), 1.0)
    same = machine.put_back(built.weights, built.names, "fetch", ideal)
    assert machine.compare(WASM, same, stop_rule(), tokens, expected) == (len(expected), "")
    wrong = machine.LearnedHead(np.array([[2.0, 0, 0, 0], [0, -0.5, -(2.0**16), 0]]), 0.0)
    other = machine.put_back(built.weights, built.names, "fetch", wrong)
    right, why = machine.compare(WASM, other, stop_rule(), tokens, expected)
    assert right < len(expected) and why
    with pytest.raises(ValueError, match="no head group nothing"):
        machine.put_back(built.weights, built.names, "nothing", ideal)


def test_learned_head_is_read_off():
    """From the construction of T1.head, in any gauge, comes the parabola."""
    task = suite.build("T1.head", {"addresses": 8, "length": 24, "reads": 8})
    params = task.reference().params
    block = params["blocks"][0]
    gauge = np.array([[1.0, 0.5], [-0.25, 2.0]])
    block["w_q"] = jnp.einsum("cd,hce->hde", gauge, block["w_q"])
    block["w_k"] = jnp.einsum("cd,hde->hce", np.linalg.inv(gauge), block["w_k"])
    head = machine.learned_head(params, 0, 8)
    assert head.margin == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(head.key_2x4[0, :2], [2, 0], atol=0.01)
    assert head.key_2x4[1, 1] == pytest.approx(-1, abs=0.01) and head.key_2x4[1, 2] < -64


def test_noise_on_the_whole_machine():
    """Softly disturbed it still answers; more, and the answers go; certified engines refuse."""
    weights = build_machine(SMALL).weights
    stop = Stop(columns(SMALL)["kind"], isa.STOP_KINDS, isa.STOP_KINDS)
    tokens = prompt(SMALL, programs.counter_loop(SMALL, 3))
    expected = machine.truth(SMALL, tokens, 100)
    right = [
        machine.agreement(machine.noisy(weights, sigma, 0, wired=True), tokens, expected).mean()
        for sigma in (0.0, 1e-7, 0.1)
    ]
    assert right[:2] == [1, 1] and right[2] < 0.9
    assert machine.refusal(weights, stop, "packed", "indexed") == ""
    disturbed = machine.noisy(weights, 1e-4, 0, wired=True)
    assert "layer 0 head 0" in machine.refusal(disturbed, stop, "packed", "indexed")
