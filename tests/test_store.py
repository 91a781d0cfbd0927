"""Stores: linked modules and functions of the host; every token on the oracle too."""

import numpy as np
import pytest
import wasmtime

import onengine
import wasmjax
from lowering import compile_wat
from wasmjax import spectest
from wasmjax.engine.decode import Session
from wasmjax.machine.config import WASM
from wasmjax.machine.tokens import columns
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle
from wasmjax.store import Store
from wasmjax.wasm.lower import InstantiationError, LinkError

KIND = columns(WASM)["kind"]


class Shadowed(Session):
    """A session whose every token the oracle generates too."""

    def __init__(self, engine):
        super().__init__(engine)
        self.oracle = Oracle(WASM)

    def feed(self, tokens_NxF):
        super().feed(tokens_NxF)
        self.oracle.feed(tokens_NxF)

    def generate(self, max_steps, keep_all=False):
        for steps, tokens in super().generate(max_steps, True):
            divergence = first_divergence(WASM, self.oracle.run(steps), tokens)
            assert divergence is None, divergence
            kept = np.isin(tokens[:, KIND], self.engine.stop.keep)
            yield steps, tokens if keep_all else tokens[kept]


def new_store(**options):
    store = Store(onengine.machine().engine, **options)
    store.session = Shadowed(store.engine)
    return store


def load(text):
    return wasmjax.load(compile_wat(text))


LIBRARY = """(module
  (memory (export "memory") 1 4)
  (global $count (export "count") (mut i64) (i64.const 5))
  (global (export "constant") i32 (i32.const -7))
  (table (export "table") 12 16 funcref)
  (elem (i32.const 2) $f $g)
  (data (i32.const 16) "the library's data")
  (type $number (func (result i32)))
  (func $f (result i32) (i32.const 11))
  (func $g (export "g") (param i32) (result i32) (local i32)
    (i32.add (local.get 0) (local.get 1)))
  (func (export "byte") (param i32) (result i32) (i32.load8_u (local.get 0)))
  (func (export "call") (param i32) (result i32) (call_indirect (type $number) (local.get 0)))
  (func (export "next") (result i64)
    (global.set $count (i64.add (global.get $count) (i64.const 1))) (global.get $count))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "size") (result i32) (memory.size)))"""

USER = """(module
  (import "library" "memory" (memory 1 4))
  (import "library" "count" (global $count (mut i64)))
  (import "library" "constant" (global $constant i32))
  (import "library" "table" (table 10 16 funcref))
  (import "library" "g" (func $g (param i32) (result i32)))
  (type $number (func (result i32)))
  (global $own (export "own") i32 (global.get $constant))
  (elem (i32.const 7) $h $k)
  (data (i32.const 20) "DATA")
  (func $h (result i32) (local i64 i32) (i32.add (local.get 1) (i32.const 30)))
  (func $k (result i32) (call $g (i32.const 100)))
  (func (export "bump") (global.set $count (i64.mul (global.get $count) (i64.const 10))))
  (func (export "store") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
  (func (export "fill") (param i32 i32 i32)
    (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "copy") (param i32 i32 i32)
    (table.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "size") (result i32) (memory.size))
  (func (export "call") (param i32) (result i32) (call_indirect (type $number) (local.get 0))))"""

OTHER = """(module
  (memory (export "memory") 2)
  (table 3 funcref)
  (elem (i32.const 0) $f)
  (data (i32.const 65530) "across the pages")
  (func $f (result i32) (i32.const 99))
  (func (export "call") (param i32) (result i32) (call_indirect (result i32) (local.get 0)))
  (func (export "byte") (param i32) (result i32) (i32.load8_u (local.get 0)))
  (func (export "word") (param i32) (result i64) (i64.load offset=3 (local.get 0)))
  (func (export "copy") (param i32 i32 i32)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "size") (result i32) (memory.size)))"""

