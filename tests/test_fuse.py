"""Operand fusion: fused functions do what they did, in fewer steps."""

import random

import pytest

from lowering import Machine, Reference, compile_wat
from wasmjax.wasm import fuse, link, runtime
from wasmjax.wasm.assemble import Code, Label
from wasmjax.wasm.body import BodyLowering
from wasmjax.wasm.lower import lower_code
from wasmjax.wasm.validate import load_bytes

MASKS = {"i32": 2**32 - 1, "i64": 2**64 - 1}
BINARY = "add sub mul and or xor shl shr_s shr_u rotl rotr".split()
COMPARISONS = "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u".split()
UNARY = "clz ctz popcnt extend8_s".split()
CONSTANTS = (0, 1, 2, 31, 32, 63, 255, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)


@pytest.fixture
def fusing(monkeypatch):
    """Lowering fuses every function that can be; the list is of their names."""
    lower, names = link.Store._lower, []

    def lower_and_fuse(store, linked):
        lower(store, linked)
        if linked.unit is None or linked.unit.name or linked.indirect not in (None, linked.entry):
            return
        try:
            linked.code = fuse.fuse(linked.code, linked.frame, linked.entry)
            names.append(linked.name)
        except fuse.Unfusable:
            pass

    monkeypatch.setattr(link.Store, "_lower", lower_and_fuse)
    lower_code.cache_clear()
    yield names
    lower_code.cache_clear()


def steps(text):
    """The operations of a module's only function."""
    code = lower_code(load_bytes(compile_wat(f"(module {text})")))
    assert len(code.functions) == 1
    return [ins.op for ins in code.instructions[:-1]]


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("(i32.add (local.get 0) (local.get 1))", "i32.add return_value"),
        ("(i32.sub (i32.const 0) (local.get 1))", "i32.sub return_value"),
        ("(i32.sub (i32.const 9) (local.get 1))", "move i32.sub return_value"),
        ("(i32.mul (i32.const 9) (local.get 1))", "i32.mul return_value"),
        ("(i32.lt_u (i32.const 9) (local.get 1))", "i32.gt_u return_value"),
        ("(local.set 0 (i32.add (local.get 0) (i32.const 1))) (local.get 0)",
         "i32.add return_value"),
        ("(local.get 0) (local.set 0 (local.get 1)) (i32.sub (local.get 0))",
         "i32.sub return_value"),
        ("(local.get 0) (local.set 0 (i32.const 5)) (i32.sub (local.get 1))"
         " (i32.mul (local.get 0))", "i32.sub i32.mul return_value"),
        ("(if (i32.eqz (local.get 0)) (then (return (local.get 1)))) (local.get 0)",
         "br_if return_value return_value"),
        ("(select (local.get 0) (local.get 1) (i32.eqz (local.get 0)))", "select return_value"),
        ("(select (i32.const 7) (local.get 1) (i32.lt_s (local.get 0) (local.get 1)))",
         "i32.ge_s select return_value"),
        ("(drop (i32.mul (local.get 0) (local.get 1))) (local.get 0)", "return_value"),
        ("(i32.wrap_i64 (i64.shr_u (i64.extend_i32_s (local.get 0)) (i64.const 40)))",
         "i64.extend32_s i64.shr_u return_value"),
        ("(i32.add (i32.wrap_i64 (i64.extend_i32_s (local.get 0))) (local.get 1))",
         "i64.extend32_s i32.add return_value"),
        ("(i32.and (i32.wrap_i64 (i64.extend_i32_s (local.get 0))) (local.get 1))",
         "i64.extend32_s i32.wrap_i64 i32.and return_value"),
        ("(block (br_if 0 (local.get 0)) (local.set 1 (i32.const 3))) (local.get 1)",
         "br_if move return_value"),
        ("(loop (local.set 0 (i32.shr_u (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))"
         " (local.get 0)", "i32.shr_u br_if return_value"),
    ],
)  # fmt: skip
def test_shapes(fusing, body, ops):
    assert " ".join(steps(f"(func (param i32 i32) (result i32) {body})")) == ops
    assert fusing == ["func 0"]


@pytest.mark.parametrize(
    "text",
    [
        "(func (result i32) (call 0))",
        "(memory 1) (func (result i32) (i32.load (i32.const 0)))",
        "(global (mut i32) (i32.const 0)) (func (result i32) (global.get 0))",
        "(func (result i32 i32) (i32.const 0) (i32.const 1))",
        "(func (param i32) (block (br_table 0 0 (local.get 0))))",
    ],
)
def test_what_is_left_alone(fusing, text):
    lower_code(load_bytes(compile_wat(f"(module {text})")))
    assert fusing == []


