"""Lowering: what costs a step and what does not, frames, linking; behaviour against wasmtime."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from lowering import Exit, Machine, Trap, check, compile_wat
from wasmjax.machine.config import WASM
from wasmjax.machine.program import NOWHERE, Slot, prompt
from wasmjax.wasm import layout, operators
from wasmjax.wasm.errors import UnsupportedError
from wasmjax.wasm.frames import locals_to_zero
from wasmjax.wasm.lower import InstantiationError, LinkError, lower, lower_code
from wasmjax.wasm.validate import load_bytes

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MANIFEST = json.loads((EXAMPLES / "examples.json").read_text())


def code_of(body, signature="", module=""):
    """The instructions of a module's only function."""
    text = f"(module {module} (func {signature} {body}))"
    code = lower_code(load_bytes(compile_wat(text)))
    return code.instructions[: code.functions[0].entry + _length(code)]


def _length(code):
    starts = [entry.entry for entry in code.functions] + [code.halt]
    return starts[1] - starts[0]


def ops_of(body, signature="", module=""):
    return [ins.op for ins in code_of(body, signature, module)]


# --- steps ---


def test_drop_block_loop_nop_and_reinterpretations_cost_no_step():
    body = """nop (block (loop (drop (i32.const 1)) nop))
      (i64.extend_i32_u (i32.reinterpret_f32 (f32.const 1))) drop"""
    assert ops_of(body) == ["move", "move", "return"]


def test_a_dropped_value_is_overwritten_by_the_next():
    first, second, *_ = code_of("i32.const 1 drop i32.const 2 drop")
    assert (first.d, first.dsp) == (Slot("sp", 0), 1)
    assert (second.d, second.dsp) == (Slot("sp", -1), 0)


def test_constants_and_locals():
    get, const, add, set_, tee, drop_return = code_of(
        "(local.set 0 (i32.add (local.get 0) (i32.const -1))) (drop (local.tee 1 (local.get 0)))",
        "(param i32 i32)",
    )[:6]
    assert (get.op, get.b, get.imm, get.d, get.dsp) == ("move", Slot("fp", 0), 0, Slot("sp", 0), 1)
    assert (const.op, const.b, const.imm) == ("move", NOWHERE, 2**32 - 1)
    assert (add.op, add.a, add.b) == ("i32.add", Slot("sp", -2), Slot("sp", -1))
    assert (add.d, add.dsp) == (Slot("sp", -2), -1)
    assert (set_.op, set_.b, set_.d, set_.dsp) == ("move", Slot("sp", -1), Slot("fp", 0), -1)
    assert (tee.op, tee.b) == ("move", Slot("fp", 0))
    assert (drop_return.op, drop_return.d) == ("move", Slot("fp", 1))


def test_a_branch_after_a_step_is_that_step():
    # The move before each br, and before the else, names the target itself.
    code = code_of(
        "(loop (br_if 0 (local.get 0)) (local.set 0 (i32.const 5)) (br 0))", "(param i32)"
    )
    assert [ins.op for ins in code] == ["move", "br_if", "move", "move"]
    assert code[3].next == 0 and code[1].target == 0
    code = code_of(
        """(if (result i32) (local.get 0) (then (i32.const 7)) (else (i32.const 8)))
           local.set 0""",
        "(param i32)",
    )
    assert [ins.op for ins in code] == ["move", "br_unless", "move", "move", "move", "return"]
    assert code[1].target == 3
    assert code[2].next == 4


def test_a_branch_right_after_a_call_is_its_return_address():
    code = code_of("(loop (call 0) (br 0))")
    assert [ins.op for ins in code] == ["call"]
    assert code[0].imm & 0xFFFFFF == 0
    assert code[0].next == 0


def test_a_label_before_a_branch_is_another_name_of_its_target():
    body = """(block $out
      (loop $again
        (block $then (br_if $then (local.get 0)) (local.set 0 (i32.const 1)) (br $again))
        (br $out)))
      (local.set 0 (i32.const 2))"""
    code = code_of(body, "(param i32)")
    assert [ins.op for ins in code] == ["move", "br_if", "move", "move", "move", "move", "return"]
    assert code[1].target == 4  # over the br, which is no instruction
    assert code[3].next == 0