CALLS = [
    ("user", "size"), ("library", "byte", 19), ("library", "byte", 20), ("library", "byte", 23),
    *(("library", "call", k) for k in range(13)), *(("user", "call", k) for k in range(13)),
    ("library", "next"), ("user", "bump"), ("library", "next"),
    ("user", "store", 300, 77), ("library", "byte", 300), ("user", "fill", 65530, 5, 6),
    ("user", "fill", 65530, 5, 7), ("library", "byte", 65535), ("library", "byte", 65536),
    ("library", "grow", 2), ("user", "size"), ("user", "store", 3 * 65536 - 1, 8),
    ("library", "byte", 3 * 65536 - 1), ("library", "byte", 3 * 65536), ("library", "grow", 2),
    ("user", "copy", 0, 7, 3), ("library", "call", 0), ("library", "call", 1),
    ("other", "size"), ("other", "byte", 65530), ("other", "byte", 65545), ("other", "byte", 0),
    ("other", "word", 65527), ("other", "word", 131072 - 11), ("other", "word", 131072 - 10),
    ("other", "copy", 131060, 65530, 12), ("other", "copy", 131061, 65530, 12),
    ("other", "byte", 131071), ("other", "grow", 1), ("other", "size"), ("other", "byte", 131072),
    ("other", "byte", 3 * 65536), ("other", "call", 0), ("other", "call", 1), ("other", "call", 3),
    ("library", "size"), ("library", "next"),
]  # fmt: skip


def outcome(call):
    try:
        return call()
    except (wasmjax.Trap, wasmtime.Trap) as error:
        message = str(error)
        known = ("undefined element", "uninitialized element", "indirect call type mismatch")
        known += ("out of bounds memory access", "unreachable")
        return next(name for name in known if name in message)


def test_modules_that_share_everything():
    store, reference = new_store(), wasmtime.Store()
    texts = {"library": LIBRARY, "user": USER, "other": OTHER}
    ours, theirs = {}, {}
    linker = wasmtime.Linker(reference.engine)
    for name, text in texts.items():
        ours[name] = store.instantiate(load(text))
        store.register(name, ours[name])
        module = wasmtime.Module(reference.engine, compile_wat(text))
        instance = linker.instantiate(reference, module)
        linker.define_instance(reference, name, instance)
        theirs[name] = instance.exports(reference)
    for name, function, *args in CALLS:
        got = outcome(lambda: ours[name].call(function, *args))  # noqa: B023
        want = outcome(lambda: theirs[name][function](reference, *args))  # noqa: B023
        if not isinstance(want, str):
            want = () if want is None else (want,)
        assert got == want, (name, function, args)
    assert ours["user"].global_value("own") == -7
    assert ours["library"].memory(16, 10) == b"the DATAar"
    assert ours["other"].memory_pages == 3 and ours["library"].memory_pages == 3


def test_functions_of_the_host():
    seen = []

    def host(a, b):
        seen.append((a, b))
        if a == 0:
            raise wasmjax.Trap("the host's")
        return a * 2, b + 1

    store = new_store()
    store.define("env", "host", store.function(["i32", "i64"], ["i64", "i32"], host))
    store.define("env", "quiet", store.function([], [], lambda: seen.append("quiet")))
    instance = store.instantiate(
        load("""(module
          (import "env" "host" (func $host (param i32 i64) (result i64 i32)))
          (import "env" "quiet" (func $quiet))
          (table 2 funcref) (elem (i32.const 0) $quiet)
          (func (export "run") (param i32) (result i64) (local i64 i32)
            (local.set 1 (i64.const 1000))
            (call $quiet)
            (call $host (local.get 0) (i64.const -5))
            (local.set 2)
            (i64.add (local.get 1))
            (i64.add (i64.extend_i32_s (local.get 2)))
            (call_indirect (i32.const 0))))""")
    )
    assert instance.call("run", -3) == (1000 - 6 - 4,)
    assert seen == ["quiet", (-3, -5), "quiet"]
    with pytest.raises(wasmjax.Trap, match="the host's"):
        instance.call("run", 0)
    assert instance.call("run", 4) == (1000 + 8 - 4,)
    with pytest.raises(TypeError):
        store.define("env", "wrong", store.function([], ["i32"], lambda: None))
        text = """(module (import "env" "wrong" (func $f (result i32)))
          (func (export "f") (drop (call $f))))"""
        store.instantiate(load(text)).call("f")


