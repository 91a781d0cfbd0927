"""The official test suite (`-m spec`), and its runner on scripts of our own."""

import json
import os
import pathlib
import subprocess
import tarfile
import zipfile

import pytest
import spec_run
import spec_script
import spec_source
import spec_suite
from spec_machine import SpecMachine
from spec_run import FAILED, NOT_APPLICABLE, PASSED, ScriptRun
from spec_script import Value

import onengine
import wasmjax
from lowering import compile_wat

ROOT = pathlib.Path(__file__).parent.parent

RIGHT = r"""
(module $counter
  (import "spectest" "print_i32" (func $print (param i32)))
  (global $n (export "n") (mut i32) (i32.const 40))
  (memory (export "memory") 1)
  (data (i32.const 8) "\2a")
  (func (export "count") (result i32)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (call $print (global.get $n))
    (global.get $n))
  (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0))))
(assert_return (invoke "count") (i32.const 41))
(invoke "count")
(assert_return (get $counter "n") (i32.const 42))
(assert_return (invoke $counter "load" (i32.const 8)) (i32.const 42))
(assert_trap (invoke "load" (i32.const -1)) "out of bounds memory access")
(register "counter" $counter)

(module
  (import "counter" "count" (func $count (result i32)))
  (import "counter" "memory" (memory 1))
  (data (i32.const 8) "\07")
  (func (export "thrice") (result i32) (drop (call $count)) (drop (call $count)) (call $count)))
(assert_return (invoke "thrice") (i32.const 45))
(assert_return (invoke $counter "load" (i32.const 8)) (i32.const 7))

(module
  (func (export "i64") (result i64) (i64.const -2))
  (func (export "f32") (result f32) (f32.const -0.5))
  (func (export "canonical") (result f64) (f64.const -nan))
  (func (export "arithmetic") (result f64) (f64.const nan:0xc000000000000))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func $down (export "down") (call $down)))
(assert_return (invoke "i64") (i64.const -2))
(assert_return (invoke "f32") (f32.const -0.5))
(assert_return (invoke "canonical") (f64.const nan:canonical))
(assert_return (invoke "arithmetic") (f64.const nan:arithmetic))
(assert_return (invoke "add" (i32.const 0x7fffffff) (i32.const 1)) (i32.const 0x80000000))
(assert_trap (invoke "div" (i32.const 1) (i32.const 0)) "integer divide")
(assert_exhaustion (invoke "down") "call stack exhausted")

(assert_invalid (module (func (result i32) (i64.const 0))) "type mismatch")
(assert_malformed (module binary "\00asm\01\00\00\00\0e\01") "invalid section id")
(assert_malformed (module quote "(func (") "unexpected token")
(assert_unlinkable (module (import "counter" "nothing" (func))) "unknown import")
(assert_unlinkable (module (import "counter" "count" (func))) "incompatible import type")
(assert_unlinkable (module (memory 0) (data (i32.const 1))) "data segment does not fit")
(assert_trap (module (func $f (unreachable)) (start $f)) "unreachable")
"""

WRONG = r"""
(module
  (func (export "one") (result i32) (i32.const 1))
  (func (export "zero") (result f32) (f32.const 0))
  (func (export "nan") (result f32) (f32.const nan:0x600000))
  (func (export "trap") (unreachable))
  (func (export "again") (loop $l (br $l))))
(assert_return (invoke "one") (i32.const 2))
(assert_return (invoke "zero") (f32.const -0))
(assert_return (invoke "nan") (f32.const nan:canonical))
(assert_return (invoke "trap"))
(assert_trap (invoke "one") "unreachable")
(assert_trap (invoke "trap") "integer overflow")
(assert_return (invoke "again"))
(assert_invalid (module (func)) "type mismatch")
(assert_malformed (module binary "\00asm\01\00\00\00") "unexpected end")
(assert_unlinkable (module (func)) "unknown import")
(module $m (import "nobody" "nothing" (func)) (func (export "f")))
(assert_return (invoke $m "f"))
(register "m" $m)
"""


@pytest.fixture(scope="module")
def tool():
    try:
        return spec_script.find_tool()
    except spec_script.ToolError as error:
        pytest.skip(str(error))


def run(tool, text, group="1.0", defer=False, max_steps=10_000, sample=None, **options):
    machine = SpecMachine(onengine.machine(), group, max_steps=max_steps, **options)
    commands = spec_script.convert(tool, text.encode(), group)
    script = ScriptRun(machine, group, "own", commands, defer, sample)
    report = script.run()
    if defer:
        assert script.deferred
    for _ in spec_run.run_deferred(machine, [script]):
        pass
    assert len(report.verdicts) == len(report.commands)
    return report


def failures(report):
    """Line, counted from WRONG's first assertion, and what is wrong there."""
    found = sorted((report.commands[n].line, v) for n, v in report.verdicts.items())
    return [(line - 8, v.reason) for line, v in found if v.status == FAILED]