class Body:
    """Random structured code over parameters and locals of both types. No loop runs on."""

    def __init__(self, rng):
        self.rng = rng
        self.types = ["i32", "i64"] * 3 + [rng.choice(("i32", "i64")) for _ in range(3)]
        self.fuel = len(self.types)  # a local counts the rounds of all loops
        self.depth = 0
        self.text = "".join(self.statement(4) for _ in range(6))
        self.text += self.value("i64", 5)

    def local(self, type_):
        return self.rng.choice([k for k, t in enumerate(self.types) if t == type_])

    def value(self, type_, depth):
        rng = self.rng
        other = "i64" if type_ == "i32" else "i32"
        if depth <= 0 or rng.random() < 0.15:
            if rng.random() < 0.6:
                return f"(local.get {self.local(type_)})"
            return f"({type_}.const {rng.choice(CONSTANTS) & MASKS[type_]})"
        a, b = (self.value(type_, depth - 1) for _ in range(2))
        kind = rng.randrange(9 if type_ == "i32" else 8)
        if kind < 4:
            return f"({type_}.{rng.choice(BINARY)} {a} {b})"
        if kind == 4:
            return f"({type_}.{rng.choice(UNARY)} {a})"
        if kind == 5:
            return f"(local.tee {self.local(type_)} {a})"
        if kind == 6:
            return f"(select {a} {b} {self.condition(depth - 1)})"
        if kind == 7:
            convert = "i32.wrap_i64" if type_ == "i32" else rng.choice(
                ("i64.extend_i32_s", "i64.extend_i32_u"))  # fmt: skip
            if rng.random() < 0.5:
                return f"({convert} {self.value(other, depth - 1)})"
            return f"(if (result {type_}) {self.condition(depth - 1)} (then {a}) (else {b}))"
        return self.condition(depth)

    def condition(self, depth):
        type_ = self.rng.choice(("i32", "i64"))
        a, b = (self.value(type_, depth - 1) for _ in range(2))
        choice = self.rng.random()
        if choice < 0.3:
            return f"({type_}.eqz {a})"
        if choice < 0.4:
            return self.value("i32", depth - 1)
        return f"({type_}.{self.rng.choice(COMPARISONS)} {a} {b})"

    def statements(self, depth):
        return "".join(self.statement(depth) for _ in range(self.rng.randrange(1, 3)))

    def statement(self, depth):
        rng = self.rng
        kind = rng.randrange(8) if depth > 0 else 0
        if kind < 3:
            type_ = rng.choice(("i32", "i64"))
            return f"(local.set {self.local(type_)} {self.value(type_, depth)})\n"
        if kind == 3:
            return f"(drop {self.value(rng.choice(('i32', 'i64')), depth)})\n"
        if kind == 4:
            otherwise = f"(else {self.statements(depth - 1)})" if rng.random() < 0.5 else ""
            return f"(if {self.condition(2)} (then {self.statements(depth - 1)}) {otherwise})\n"
        if kind == 5:
            inner = self.statements(depth - 1)
            leave = f"(br_if 0 {self.condition(2)})"
            return f"(block {inner} {leave} {self.statements(depth - 1)})\n"
        if kind == 6:
            return (
                f"(block (loop {self.statements(depth - 1)} (br_if 1 (i32.lt_s (local.tee"
                f" {self.fuel} (i32.sub (local.get {self.fuel}) (i32.const 1))) (i32.const 0)))"
                f" (br_if 0 {self.condition(2)})))\n"
            )
        trap = f"(if {self.condition(1)} (then unreachable))"
        leave = f"(if {self.condition(1)} (then (return {self.value('i64', 2)})))"
        return f"{rng.choice((trap, leave, leave))}\n"


def random_function(seed):
    body = Body(random.Random(seed))
    locals_ = " ".join(body.types[4:])
    return f"""(module (func (export "f") (param i32 i64 i32 i64) (result i64)
      (local {locals_} i32) (local.set {body.fuel} (i32.const 5))
      {body.text}))"""


def compare(seed, text):
    rng = random.Random(seed)
    binary = compile_wat(text)
    machine, reference = Machine(binary), Reference(binary)
    taken = 0
    for _ in range(8):
        arguments = [rng.choice((rng.choice(CONSTANTS), rng.getrandbits(64))) for _ in range(4)]
        want = reference.invoke("f", *arguments)
        assert machine.invoke("f", *arguments) == want, text
        taken += machine.steps
    return taken


def test_random_functions(fusing, monkeypatch):
    texts = [random_function(seed) for seed in range(80)]
    fused = sum(compare(seed, text) for seed, text in enumerate(texts))
    assert len(fusing) == len(texts)
    monkeypatch.undo()
    lower_code.cache_clear()
    plain = sum(compare(seed, text) for seed, text in enumerate(texts))
    assert fused < plain / 2


@pytest.mark.slow
def test_more_random_functions(fusing):
    for seed in range(1000, 4000):
        compare(seed, random_function(seed))


def test_a_copy_has_labels_of_its_own():
    store = link.Store()
    linked = store.library("f64", None).linked(runtime.library("f64").functions["f64.add"])
    code, entry = Code(), Label()
    code.bind(entry)
    BodyLowering(linked.function, linked.frame, linked.unit, code).run()
    fused = fuse.fuse(code, linked.frame, entry)
    again = Label()
    twin = fuse.copy(fused, entry, again)
    fused.base, twin.base = 100, 1000
    assert (entry.index(), again.index()) == (100, 1000)
    for draft, other in zip(fused.drafts, twin.drafts, strict=True):
        for one, two in ((draft.after, other.after), (draft.target, other.target)):
            assert (one is None) == (two is None)
            assert one is None or one.index() + 900 == two.index()