def test_spectest_and_a_start_function():
    printed = []
    store = new_store()
    spectest.define(store, lambda *values: printed.append(values))
    instance = store.instantiate(
        load("""(module
          (import "spectest" "print_i32" (func $print (param i32)))
          (import "spectest" "global_i32" (global $g i32))
          (import "spectest" "memory" (memory 1 2))
          (import "spectest" "table" (table 10 20 funcref))
          (elem (i32.const 9) $start)
          (global $later (mut i32) (global.get $g))
          (func $start (call $print (global.get $later))
            (global.set $later (i32.add (global.get $later) (i32.const 1))))
          (start $start)
          (func (export "again") (call_indirect (i32.const 9))))""")
    )
    instance.call("again")
    instance.call("again")
    assert printed == [(666,), (667,), (668,)]


@pytest.mark.parametrize(
    "import_",
    [
        '(import "library" "nothing" (func))',
        '(import "nothing" "g" (func))',
        '(import "library" "g" (func))',
        '(import "library" "g" (global i32))',
        '(import "library" "g" (memory 1))',
        '(import "library" "count" (global i64))',
        '(import "library" "count" (global (mut i32)))',
        '(import "library" "constant" (global (mut i32)))',
        '(import "library" "memory" (memory 2))',
        '(import "library" "memory" (memory 1 3))',
        '(import "library" "memory" (table 1 funcref))',
        '(import "library" "table" (table 13 funcref))',
        '(import "library" "table" (table 12 15 funcref))',
    ],
)
def test_imports_that_do_not_fit(import_):
    store = new_store()
    store.register("library", store.instantiate(load(LIBRARY)))
    with pytest.raises(LinkError):
        store.instantiate(load(f"(module {import_})"))


FAILING = """(module
  (import "library" "memory" (memory 1))
  (import "library" "table" (table 10 funcref))
  (func $f (result i32) (i32.const 55))
  (elem (i32.const 0) $f)
  (data (i32.const 0) "written")
  (data (i32.const 65530) "too long"))"""


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_an_instantiation_that_fails(version):
    store = new_store(version=version)
    library = store.instantiate(load(LIBRARY))
    store.register("library", library)
    with pytest.raises(InstantiationError, match="out of bounds memory access"):
        store.instantiate(load(FAILING))
    stays = version == "2.0"
    assert library.memory(0, 7) == (b"written" if stays else bytes(7))
    got = outcome(lambda: library.call("call", 0))
    assert got == ((55,) if stays else "uninitialized element")
    start = '(module (func $s unreachable) (start $s) (func (export "f")))'
    with pytest.raises(wasmjax.Trap, match="unreachable"):
        store.instantiate(load(start))
    assert library.call("byte", 16) == (ord("t"),)


def test_wasi_beside_other_modules():
    store = new_store()
    instance = store.instantiate(
        load("""(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "\\08\\00\\00\\00\\05\\00\\00\\00hello")
          (func (export "hello") (result i32)
            (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))""")
    )
    assert instance.call("hello") == (0,)
    assert store.session.oracle.stdout == b"hello"
    assert instance.memory(16, 4) == bytes([5, 0, 0, 0])


def test_a_table_lies_below_the_memory_that_grows():
    """Rows of the cache reach up to the highest address in use."""
    store = new_store(growth=1000)
    text = """(module (table 2 funcref) (elem (i32.const 0) $g) (func $g) (memory 1)
      (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
    instance = store.instantiate(load(text))
    assert instance.call("grow", 0) == (1,)
    assert max(store.engine.cache.capacities(store.session._lane.cache)) <= 65536
    assert instance.call("grow", 800) == (1,)


def test_element_segments_without_a_table():
    text = '(module (func $f) (elem $p func $f) (func (export "f") (elem.drop $p)))'
    assert new_store().instantiate(load(text)).call("f") == ()