def test_right_on_the_oracle(tool):
    report = run(tool, RIGHT, oracle=True)
    assert failures(report) == []
    assert report.count(PASSED) == 24
    assert report.reasons(NOT_APPLICABLE) == {"text format": 1}


def test_wrong_on_the_oracle(tool):
    report = run(tool, WRONG, oracle=True)
    assert failures(report) == [
        (0, "wrong result"),
        (1, "wrong result"),
        (2, "wrong result"),
        (3, "trap: unreachable"),
        (4, "did not trap"),
        (5, "wrong message"),
        (6, "out of steps"),
        (7, "was accepted"),
        (8, "was accepted"),
        (9, "was instantiated"),
        (10, "imports"),
        (11, "no instance: imports"),
        (12, "no instance: imports"),
    ]
    details = [verdict.detail for verdict in report.verdicts.values()]
    assert "0x1; expected: i32 0x2" in details
    assert "0x0; expected: f32 0x80000000" in details


def test_a_sample(tool):
    report = run(tool, RIGHT, oracle=True, sample=3)
    assert failures(report) == []
    assert report.reasons(NOT_APPLICABLE) == {"not in the sample": 10, "text format": 1}
    long = """(module (func (export "f") (loop $l (br $l))) (func (export "g")))
      (assert_return (invoke "f"))
      (assert_return (invoke "g"))
      (assert_trap (invoke "g") "unreachable")"""
    report = run(tool, long, oracle=True, max_steps=100, sample=1)
    assert report.reasons(NOT_APPLICABLE) == {"beyond the horizon": 1, "not in the sample": 1}
    assert report.count(PASSED) == 2


def test_on_the_engine(tool):
    report = run(tool, RIGHT)
    assert failures(report) == []
    assert run(tool, WRONG).verdicts == run(tool, WRONG, oracle=True).verdicts


@pytest.mark.slow
def test_in_a_batch(tool):
    assert failures(run(tool, RIGHT, defer=True)) == []
    batch, single = (failures(run(tool, WRONG, defer=defer)) for defer in (True, False))
    assert batch == single


def test_versions_differ_where_a_segment_is_out_of_bounds(tool):
    text = """
        (module (memory (export "m") 1)
          (func (export "load") (result i32) (i32.load8_u (i32.const 0))))
        (register "first")
        {}
        (assert_return (invoke "load") (i32.const {}))
        """
    module = """(module (import "first" "m" (memory 1))
        (data (i32.const 0) "\\01") (data (i32.const 0x10000) "\\01"))"""
    old = f'(assert_unlinkable {module} "data segment does not fit")'
    new = f'(assert_trap {module} "out of bounds memory access")'
    assert failures(run(tool, text.format(old, 0), "1.0", oracle=True)) == []
    assert failures(run(tool, text.format(new, 1), "extensions", oracle=True)) == []


def test_several_results_are_no_failure_of_the_first_version(tool):
    text = """(assert_invalid
        (module binary "\\00asm\\01\\00\\00\\00" "\\01\\06\\01\\60\\00\\02\\7f\\7f")
        "invalid result arity")"""
    report = run(tool, text, oracle=True)
    assert report.reasons(NOT_APPLICABLE) == {"2.0: a function may have several results": 1}
    other = run(tool, text.replace("invalid result arity", "type mismatch"), oracle=True)
    assert other.reasons(FAILED) == {"was accepted": 1}


def test_values():
    assert Value("i32", 5).accepts(5) and not Value("i32", 5).accepts(6)
    canonical, arithmetic = (Value("f32", name) for name in spec_script.NAN_CLASSES)
    for bits in (0x7FC0_0000, 0xFFC0_0000):
        assert canonical.accepts(bits) and arithmetic.accepts(bits)
    for bits in (0x7FE0_0000, 0xFFC0_0001):
        assert not canonical.accepts(bits) and arithmetic.accepts(bits)
    for bits in (0x7FA0_0000, 0x7F80_0000, 0):
        assert not canonical.accepts(bits) and not arithmetic.accepts(bits)
    assert Value("f64", "nan:canonical").accepts(0xFFF8_0000_0000_0000)
    assert not Value("f64", "nan:arithmetic").accepts(0x7FF4_0000_0000_0000)


@pytest.mark.parametrize(
    ("expected", "message", "equal"),
    [
        ("undefined", "undefined element", True),
        ("undefined element", "undefined", False),
        ("integer overflow", "integer divide by zero", False),
        ("uninitialized element 2", "uninitialized element", True),
        ("data segment does not fit", "out of bounds memory access", True),
        ("data segment does not fit", "out of bounds table access", False),
    ],
)
def test_messages(expected, message, equal):
    assert spec_run.says(expected, message) == equal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('(module (memory 1) (func (export "f") (result i32) (i32.load (i32.const 0))))', True),
        ("(module (memory 1) (func (i32.store8 (i32.const 0) (i32.const 0))))", False),
        ("(module (memory 1) (func (result i32) (memory.grow (i32.const 0))))", False),
        ("(module (global (mut i32) (i32.const 0)) (func (global.set 0 (i32.const 1))))", False),
        ("(module (table 1 funcref) (elem func) (func (elem.drop 0)))", False),
        ("(module (func) (start 0))", False),
        ('(module (import "a" "b" (func)))', False),
    ],
)
def test_independent_modules(text, expected):
    assert spec_run.independent(wasmjax.load(compile_wat(text))) == expected