def test_an_empty_loop_is_a_jump_to_itself():
    code = code_of("(loop (br 0))")
    assert [(ins.op, ins.next) for ins in code] == [("jump", 0)]
    code = code_of("(loop $a (loop $b (block (br 0)) (br $a)))")
    assert [(ins.op, ins.next) for ins in code] == [("jump", 0)]


def test_a_branch_moves_its_results_only_if_they_are_not_in_place():
    in_place = "(block (result i32) (i32.const 1) (br 0)) drop"
    assert ops_of(in_place) == ["move", "return"]
    above = "(block (result i32) (i32.const 0) (i32.const 1) (br 0)) drop"
    assert ops_of(above) == ["move", "move", "move", "return"]
    conditional = "(block (result i32) (i32.const 1) (br_if 0 (local.get 0))) drop"
    assert ops_of(conditional, "(param i32)") == ["move", "move", "br_if", "return"]


def test_code_that_nothing_reaches_is_left_out():
    body = "return (block (loop (if (i32.const 1) (then br 1) (else unreachable)))) (i32.const 1)"
    assert ops_of(body, "(result i32) i32.const 0") == ["move", "return_value"]
    assert ops_of("unreachable i32.add drop") == ["trap"]
    assert ops_of("(block (br 0) (drop)) nop") == ["return"]


def test_memory_access():
    code = code_of(
        "(i32.store16 offset=6 (local.get 0) (i32.load8_s offset=5 (local.get 0)))",
        "(param i32)",
        "(memory 1)",
    )
    load, store = code[2:4]
    assert (load.op, load.a, load.c, load.aux) == (
        "i32.load8_s", Slot("sp", -1), Slot("abs", 1), 5,
    )  # fmt: skip
    assert (store.op, store.a, store.b, store.aux, store.dsp) == (
        "store16", Slot("sp", -2), Slot("sp", -1), 6, -2,
    )  # fmt: skip
    beyond = f"(drop (i32.load8_u offset={64 << 20} (i32.const 0)))"
    assert ops_of(beyond, "", "(memory 1)") == ["move", "trap"]


# --- frames ---


def test_frame_layout_of_a_call():
    text = """(module
      (func $callee (param i32 i32) (result i32) (local i64 i64 i64) (i32.const 1))
      (func (export "caller") (param i32) (result i32) (local i32)
        (i32.const 9) (call $callee (i32.const 1) (i32.const 2)) drop))"""
    code = lower_code(load_bytes(compile_wat(text)))
    caller = code.exports["caller"]
    assert (caller.header, caller.frame_size) == (1, 3)
    at = next(k for k, ins in enumerate(code.instructions) if ins.op == "call")
    call = code.instructions[at]
    # Frame of the callee: 2 parameters, header, 3 locals; its start is 4 above the caller's.
    assert call.next == code.functions[0].entry == 0
    assert call.imm == (at + 1) | 4 << 24
    assert (call.b, call.c, call.d) == (NOWHERE, Slot("abs", 0), Slot("sp", 0))
    assert call.dsp == 1 + 3
    assert code.functions[0].frame_size == 6
    back = code.instructions[1]
    assert (back.op, back.a, back.b, back.d) == (
        "return_value", Slot("sp", -1), Slot("fp", 2), Slot("fp", 0),
    )  # fmt: skip
    assert back.dsp == 1 - 7
    # The caller's operand stack begins at fp + 3; the result, dropped, is no reason for a step.
    back = code.instructions[at + 1]
    assert (back.op, back.a, back.b, back.dsp) == (
        "return_value", Slot("sp", -2), Slot("fp", 1), 1 - 5,
    )  # fmt: skip


