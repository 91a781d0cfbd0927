"""The benchmark suite's bookkeeping: resumption, failures, tables. Nothing here is timed."""

import json
import pathlib
from types import SimpleNamespace

import bench
import bench_report
import pytest
from bench_points import Suite

CONFIG = {
    "platform": "cpu",
    "limits": False,
    "count_steps": (),
    "yardsticks": (),
    "lengths": (),
    "against_plain": (),
    "devices": (),
    "workloads": ("quicksort", "fib"),
    "repeats": 1,
    "one_lane": (("packed", "indexed", False, 400), ("packed", "indexed", True, 400)),
    "lanes": (),
    "jobs_per_lane": 1,
    "native": True,
    "external": {},
}


def suite(**changes):
    return Suite(SimpleNamespace(**CONFIG | changes))


class Counted(Suite):
    """Measures nothing; fails where it is told to."""

    def __init__(self, failing=()):
        super().__init__(SimpleNamespace(**CONFIG))
        self.failing, self.measured = failing, []

    def measure(self, point):
        self.measured.append(bench_report.key(point))
        if point["workload"] in self.failing:
            raise ValueError("no\nluck")
        rates = {"steps_per_s": 10.0, "instructions_per_s": 20.0, "instructions": 1234}
        first = {"first_token_cold_s": 0.75, "first_token_warm_s": 0.5}
        return rates | first | {"steps_per_instruction": 0.5, "peak_mib": 700.0}


def test_what_is_measured_is_not_measured_again(tmp_path):
    first = Counted(failing=("fib",))
    records = bench.run(first, tmp_path)
    assert len(first.measured) == len(records) == 6
    assert [r["error"] for r in records if "error" in r] == ["ValueError: no luck"] * 3
    second = Counted()
    records = bench.run(second, tmp_path)
    assert len(second.measured) == 3 and all("fib" in key for key in second.measured)
    assert len(records) == 9 and len(bench_report.good(records)) == 6
    third = Counted()
    assert len(bench.run(third, tmp_path)) == 9 and third.measured == []
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    assert all(record["environment"]["jax"] for record in records)


def test_tables_show_failures(tmp_path):
    records = bench.run(Counted(failing=("fib",)), tmp_path)
    text = bench_report.tables(records)
    assert (
        "| quicksort | 1,234 | 0.50 | 0.50 | 10 | 10 | 20 | 20 | 0.75 s, 0.50 s | 700 | 20 |"
        in text
    )
    assert "native, fib: ValueError: no luck" in text
    bench_table = bench_report.tables(bench.run(Counted(), tmp_path))
    assert "| fib |" in bench_table and "ValueError" not in bench_table


def test_points_of_one_lane():
    """Steps, tokens and instructions are counted, whatever the time they take."""
    made = suite(workloads=("fib",), one_lane=(("packed", "indexed", True, 400),))
    made.workloads["fib"].args = ["3"]
    native, one = made.points()
    assert (native["kind"], one["kind"]) == ("native", "one lane")
    made.workloads["fib"].stdout = _printed(made.workloads["fib"])
    result = made.measure(one)
    assert result["instructions"] == made.measure(native)["instructions"] > 100
    assert 0 < result["steps"] < 400 and result["prompt_tokens"] > 400
    assert result["steps_per_s_min"] <= result["steps_per_s"] <= result["steps_per_s_max"]


def _printed(workload):
    import onengine
    import wasmjax

    module = wasmjax.load(workload.path)
    return onengine.machine().run(module, workload.args).stdout


def test_wrong_output_is_an_error(tmp_path):
    made = suite(workloads=("fib",), native=True, one_lane=())
    made.workloads["fib"].args, made.workloads["fib"].stdout = ["3"], b"nonsense"
    (record,) = bench.run(made, tmp_path)
    assert "printed something else in wasmtime" in record["error"]


def test_external_commands():
    external = {"cat": "cat {wasm}", "false": "false"}
    made = suite(workloads=("fib",), native=False, one_lane=(), external=external)
    good, bad = made.points()
    assert made.measure(good)["instructions_per_s"] > 0
    with pytest.raises(Exception, match="non-zero exit status"):
        made.measure(bad)


def test_unknown_workloads_are_refused():
    with pytest.raises(SystemExit, match="no such workload: nothing"):
        suite(workloads=("nothing",))


def test_every_kind_of_point(tmp_path):
    """In small: what many lanes, the plain interpreter, lengths and limits give."""
    made = suite(
        workloads=("fib",),
        native=False,
        one_lane=(),
        limits=True,
        count_steps=(True,),
        lengths=(("indexed", 500),),
        against_plain=(2,),
    )
    made.workloads["fib"].args = ["12"]
    made.workloads["fib"].stdout = _printed(made.workloads["fib"])
    records = bench.run(made, tmp_path)
    assert [r["point"]["kind"] for r in records] == ["limits", "steps", "length", "plain"]
    assert not [r for r in records if "error" in r]
    limits, steps, length, plain = (r["result"] for r in records)
    step = made._machine("packed", "indexed").lanes_engine().step
    assert limits["terms"] == step.plan.count_terms()
    assert limits["operations_per_step"] == 2 * (limits["terms"] + limits["neurons"])
    assert length["to"] >= length["from"] == 500
    assert 0 < steps["own_steps"] < steps["steps"]  # its output is the library's
    # Fewer steps with fusion: as many instructions take fewer of them.
    per_step = {
        name: plain[f"{name}_instructions_per_s"] / plain[f"{name}_steps_per_s"]
        for name in ("unfused", "fused")
    }
    assert per_step["fused"] > 1.5 * per_step["unfused"]
    text = bench_report.tables(records)
    assert "ratio to plain, unfused" in text and "115 gathered words" in text


def record(rate, spread, **point):
    ends = {"steps_per_s_min": rate - spread, "steps_per_s_max": rate + spread}
    return {"point": point, "result": {"steps_per_s": rate} | ends}


def test_rounds_are_one_measurement(tmp_path):
    first, second = Counted(), Counted()
    bench.run(first, tmp_path)
    records = bench.run(second, tmp_path, number=1)
    assert len(first.measured) == len(second.measured) == 6 and len(records) == 12
    rounds = [record(10.0, 1.0, kind="a"), record(14.0, 2.0, kind="a") | {"round": 1}]
    (merged,) = bench_report.measured(rounds)
    assert merged["result"] == {
        "steps_per_s": 12.0,
        "steps_per_s_min": 9.0,
        "steps_per_s_max": 16.0,
    }


def test_two_runs_are_compared():
    one = [record(10.0, 1.0, kind="devices", devices=1), record(5.0, 0.1, kind="a")]
    two = [record(11.5, 1.0, kind="devices", devices=1), record(6.0, 0.1, kind="a")]
    text = bench_report.compare(one, [*two, record(1.0, 0.0, kind="only here")])
    assert text.startswith("1 of 2 figures of both runs overlap")
    assert "| a | steps_per_s | 0.83 |" in text


def test_without_an_accelerator_the_plan_is_that_of_a_cpu(monkeypatch, capsys):
    pytest.importorskip("ml_collections", reason="the extra bench is not installed")
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent / "configs"))
    import bench_tpu

    config = bench.plan(bench_tpu.get_config())
    assert config.platform == "cpu" and len(config.one_lane) == 2
    assert capsys.readouterr().err == "no tpu here: running the plan for a CPU\n"