# --- sources ---

FILES = {
    "test/core/first.wast": '(module (func (export "f")))\n(assert_return (invoke "f"))\n',
    "test/core/second.wast": '(module (func (export "f") unreachable))\n'
    '(assert_return (invoke "f"))\n',
    "test/core/deeper/third.wast": "",
    "interpreter/fourth.wast": "",
}


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def as_folder(checkout):
    return checkout


def as_tar(checkout):
    path = checkout.parent / "suite.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(checkout, "suite-1.0")
    return path


def as_zip(checkout):
    path = checkout.parent / "suite.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in FILES:
            archive.write(checkout / name, f"suite-1.0/{name}")
    return path


def as_git(checkout):
    path = checkout.parent / "suite.git"
    git = ["git", "-c", "user.name=n", "-c", "user.email=e"]
    git += [f"--git-dir={path}", f"--work-tree={checkout}"]
    try:
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "suite"]):
            subprocess.run([*git, *command], check=True, capture_output=True)
    except OSError:
        pytest.skip("no git")
    subprocess.run([*git, "config", "core.bare", "true"], check=True)
    return path


@pytest.mark.parametrize("kind", [as_folder, as_tar, as_zip, as_git])
def test_sources(checkout, kind):
    source = kind(checkout)
    ref = "HEAD" if kind is as_git else None
    scripts = spec_source.read_scripts(source, "1.0", ref=ref)
    assert [(script.name, script.text.decode()) for script in scripts] == [
        (name, FILES[f"test/core/{name}.wast"]) for name in ("first", "second")
    ]
    chosen = spec_source.read_scripts(source, "1.0", ["second.wast"], ref)
    assert [script.name for script in chosen] == ["second"]


def test_scripts_of_extensions():
    proposal = spec_source.PROPOSAL
    paths = ["i32.wast", "f32.wast", "bulk.wast", f"{proposal}bulk.wast", f"{proposal}new.wast"]
    picked = spec_source.pick(paths, "extensions")
    assert list(picked) == ["i32", "bulk-memory-operations/bulk", "bulk-memory-operations/new"]
    assert list(spec_source.pick(paths[:3], "extensions")) == ["i32", "bulk"]
    assert list(spec_source.pick(paths, "1.0")) == ["i32", "f32", "bulk"]


def test_command_line(checkout, tool, capsys):
    out = checkout.parent / "report.json"
    assert spec_suite.main([str(checkout), "--oracle", "first", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["total"]["passed"] == 2
    assert spec_suite.main([str(checkout), "--oracle", "--json", str(out)]) == 1
    record = json.loads(out.read_text())
    assert record["total"]["passed"] == 3
    assert record["scripts"]["second"]["failed"] == 1
    assert [(f["script"], f["line"]) for f in record["failures"]] == [("second", 2)]
    assert "second.wast:2: assert_return 'f'()" in capsys.readouterr().out
    (checkout / "test/core/first.wast").write_text("(module")
    assert spec_suite.main([str(checkout), "first", "--oracle"]) == 1
    assert "first.wast:1: conversion: cannot be converted" in capsys.readouterr().out


def test_sources_that_cannot_be_used(checkout, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive")
    for source, *more in (
        [tmp_path / "missing"],
        [tmp_path / "empty"],
        [tmp_path / "text"],
        [checkout, "no_such_script"],
        [checkout, "--group", "extensions"],
        [as_git(checkout), "--ref", "no-such-ref"],
    ):
        assert spec_suite.main([str(source), *more, "--oracle"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1, (out, err)


# --- the suite itself ---

SOURCES = {"1.0": ("WASM_SPEC", "spec"), "extensions": ("WASM_TESTSUITE", "testsuite")}
"""By group: what says where its source is, and the repository that it is one of."""

DENSE = "--engine dense --cache softmax --sample 2 --max-steps 2000 --max-prompt 4000".split()
"""The dense engine with the softmax cache takes long per token."""


@pytest.mark.spec
@pytest.mark.parametrize("group", SOURCES)
@pytest.mark.parametrize("runs_on", ["oracle", "packed, indexed", "dense, softmax"])
def test_suite(tool, group, runs_on):
    variable, repository = SOURCES[group]
    source = os.environ.get(variable)
    if not source:
        url = f"https://github.com/WebAssembly/{repository}"
        pytest.skip(f"set {variable} to a checkout, archive or git directory of {url}")
    options = {
        "oracle": ["--oracle"],
        "packed, indexed": [],
        "dense, softmax": DENSE,
    }
    assert spec_suite.main([source, "--group", group, *options[runs_on]]) == 0