def test_indirect_entries_make_room_for_locals():
    text = """(module (table 3 funcref) (elem (i32.const 0) $plain $locals)
      (func $plain (param i32)) (func $locals (param i32) (local i32 i64))
      (func (export "f") (call_indirect (param i32) (i32.const 1) (i32.const 0))))"""
    code = lower_code(load_bytes(compile_wat(text)))
    plain, locals_, _ = code.functions
    assert code.table[0].entry == plain.entry
    assert code.table[1].entry == locals_.entry - 1
    jump = code.instructions[locals_.entry - 1]
    assert (jump.op, jump.dsp) == ("jump", 2)
    assert code.table[0].type_id == code.table[1].type_id == 1
    assert [code.table[k].code for k in range(4)] == [7, 7, 6, 5]


@pytest.mark.parametrize(
    ("body", "zeroed"),
    [
        ("(drop (local.get 1))", [1]),
        ("(local.set 1 (i32.const 0)) (drop (local.get 1))", []),
        ("(if (local.get 0) (then (local.set 1 (i32.const 0)))) (drop (local.get 1))", [1]),
        (
            """(if (local.get 0) (then (local.set 1 (i32.const 0))) (else (local.set 1
               (local.get 0)))) (drop (local.get 1))""",
            [],
        ),
        (
            """(if (local.get 0) (then (local.set 1 (i32.const 0))) (else return))
               (drop (local.get 1))""",
            [],
        ),
        ("(block (br_if 0 (local.get 0)) (local.set 1 (i32.const 0))) (drop (local.get 1))", [1]),
        ("(block (local.set 1 (i32.const 0)) (br_if 0 (local.get 0))) (drop (local.get 1))", []),
        ("(loop (drop (local.get 1)) (local.set 1 (i32.const 0)) (br_if 0 (local.get 0)))", [1]),
        ("(loop (local.set 1 (i32.const 0)) (br_if 0 (local.get 0))) (drop (local.get 1))", []),
        ("return (drop (local.get 1))", []),
        ("(block (block (br_table 0 1 (local.get 0))) (local.set 1 (i32.const 0)))"
         "(drop (local.get 1))", [1]),
        ("(local.set 2 (local.tee 1 (i32.const 3))) (drop (local.get 2))", []),
        ("(drop (local.get 2)) (drop (local.get 1))", [1, 2]),
    ],
)  # fmt: skip
def test_locals_to_zero(body, zeroed):
    module = load_bytes(compile_wat(f"(module (func (param i32) (local i32 i32) {body}))"))
    assert locals_to_zero(module.functions[0]) == zeroed


def test_too_large_frames_trap_when_reached():
    locals_ = "i32 " * 1300
    values = "(i32.const 0)" * 1300
    text = f"""(module
      (func (export "locals") (local {locals_}))
      (func (export "operands") {values} {"drop " * 1300})
      (func (export "caller") (call 0))
      (func (export "fine") (result i32) (i32.const 3)))"""
    machine = Machine(compile_wat(text))
    assert machine.invoke("locals") == Trap("not yet supported: frame of 1301 slots")
    outcome = machine.invoke("operands")
    assert isinstance(outcome, Trap) and "frame of" in outcome.name
    assert isinstance(machine.invoke("caller"), Trap)
    assert machine.invoke("fine") == [3]
    prompt(WASM, machine.lowered.program)  # every field in range


# --- linking and instantiation ---


@pytest.mark.parametrize(
    ("import_", "name"),
    [
        ('"env" "f" (func)', "env.f"),
        ('"wasi_snapshot_preview1" "sock_recv" (func)', "wasi_snapshot_preview1.sock_recv"),
        ('"wasi_snapshot_preview1" "fd_close" (func)', "wasi_snapshot_preview1.fd_close"),
        ('"wasmjax" "out" (func (param i32))', "wasmjax.out"),
        ('"env" "memory" (memory 1)', "env.memory"),
        ('"env" "table" (table 1 funcref)', "env.table"),
        ('"env" "g" (global i32)', "env.g"),
    ],
)
def test_unknown_imports_are_named(import_, name):
    with pytest.raises(LinkError, match=name) as error:
        lower(load_bytes(compile_wat(f"(module (import {import_}))")))
    assert error.value.name == name


def test_names_of_functions():
    text = """(module (memory 1)
      (func $named (export "exported"))
      (func (export "first") (export "second")
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 2)))
      (func))"""
    names = [function.name for function in lower_code(load_bytes(compile_wat(text))).functions]
    assert names == ["named", "second", "func 2", "memory: memory.fill"]


def test_only_needed_library_functions_are_linked():
    names = lambda text: [f.name for f in lower_code(load_bytes(compile_wat(text))).functions]  # noqa: E731
    assert names("(module (func))") == ["func 0"]
    division = "(module (func (param i32) (drop (i32.div_u (i32.const 1) (local.get 0)))))"
    assert names(division) == ["func 0", "divide: i32.div_u"]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ('(memory 1) (data (i32.const 65535) "ab")', InstantiationError, "memory access"),
        ("(table 1 funcref) (elem (i32.const 1) 0) (func)", InstantiationError, "table access"),
        (
            "(memory 1025)", UnsupportedError,
            "unsupported: a memory of 1025 pages, more than the machine's 1024 (memory size)",
        ),
        (
            "(table 40000 funcref)", UnsupportedError,
            "unsupported: a table of 40000 elements, more than the machine's 32000 (table size)",
        ),
        (
            "(global i32 (i32.const 0))" * 1300, UnsupportedError,
            "unsupported: 1300 globals and passive segments, more than the machine's 1263"
            " (global count)",
        ),
        (
            "(table 5 funcref) (func (param i32)"
            f"{'(block (br_table ' + '0 ' * 16380 + '(local.get 0)))'}"
            f"{'(block (br_table ' + '0 ' * 16380 + '(local.get 0)))'}"
            f"{'(block (br_table ' + '0 ' * 16380 + '(local.get 0)))'}"
            f"{'(block (br_table ' + '0 ' * 16380 + '(local.get 0)))'}"
            f"{'(block (br_table ' + '0 ' * 16 + '(local.get 0)))'})",
            UnsupportedError,
            "unsupported: 6 table elements and 65536 br_table targets, more than the machine's"
            " 65536 (table space)",
        ),
    ],
)  # fmt: skip
def test_refusals(fields, error, message):
    with pytest.raises(error, match=re.escape(message)):
        lower(load_bytes(compile_wat(f"(module {fields})")))


def test_too_many_instructions(monkeypatch):
    small = dataclasses.replace(WASM, code_limit=1000)
    monkeypatch.setattr("wasmjax.wasm.add.WASM", small)
    module = load_bytes(compile_wat(f"(module (func {'(drop (i32.const 1))' * 998}))"))
    assert len(lower(module).program.instructions) == 1000
    module = load_bytes(compile_wat(f"(module (func {'(drop (i32.const 1))' * 999}))"))
    message = "unsupported: 1001 instructions, more than the machine's 1000 (code size)"
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        lower(module)


def pages(limits, **options):
    """Initial and largest size of a memory."""
    slots = lower(load_bytes(compile_wat(f"(module (memory {limits}))")), **options).program.slots
    return slots[layout.MEMORY_PAGES_SLOT], slots[layout.MEMORY_MAX_SLOT]


def test_memory_limits():
    assert pages("0") == (0, 256)
    assert pages("257") == (257, 513)
    assert pages("900") == (900, 1024)
    assert pages("1024") == (1024, 1024)
    assert pages("1 3") == (1, 3)
    assert pages("1 1000") == (1, 257)
    assert pages("1", max_pages=1024) == (1, 1024)
    assert pages("1 3", max_pages=1024) == (1, 3)
    assert pages("2 9", max_pages=2) == (2, 2)
    message = "unsupported: a memory of 257 pages, more than the 256 allowed (max_pages)"
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        pages("257", max_pages=256)


def test_too_much_input(monkeypatch):
    monkeypatch.setattr(layout, "INPUT_LIMIT", 1000)
    text = """(module (memory 1) (data "0123456789")
      (func (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 1))))"""
    module = load_bytes(compile_wat(text))
    inputs = {"args": ["abc", "é"], "environ": ["A=1"]}
    assert len(lower(module, stdin=bytes(979), **inputs).program.inputs) == 1000
    message = (
        "1,001 bytes of input (arguments 7, environment 4, stdin 980, passive data segments 10),"
        " more than the machine's 1,000"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        lower(module, stdin=bytes(980), **inputs)


def test_arguments_of_lower():
    module = load_bytes(compile_wat("(module)"))
    for wrong in (
        {"call_depth": 0},
        {"call_depth": 65536},
        {"max_pages": 1025},
        {"args": ["\0"]},
        {"clock": -1},
        {"seed": 2**64},
    ):
        with pytest.raises(ValueError):
            lower(module, **wrong)


def test_code_is_lowered_once():
    module = load_bytes(compile_wat("(module (func))"))
    first, second = lower(module, stdin=b"1"), lower(module, stdin=b"2")
    assert first.program.instructions is second.program.instructions
    assert first.program.inputs != second.program.inputs


def test_memory_image():
    text = """(module (memory 1) (data (i32.const 6) "abcdef") (data (i32.const 8) "XY")
      (data "passive") (data (i32.const 65536) ""))"""
    program = lower(load_bytes(compile_wat(text))).program
    whole = b"".join(program.memory.get(8 * k, 0).to_bytes(8, "little") for k in range(3))
    assert whole == b"\0" * 6 + b"abXYef" + b"\0" * 12


def test_start_function_and_globals():
    text = """(module (global $g (export "g") (mut i64) (i64.const -5)) (start $init)
      (func $init (global.set $g (i64.add (global.get $g) (i64.const 2))))
      (func (export "get") (result i64) (global.get $g)))"""
    machine = check(text, ("get",))
    assert machine.started == []
    slot, _ = machine.lowered.global_exports["g"]
    assert machine.oracle.slot(slot) == 2**64 - 3


# --- behaviour ---

EDGES = (0, 1, 2, 3, 7, 2**31, 2**32 - 1)

PROGRAMS = {
    "nested control": """(func (export "f") (param i32) (result i32) (local i32 i32)
      (block $out
        (loop $again
          (local.set 1 (i32.add (local.get 1) (i32.const 1)))
          (br_if $out (i32.ge_u (local.get 1) (i32.const 20)))
          (if (i32.and (local.get 1) (i32.const 1))
            (then
              (local.set 2 (i32.add (local.get 2) (local.get 0)))
              (br_if $again (i32.lt_u (local.get 1) (i32.const 10))))
            (else (br_if 1 (i32.eq (local.get 1) (local.get 0)))))
          (local.set 2 (i32.xor (local.get 2) (local.get 1)))
          (br $again)))
      (local.get 2))""",
    "br_table with values": """(func (export "f") (param i32) (result i32)
      (block $a (result i32)
        (i32.const 100)
        (block $b (result i32)
          (i32.const 200)
          (block $c (result i32)
            (i32.const 7)
            (br_table $c $b $a $c (local.get 0)))
          (i32.add (i32.const 1)) (i32.add))
        (i32.add (i32.const 10)) (i32.add))
      (i32.add (i32.const 1000)))""",
    "br_table of one height": """(func (export "f") (param i32) (result i32)
      (block (block (block (block (br_table 0 1 2 3 1 (local.get 0)))
        (return (i32.const 10))) (return (i32.const 11))) (return (i32.const 12)))
      (i32.const 13))""",
    "br_table out of the function": """(func (export "f") (param i32) (result i32)
      (i32.const 4) (i32.const 5)
      (block (br_table 1 1 (i32.const 9) (local.get 0)))
      (unreachable))""",
    "br_table to a loop": """(func (export "f") (param i32) (result i32) (local i32)
      (block $out
        (loop $again
          (local.set 1 (i32.add (local.get 1) (i32.const 3)))
          (br_if 1 (i32.gt_u (local.get 1) (i32.const 50)))
          (br_table $again $out $again
            (i32.and (i32.shr_u (local.get 1) (i32.const 4)) (local.get 0)))
          unreachable))
      (local.get 1))""",
    "br_if with values": """(func (export "f") (param i32) (result i32)
      (i32.const 1)
      (block (result i32)
        (i32.const 2) (i32.const 3)
        (br_if 0 (i32.const 40) (i32.and (local.get 0) (i32.const 1)))
        (br_if 0 (i32.and (local.get 0) (i32.const 2)))
        drop drop)
      i32.sub)""",
    "br_if out of the function": """(func (export "f") (param i32) (result i32)
      (i32.const 1) (i32.const 2)
      (br_if 0 (i32.const 40) (local.get 0))
      i32.add i32.add)""",
    "multiple values": """
      (func $two (param i32) (result i32 i64)
        (i32.add (local.get 0) (i32.const 1)) (i64.extend_i32_s (local.get 0)))
      (func $swap (param i32 i64) (result i64 i32) (local.get 1) (local.get 0))
      (func (export "f") (param i32) (result i64 i32 i32)
        (i32.const 5)
        (block (param i32) (result i64 i32)
          (drop) (call $swap (call $two (local.get 0)))
          (br_if 0 (local.get 0))
          (drop) (drop) (i64.const 8) (i32.const 9))
        (i32.const 77))""",
    "loop with parameters": """(func (export "f") (param i32) (result i32) (local i32)
      (local.set 1 (i32.const 6))
      (i32.const 3) (i32.const 1) (local.get 0)
      (loop (param i32 i32) (result i32)
        (i32.add)
        (i32.const 2)
        (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))
        (br_if 0)
        drop)
      (i32.mul))""",
    "if with parameters": """(func (export "f") (param i32) (result i32)
      (i32.const 30)
      (if (param i32) (result i32) (local.get 0)
        (then (i32.sub (local.get 0))) (else (i32.add (i32.const 3)))))""",
    "if without else": """(func (export "f") (param i32) (result i32)
      (i32.const 5)
      (if (param i32) (result i32) (local.get 0) (then (i32.add (i32.const 1)))))""",
    "recursion": """(func $f (export "f") (param i32) (result i32)
      (local.set 0 (i32.and (local.get 0) (i32.const 15)))
      (if (result i32) (i32.lt_u (local.get 0) (i32.const 2))
        (then (local.get 0))
        (else (i32.add
          (call $f (i32.sub (local.get 0) (i32.const 1)))
          (call $f (i32.sub (local.get 0) (i32.const 2)))))))""",
    "even and odd": """
      (func $even (param i32) (result i32)
        (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1))
          (else (call $odd (i32.sub (local.get 0) (i32.const 1))))))
      (func $odd (param i32) (result i32)
        (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 0))
          (else (call $even (i32.sub (local.get 0) (i32.const 1))))))
      (func (export "f") (param i32) (result i32)
        (call $even (i32.and (local.get 0) (i32.const 255))))""",
    "locals start at zero in every call": """
      (func $count (param i32) (result i32) (local i32 i64)
        (if (local.get 0) (then (local.set 1 (i32.const 9)) (local.set 2 (i64.const 8))))
        (i32.add (local.get 1) (i32.wrap_i64 (local.get 2))))
      (func (export "f") (param i32) (result i32)
        (drop (call $count (i32.const 1)))
        (i32.add (i32.mul (call $count (i32.const 0)) (i32.const 100))
          (call $count (local.get 0))))""",
    "indirect calls": """
      (type $unary (func (param i32) (result i32)))
      (table 6 funcref)
      (elem (i32.const 0) $double $square $other $nothing)
      (func $double (type $unary) (i32.shl (local.get 0) (i32.const 1)))
      (func $square (param i32) (result i32) (local i32)
        (local.set 1 (local.get 0)) (i32.mul (local.get 0) (local.get 1)))
      (func $other (param i64) (result i32) (i32.wrap_i64 (local.get 0)))
      (func $nothing)
      (func (export "f") (param i32) (result i32)
        (i32.const 1)
        (call_indirect (type $unary) (i32.const 21) (local.get 0))
        i32.add)""",
    "indirect call without results": """
      (global $g (mut i32) (i32.const 0))
      (table 2 funcref) (elem (i32.const 0) $inc $dec)
      (func $inc (local i32) (global.set $g (i32.add (global.get $g) (i32.const 1))))
      (func $dec (global.set $g (i32.sub (global.get $g) (i32.const 3))))
      (func (export "f") (param i32) (result i32)
        (call_indirect (i32.and (local.get 0) (i32.const 1)))
        (call_indirect (i32.const 0))
        (global.get $g))""",
    "select": """(func (export "f") (param i32) (result i64)
      (select (i64.const -1) (i64.const 5) (local.get 0))
      (select (i64.const 3) (i64.const 0x100000000) (i32.eqz (local.get 0)))
      i64.add)""",
    "unreachable": """(func (export "f") (param i32) (result i32)
      (if (local.get 0) (then unreachable)) (i32.const 4))""",
    "dead code": """(func (export "f") (param i32) (result i32)
      (block $b (result i32)
        (br $b (i32.const 3))
        (block (result i32) (br_if 0 (i32.const 1) (i32.const 2))) i32.add
        (loop (br 0)) (if (then) (else unreachable)) i32.mul)
      (local.get 0) i32.add
      return
      (drop (i32.div_u)) unreachable)""",
    "traps of division": """(func (export "f") (param i32) (result i32)
      (i32.add (i32.div_s (i32.const 0x80000000) (local.get 0))
        (i32.rem_s (i32.const 0x80000000) (local.get 0))))""",
    "division in an expression": """(func (export "f") (param i32) (result i64)
      (i64.const 3)
      (i64.extend_i32_u (i32.div_u (i32.const 1000000) (i32.or (local.get 0) (i32.const 1))))
      (i64.rem_s (i64.const -77) (i64.extend_i32_s (i32.or (local.get 0) (i32.const 2))))
      i64.add i64.sub)""",
    "globals": """(global $a (mut i32) (i32.const 7)) (global $b (mut i64) (i64.const -1))
      (global $c f64 (f64.const 1.5))
      (func (export "f") (param i32) (result i64)
        (global.set $a (i32.add (global.get $a) (local.get 0)))
        (global.set $b (i64.add (global.get $b) (i64.extend_i32_u (global.get $a))))
        (i64.xor (global.get $b) (i64.reinterpret_f64 (global.get $c))))""",
    "floats moved about": """(memory 1)
      (func (export "f") (param i32) (result i64) (local f32 f64)
        (local.set 2 (select (f64.const 1.25) (f64.const -0) (local.get 0)))
        (f64.store offset=8 (i32.const 3) (local.get 2))
        (f32.store (i32.const 40) (f32.const nan:0x200001))
        (local.set 1 (f32.load (i32.const 40)))
        (i64.add (i64.reinterpret_f64 (f64.load (i32.const 11)))
          (i64.extend_i32_u (i32.reinterpret_f32 (local.get 1)))))""",
    "memory": """(memory (export "memory") 1)
      (func (export "f") (param i32) (result i64)
        (i64.store offset=1 (local.get 0) (i64.const 0x8877665544332211))
        (i32.store8 offset=3 (local.get 0) (i32.const 0xabcd))
        (i64.store32 offset=9 (local.get 0) (i64.const -2))
        (i64.add (i64.load32_s offset=2 (local.get 0))
          (i64.add (i64.load16_s offset=7 (local.get 0))
            (i64.extend_i32_s (i32.load8_s offset=9 (local.get 0))))))""",
    "memory of no pages": """(memory 0)
      (func (export "f") (param i32) (result i32) (i32.load8_u (local.get 0)))""",
    "an exported label at the end": """(func (export "f") (param i32) (result i32)
      (block (result i32)
        (block (result i32)
          (block (result i32) (br_if 2 (i32.const 1) (local.get 0)) (br 1))
          (br 0)))
      (i32.const 7) i32.add)""",
    "a label with a longer stack": """(func (export "f") (param i32) (result i32)
      (i32.const 50)
      (block
        (i32.const 1) (i32.const 2)
        (br_if 0 (local.get 0))
        drop drop)
      (i32.const 3) i32.add)""",
    "drops before labels": """(func (export "f") (param i32) (result i32) (local i32)
      (loop $again
        (block $skip
          (i32.const 1) (i32.const 2) drop
          (br_if $skip (local.get 0))
          (local.set 1 (i32.add (local.get 1) (i32.const 5))) (br_if $skip))
        (local.set 1 (i32.add (local.get 1) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get 1) (i32.const 9)))
        (local.get 1) drop)
      (local.get 1))""",
    "clz and others": """(func (export "f") (param i32) (result i64)
      (i64.extend_i32_u (i32.add (i32.clz (local.get 0)) (i32.popcnt (local.get 0))))
      (i64.ctz (i64.extend_i32_s (local.get 0)))
      (i64.extend_i32_s (i32.extend8_s (local.get 0)))
      (i64.extend16_s (i64.extend_i32_u (local.get 0)))
      (i64.extend_i32_u (i32.wrap_i64 (i64.rotl (i64.const 0x123456789abcdef) (i64.const 20))))
      i64.add i64.add i64.add i64.add)""",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    calls = [("f", value) for value in (*EDGES, 4, 5, 6, 65530, 0x8000_0003)]
    check(f"(module {PROGRAMS[name]})", *calls)


def test_unsupported_operators_trap_when_reached(monkeypatch):
    """There is none; this is what would happen."""
    text = """(module (func (export "f") (param i32) (result f32)
      (if (result f32) (local.get 0)
        (then (f32.add (f32.const 1) (f32.sqrt (f32.const 4)))) (else (f32.const 3)))))"""
    monkeypatch.setattr(operators, "LIBRARY", operators.LIBRARY - {"f32.sqrt"})
    machine = Machine(compile_wat(text))
    assert machine.invoke("f", 0) == [0x40400000]
    assert machine.invoke("f", 1) == Trap("not yet supported: f32.sqrt")


def test_call_depth():
    text = """(module
      (func $down (export "down") (param i32) (result i32) (local i64 i64 i64)
        (if (result i32) (local.get 0)
          (then (i32.add (call $down (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
          (else (i32.const 0))))
      (func $forever (export "forever") (call $forever)))"""
    machine = Machine(compile_wat(text), call_depth=100)
    assert machine.invoke("down", 99) == [99]
    assert machine.invoke("down", 100) == Trap("call stack exhausted")
    assert machine.invoke("forever") == Trap("call stack exhausted")
    assert machine.invoke("down", 99) == [99]
    machine = Machine(compile_wat(text), call_depth=65535)
    assert machine.invoke("down", 20000) == Trap("call stack exhausted")  # of slots
    assert machine.invoke("down", 1000) == [1000]


def test_a_second_call_sees_the_first_ones_state():
    text = """(module (memory 1) (global $n (mut i32) (i32.const 0))
      (func (export "push") (param i32)
        (i32.store8 (global.get $n) (local.get 0))
        (global.set $n (i32.add (global.get $n) (i32.const 1))))
      (func (export "sum") (result i32) (local i32 i32)
        (block (loop
          (br_if 1 (i32.ge_u (local.get 0) (global.get $n)))
          (local.set 1 (i32.add (local.get 1) (i32.load8_u (local.get 0))))
          (local.set 0 (i32.add (local.get 0) (i32.const 1)))
          (br 0)))
        (local.get 1)))"""
    check(text, ("sum",), ("push", 5), ("push", 250), ("sum",), ("push", 256), ("sum",))


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["name"])
def test_example(entry):
    data = (EXAMPLES / entry["wasm"]).read_bytes()
    if "invoke" in entry:
        results = [result % 2**32 for result in entry["results"]]
        assert Machine(data).invoke(entry["invoke"], *entry["args"]) == results
        return
    args = [entry["wasm"], *entry["args"]]
    machine = Machine(data, args=args, stdin=entry["stdin"].encode())
    outcome = machine.invoke("_start")
    code = outcome.code if isinstance(outcome, Exit) else 0
    assert isinstance(outcome, Exit) or outcome == []
    assert code == entry["exit_code"]
    assert machine.oracle.stdout == (EXAMPLES / entry["stdout"]).read_bytes()
    assert machine.oracle.stderr == entry.get("stderr", "").encode()
