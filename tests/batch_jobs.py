"""Mixed job lists for tests and measurements of batches.

    jobs = make_jobs(folder, 10_000, seed=1)     # also writes folder/jobs.jsonl and its modules
    expected(jobs[0])                            # what is known of its result beforehand

Of the jobs 95% run to their end: the examples and small modules, with random inputs. The others are
broken in every way there is: the front end refuses them, they trap, or their step limit ends them.
What is not `expected` of a result, wasmtime knows (scripts/check_batch.py). A list depends on its
length and seed alone.
"""

from __future__ import annotations

import base64
import json
import pathlib
import random
import string
from collections.abc import Callable
from typing import Any

from lowering import Reference, compile_wat
from test_lower_random import random_module

Job = dict[str, Any]
Draw = Callable[[random.Random], Job]

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
BROKEN_SHARE = 0.05

# --- modules ---

WASI = {
    "fd_write": "(param i32 i32 i32 i32) (result i32)",
    "fd_read": "(param i32 i32 i32 i32) (result i32)",
    "args_get": "(param i32 i32) (result i32)",
    "args_sizes_get": "(param i32 i32) (result i32)",
    "environ_get": "(param i32 i32) (result i32)",
    "environ_sizes_get": "(param i32 i32) (result i32)",
    "clock_time_get": "(param i32 i64 i32) (result i32)",
    "random_get": "(param i32 i32) (result i32)",
    "proc_exit": "(param i32)",
}


def wasi_program(imports: str, body: str) -> str:
    """A module with one page, WASI imports, `$write` (fd, from, size) and `$read` (to, size)."""
    names = sorted({"fd_write", "fd_read", *imports.split()})
    lines = [f'(import "wasi_snapshot_preview1" "{n}" (func ${n} {WASI[n]}))' for n in names]
    return "\n".join(
        [
            "(module",
            *lines,
            """
  (memory (export "memory") 1)
  (func $write (param $fd i32) (param $from i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $from))
    (i32.store (i32.const 4) (local.get $size))
    (if (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))
      (then (unreachable))))
  (func $read (param $to i32) (param $size i32) (result i32)
    (i32.store (i32.const 0) (local.get $to))
    (i32.store (i32.const 4) (local.get $size))
    (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
      (then (unreachable)))
    (i32.load (i32.const 8)))""",
            body,
            ")",
        ]
    )


BINARY = (
    "add sub mul and or xor shl shr_s shr_u rotl rotr div_s div_u rem_s rem_u"
    " eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u"
).split()
UNARY = "clz ctz popcnt eqz extend8_s extend16_s".split()


def arithmetic() -> str:
    """Every integer operator as an export of its name."""
    functions = []
    for type_ in ("i32", "i64"):
        for name in BINARY:
            result = type_ if name in BINARY[:15] else "i32"
            functions.append(
                f'(func (export "{type_}.{name}") (param {type_} {type_}) (result {result})'
                f" ({type_}.{name} (local.get 0) (local.get 1)))"
            )
        for name in UNARY:
            result = "i32" if name == "eqz" else type_
            functions.append(
                f'(func (export "{type_}.{name}") (param {type_}) (result {result})'
                f" ({type_}.{name} (local.get 0)))"
            )
    for name, operand, result in (
        ("i32.wrap_i64", "i64", "i32"),
        ("i64.extend_i32_s", "i32", "i64"),
        ("i64.extend_i32_u", "i32", "i64"),
        ("i64.extend32_s", "i64", "i64"),
    ):
        functions.append(
            f'(func (export "{name}") (param {operand}) (result {result}) ({name} (local.get 0)))'
        )
    return "(module\n" + "\n".join(functions) + ")"


LOOPS = """(module
  (func (export "gcd") (param $a i64) (param $b i64) (result i64) (local $t i64)
    (block $done (loop $next
      (br_if $done (i64.eqz (local.get $b)))
      (local.set $t (i64.rem_u (local.get $a) (local.get $b)))
      (local.set $a (local.get $b))
      (local.set $b (local.get $t))
      (br $next)))
    (local.get $a))
  (func (export "fibonacci") (param $n i32) (result i64) (local $a i64) (local $b i64)
    (local.set $b (i64.const 1))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $n)))
      (local.set $b (i64.add (local.get $a) (local.get $b)))
      (local.set $a (i64.sub (local.get $b) (local.get $a)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br $next)))
    (local.get $a))
  (func (export "xorshift") (param $x i64) (param $n i32) (result i64)
    (loop $next
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $x))
  (func (export "power") (param $b i64) (param $e i64) (param $m i64) (result i64) (local $r i64)
    (local.set $r (i64.const 1))
    (block $done (loop $next
      (br_if $done (i64.eqz (local.get $e)))
      (if (i32.wrap_i64 (i64.and (local.get $e) (i64.const 1)))
        (then (local.set $r
          (i64.rem_u (i64.mul (local.get $r) (local.get $b)) (local.get $m)))))
      (local.set $b (i64.rem_u (i64.mul (local.get $b) (local.get $b)) (local.get $m)))
      (local.set $e (i64.shr_u (local.get $e) (i64.const 1)))
      (br $next)))
    (local.get $r))
  (func (export "collatz") (param $n i64) (result i32) (local $steps i32)
    (block $done (loop $next
      (br_if $done (i64.le_u (local.get $n) (i64.const 1)))
      (local.set $n (if (result i64) (i32.wrap_i64 (i64.and (local.get $n) (i64.const 1)))
        (then (i64.add (i64.mul (local.get $n) (i64.const 3)) (i64.const 1)))
        (else (i64.shr_u (local.get $n) (i64.const 1)))))
      (local.set $steps (i32.add (local.get $steps) (i32.const 1)))
      (br $next)))
    (local.get $steps)))"""

RECURSION = """(module
  (func $factorial (export "factorial") (param i64) (result i64)
    (if (result i64) (i64.eqz (local.get 0))
      (then (i64.const 1))
      (else (i64.mul (local.get 0) (call $factorial (i64.sub (local.get 0) (i64.const 1)))))))
  (func $even (export "even") (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (call $odd (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 1))))
  (func $odd (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (call $even (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 0))))
  (func $ackermann (export "ackermann") (param $m i32) (param $n i32) (result i32)
    (if (i32.eqz (local.get $m)) (then (return (i32.add (local.get $n) (i32.const 1)))))
    (if (i32.eqz (local.get $n))
      (then (return (call $ackermann (i32.sub (local.get $m) (i32.const 1)) (i32.const 1)))))
    (call $ackermann (i32.sub (local.get $m) (i32.const 1))
      (call $ackermann (local.get $m) (i32.sub (local.get $n) (i32.const 1))))))"""

MULTI_VALUE = """(module
  (func $divide (export "divide") (param i64 i64) (result i64 i64)
    (i64.div_u (local.get 0) (local.get 1)) (i64.rem_u (local.get 0) (local.get 1)))
  (func (export "swap") (param i32 i64) (result i64 i32) (local.get 1) (local.get 0))
  (func (export "order") (param i32 i32 i32) (result i32 i32 i32) (local $t i32)
    (if (i32.gt_s (local.get 0) (local.get 1)) (then
      (local.set $t (local.get 0)) (local.set 0 (local.get 1)) (local.set 1 (local.get $t))))
    (if (i32.gt_s (local.get 1) (local.get 2)) (then
      (local.set $t (local.get 1)) (local.set 1 (local.get 2)) (local.set 2 (local.get $t))))
    (if (i32.gt_s (local.get 0) (local.get 1)) (then
      (local.set $t (local.get 0)) (local.set 0 (local.get 1)) (local.set 1 (local.get $t))))
    (local.get 0) (local.get 1) (local.get 2))
  (func (export "digits") (param i64) (result i64 i64 i64 i64 i64)
    (call $divide (local.get 0) (i64.const 10)) (local.set 0)
    (call $divide (i64.const 10)) (local.get 0)
    (call $divide (i64.const 3)) (i64.const -1))
  (func (export "nothing") (param i32 i64)))"""

START = """(module
  (memory 1)
  (global $seed (mut i32) (i32.const 1))
  (global $sum (mut i64) (i64.const 0))
  (func $begin (local $i i32)
    (loop $next
      (global.set $seed
        (i32.add (i32.mul (global.get $seed) (i32.const 1664525)) (i32.const 1013904223)))
      (i32.store (i32.shl (local.get $i) (i32.const 2)) (global.get $seed))
      (global.set $sum (i64.add (global.get $sum) (i64.extend_i32_u (global.get $seed))))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 16)))))
  (func (export "element") (param i32) (result i32)
    (i32.load (i32.shl (i32.and (local.get 0) (i32.const 15)) (i32.const 2))))
  (func (export "sum") (result i64) (global.get $sum))
  (func (export "both") (param i32) (result i64 i32)
    (global.set $sum (i64.add (global.get $sum) (i64.extend_i32_s (local.get 0))))
    (global.get $sum) (global.get $seed))
  (start $begin))"""

GLOBALS = """(module
  (global $count (export "count") (mut i32) (i32.const -3))
  (global $total (mut i64) (i64.const 0x123456789abcdef0))
  (global $fixed i64 (i64.const 7))
  (func $step (param i64)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (global.set $total (i64.add (i64.mul (global.get $total) (global.get $fixed)) (local.get 0))))
  (func (export "run") (param $x i64) (param $n i32) (result i64 i32)
    (loop $next
      (call $step (local.get $x))
      (br_if $next (i32.lt_s (global.get $count) (local.get $n))))
    (global.get $total) (global.get $count)))"""

TABLE = """(module
  (type $binary (func (param i32 i32) (result i32)))
  (table 6 funcref)
  (elem (i32.const 0) $add $sub $mul $min)
  (func $add (type $binary) (i32.add (local.get 0) (local.get 1)))
  (func $sub (type $binary) (i32.sub (local.get 0) (local.get 1)))
  (func $mul (type $binary) (i32.mul (local.get 0) (local.get 1)))
  (func $min (type $binary) (local i32)
    (local.set 2 (i32.lt_s (local.get 0) (local.get 1)))
    (select (local.get 0) (local.get 1) (local.get 2)))
  (func (export "apply") (param $op i32) (param $a i32) (param $b i32) (result i32)
    (call_indirect (type $binary) (local.get $a) (local.get $b) (local.get $op)))
  (func (export "fold") (param $x i32) (param $n i32) (result i32) (local $y i32)
    (local.set $y (local.get $x))
    (loop $next
      (local.set $y (call_indirect (type $binary)
        (local.get $y) (local.get $x) (i32.and (local.get $n) (i32.const 3))))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $y))
  (func (export "switch") (param i32) (result i64)
    (block $d (block $c (block $b (block $a
      (br_table $a $b $c $b $d (local.get 0)))
      (return (i64.const 111)))
      (return (i64.const -222)))
      (return (i64.const 0x333333333)))
    (i64.const 4)))"""

GROWS = """
  (func (export "grow") (param i32) (result i32 i32)
    (memory.grow (local.get 0)) (memory.size))
  (func (export "twice") (param i32 i32) (result i32 i32 i32)
    (memory.grow (local.get 0)) (memory.grow (local.get 1)) (memory.size))
  (func (export "touch") (param $pages i32) (param $value i64) (result i64) (local $at i32)
    (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then (return (i64.const -1))))
    (local.set $at (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 8)))
    (i64.store (local.get $at) (local.get $value))
    (i64.add (i64.load offset=3 (i32.sub (local.get $at) (i32.const 3)))
      (i64.load (i32.sub (local.get $at) (i32.const 8)))))"""
GROW = f"(module (memory 1) {GROWS})"
GROW_MOST = f"(module (memory 2 5) {GROWS})"

BULK = """(module
  (memory 1)
  (data (i32.const 40) "The quick brown fox jumps over the lazy dog.")
  (data $passive "\\00\\01\\02\\03\\fc\\fd\\fe\\ff0123456789")
  (func $sum (param $end i32) (result i64) (local $at i32) (local $sum i64)
    (loop $next
      (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31))
        (i64.load8_u (local.get $at))))
      (br_if $next (i32.lt_u
        (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $end))))
    (local.get $sum))
  (func (export "copy") (param i32 i32 i32) (result i64)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)) (call $sum (i32.const 160)))
  (func (export "fill") (param i32 i32 i32) (result i64)
    (memory.fill (local.get 0) (local.get 1) (local.get 2)) (call $sum (i32.const 160)))
  (func (export "init") (param i32 i32 i32) (result i64)
    (memory.init $passive (local.get 0) (local.get 1) (local.get 2)) (data.drop $passive)
    (call $sum (i32.const 160))))"""

SORT = """(module
  (memory 1)
  (func (export "sort") (param $seed i32) (param $n i32) (result i64 i32 i32)
    (local $i i32) (local $j i32) (local $x i32) (local $sum i64)
    (loop $fill
      (local.set $seed
        (i32.add (i32.mul (local.get $seed) (i32.const 1664525)) (i32.const 1013904223)))
      (i32.store offset=4 (i32.shl (local.get $i) (i32.const 2)) (local.get $seed))
      (br_if $fill (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (i32.store (i32.const 0) (i32.const 0x80000000))
    (local.set $i (i32.const 1))
    (block $sorted (loop $insert
      (br_if $sorted (i32.ge_u (local.get $i) (local.get $n)))
      (local.set $j (i32.shl (local.get $i) (i32.const 2)))
      (local.set $x (i32.load offset=4 (local.get $j)))
      (block $placed (loop $shift
        (br_if $placed (i32.le_s (i32.load (local.get $j)) (local.get $x)))
        (i32.store offset=4 (local.get $j) (i32.load (local.get $j)))
        (local.set $j (i32.sub (local.get $j) (i32.const 4)))
        (br $shift)))
      (i32.store offset=4 (local.get $j) (local.get $x))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $insert)))
    (local.set $i (i32.const 0))
    (loop $add
      (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31))
        (i64.load32_s offset=4 (i32.shl (local.get $i) (i32.const 2)))))
      (br_if $add (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.get $sum)
    (i32.load (i32.const 4))
    (i32.load (i32.shl (local.get $n) (i32.const 2)))))"""

TEE = wasi_program(
    "",
    """
  (func (export "_start") (local $n i32) (local $i i32)
    (block $done (loop $next
      (br_if $done (i32.eqz (local.tee $n (call $read (i32.const 64) (i32.const 24)))))
      (call $write (i32.const 1) (i32.const 64) (local.get $n))
      (local.set $i (i32.const 0))
      (loop $invert
        (i32.store8 offset=64 (local.get $i)
          (i32.xor (i32.const 255) (i32.load8_u offset=64 (local.get $i))))
        (br_if $invert (i32.lt_u
          (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
      (call $write (i32.const 2) (i32.const 64) (local.get $n))
      (br $next))))""",
)

UPPER = wasi_program(
    "",
    """
  (func (export "_start") (local $n i32) (local $i i32) (local $c i32)
    (block $done (loop $next
      (br_if $done (i32.eqz (local.tee $n (call $read (i32.const 64) (i32.const 4096)))))
      (local.set $i (i32.const 0))
      (loop $each
        (local.set $c (i32.load8_u offset=64 (local.get $i)))
        (if (i32.lt_u (i32.sub (local.get $c) (i32.const 97)) (i32.const 26))
          (then (i32.store8 offset=64 (local.get $i)
            (i32.and (local.get $c) (i32.const 0xdf)))))
        (br_if $each (i32.lt_u
          (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
      (call $write (i32.const 1) (i32.const 64) (local.get $n))
      (br $next))))""",
)

# Lines and bytes of stdin, in decimal.
COUNT = wasi_program(
    "",
    """
  (func $print (param $n i32) (local $at i32)
    (local.set $at (i32.const 48))
    (loop $next
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (br_if $next (local.tee $n (i32.div_u (local.get $n) (i32.const 10)))))
    (i32.store8 (i32.const 48) (i32.const 10))
    (call $write (i32.const 1) (local.get $at) (i32.sub (i32.const 49) (local.get $at))))
  (func (export "_start") (local $n i32) (local $i i32) (local $lines i32) (local $bytes i32)
    (block $done (loop $next
      (br_if $done (i32.eqz (local.tee $n (call $read (i32.const 64) (i32.const 100)))))
      (local.set $bytes (i32.add (local.get $bytes) (local.get $n)))
      (local.set $i (i32.const 0))
      (loop $each
        (local.set $lines (i32.add (local.get $lines)
          (i32.eq (i32.const 10) (i32.load8_u offset=64 (local.get $i)))))
        (br_if $each (i32.lt_u
          (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
      (br $next)))
    (call $print (local.get $lines))
    (call $print (local.get $bytes)))""",
)


def strings(name: str) -> str:
    """Writes its arguments, or its environment variables, each with its zero byte."""
    return wasi_program(
        f"{name}_get {name}_sizes_get",
        f"""
  (func (export "_start")
    (if (i32.or (call ${name}_sizes_get (i32.const 16) (i32.const 20))
        (call ${name}_get (i32.const 64) (i32.const 4096)))
      (then (unreachable)))
    (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))""",
    )


# The exit code is the first four bytes of stdin.
EXIT = wasi_program(
    "proc_exit",
    """
  (data (i32.const 64) "leaving\\n")
  (func (export "_start")
    (drop (call $read (i32.const 16) (i32.const 4)))
    (call $write (i32.const 2) (i32.const 64) (i32.const 8))
    (call $proc_exit (i32.load (i32.const 16)))
    (unreachable))
  (func (export "leave") (param i32) (result i64)
    (call $write (i32.const 1) (i32.const 64) (i32.const 7))
    (if (local.get 0) (then (call $proc_exit (local.get 0))))
    (i64.const -5))""",
)
EXIT_CODES = (0, 1, 2, 42, 125, 126, 127, 255, 256, 257, 1000, 65536, 2**31 - 1, 2**31, 2**32 - 1)

# "ok", if time does not go back and random bytes arrive: what they are is not defined.
CLOCK = wasi_program(
    "clock_time_get random_get",
    """
  (data (i32.const 64) "ok\\n")
  (func (export "_start")
    (if (i32.or
        (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 16))
        (i32.or (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 24))
          (call $random_get (i32.const 32) (i32.const 5))))
      (then (unreachable)))
    (if (i64.lt_u (i64.load (i32.const 24)) (i64.load (i32.const 16))) (then (unreachable)))
    (if (i32.load offset=37 (i32.const 0)) (then (unreachable)))
    (call $write (i32.const 1) (i32.const 64) (i32.const 3)))""",
)

START_WRITES = wasi_program(
    "proc_exit",
    """
  (data (i32.const 64) "start\\nmain\\n")
  (func $begin (call $write (i32.const 1) (i32.const 64) (i32.const 6)))
  (func (export "_start") (call $write (i32.const 1) (i32.const 70) (i32.const 5)))
  (func (export "seven") (result i32) (call $write (i32.const 2) (i32.const 70) (i32.const 5))
    (i32.const 7))
  (start $begin)""",
)
START_EXITS = wasi_program(
    "proc_exit",
    """
  (data (i32.const 64) "start\\n")
  (func $begin
    (call $write (i32.const 1) (i32.const 64) (i32.const 6)) (call $proc_exit (i32.const 9)))
  (func (export "_start") (unreachable))
  (start $begin)""",
)


def greeting(data: bytes, code: int) -> str:
    """Writes `data`, the second half of it to stderr, and exits with a code."""
    text = "".join(f"\\{byte:02x}" for byte in data)
    half = len(data) // 2
    return wasi_program(
        "proc_exit",
        f"""
  (data (i32.const 64) "{text}")
  (func (export "_start")
    (call $write (i32.const 1) (i32.const 64) (i32.const {half}))
    (call $write (i32.const 2) (i32.const {64 + half}) (i32.const {len(data) - half}))
    (call $proc_exit (i32.const {code})))""",
    )


TRAPPING = """(module
  (memory 1)
  (global $g i32 (i32.const 3))
  (export "memory" (memory 0))
  (export "g" (global $g))
  (table 5 funcref)
  (elem (i32.const 0) $nothing $seven)
  (elem (i32.const 4) $around)
  (type $number (func (result i32)))
  (data $passive "0123456789")
  (func $nothing)
  (func $seven (type $number) (i32.const 7))
  (func (export "unreachable") (param i32) (if (local.get 0) (then (unreachable))))
  (func (export "load8") (param i32) (result i32) (i32.load8_s (local.get 0)))
  (func (export "load32") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "load64") (param i32) (result i64) (i64.load (local.get 0)))
  (func (export "load_far") (param i32) (result i64) (i64.load32_u offset=0xfffffff0 (local.get 0)))
  (func (export "store16") (param i32 i32) (i32.store16 (local.get 0) (local.get 1)))
  (func (export "store64") (param i32 i64) (i64.store (local.get 0) (local.get 1)))
  (func (export "store_far") (param i32 i32)
    (i32.store8 offset=0xffffffff (local.get 0) (local.get 1)))
  (func (export "copy") (param i32 i32 i32)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "fill") (param i32 i32 i32)
    (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init") (param i32 i32 i32)
    (memory.init $passive (local.get 0) (local.get 1) (local.get 2)))
  (func (export "indirect") (param i32) (result i32)
    (call_indirect (type $number) (local.get 0)))
  (func $endless (export "endless") (param i32) (result i32)
    (i32.add (i32.const 1) (call $endless (local.get 0))))
  (func $around (export "around") (type $number) (call_indirect (type $number) (i32.const 4)))
  (func $deep (export "deep") (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 2) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 0))))
  (func (export "spin") (loop (br 0)))
  (func (export "spin_results") (param i64) (result i64)
    (loop $next (local.set 0 (i64.add (local.get 0) (i64.const 3))) (br $next)) (unreachable)))"""

SNIPPETS = {
    "unreachable": ("unreachable", "(unreachable)"),
    "divide": (
        "integer divide by zero",
        "(drop (i32.div_u (i32.const 1) (i32.load (i32.const 2000))))",
    ),
    "remainder": (
        "integer divide by zero",
        "(drop (i64.rem_s (i64.const 1) (i64.load (i32.const 2000))))",
    ),
    "overflow": (
        "integer overflow",
        "(drop (i64.div_s (i64.const 0x8000000000000000) (i64.const -1)))",
    ),
    "load": ("out of bounds memory access", "(drop (i64.load (i32.const 65529)))"),
    "store": (
        "out of bounds memory access",
        "(i32.store16 offset=65535 (i32.const 0) (i32.const 1))",
    ),
    "undefined": ("undefined element", "(call_indirect (type $none) (i32.const 99))"),
    "uninitialized": ("uninitialized element", "(call_indirect (type $none) (i32.const 1))"),
    "mismatch": ("indirect call type mismatch", "(call_indirect (type $none) (i32.const 0))"),
    "exhausted": ("call stack exhausted", "(call $again)"),
}
"""Ways to trap after some output: name -> message, code."""


def trap_program(code: str, starts: bool) -> str:
    """Writes a line, then runs code that traps: in `_start`, or in the start function."""
    last = '(start $trapping) (func (export "_start"))' if starts else ""
    export = "" if starts else '(export "_start")'
    return wasi_program(
        "",
        f"""
  (type $none (func))
  (table 2 funcref)
  (elem (i32.const 0) $write)
  (data (i32.const 64) "before\\ne")
  (func $again (call $again))
  (func $trapping {export}
    (call $write (i32.const 1) (i32.const 64) (i32.const 7))
    (call $write (i32.const 2) (i32.const 71) (i32.const 1))
    {code})
  {last}""",
    )


SPIN = wasi_program(
    "",
    """
  (data (i32.const 64) "again ")
  (func (export "_start")
    (loop $next (call $write (i32.const 1) (i32.const 64) (i32.const 6)) (br $next)))""",
)
SPIN_AT_START = '(module (func $spin (loop (br 0))) (start $spin) (func (export "f")))'

TEXTS = {
    "arithmetic": arithmetic(),
    "loops": LOOPS,
    "recursion": RECURSION,
    "multi_value": MULTI_VALUE,
    "start": START,
    "globals": GLOBALS,
    "table": TABLE,
    "grow": GROW,
    "grow_most": GROW_MOST,
    "bulk": BULK,
    "sort": SORT,
    "tee": TEE,
    "upper": UPPER,
    "count": COUNT,
    "args": strings("args"),
    "environ": strings("environ"),
    "exit": EXIT,
    "clock": CLOCK,
    "start_writes": START_WRITES,
    "start_exits": START_EXITS,
    "quiet": '(module (func (export "_start")))',
    "traps": TRAPPING,
    **{f"trap_{k}": trap_program(code, False) for k, (_, code) in SNIPPETS.items()},
    **{f"start_trap_{k}": trap_program(code, True) for k, (_, code) in SNIPPETS.items()},
    "spin": SPIN,
    "spin_at_start": SPIN_AT_START,
}

HEADER = b"\0asm\x01\0\0\0"
_EMPTY = b"\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00"  # one function without parameters or results
_FD_WRITE = '"wasi_snapshot_preview1" "fd_write"'

REFUSED_BYTES = {
    "empty": b"",
    "text": b"(module)",
    "bad_magic": b"\0asn" + HEADER[4:],
    "elf": b"\x7fELF" + bytes(60),
    "wrong_version": HEADER[:4] + b"\x02\0\0\0",
    "component": HEADER[:4] + b"\x0d\0\x01\0",
    "header_cut": HEADER[:5],
    "section_cut": HEADER + b"\x01\x20\x01",
    "section_order": HEADER + b"\x03\x01\x00\x01\x01\x00",
    "section_unknown": HEADER + b"\x3f\x00",
    "section_count": HEADER + b"\x01\x04\x02\x60\x00\x00",
    "section_longer": HEADER + b"\x01\x05\x01\x60\x00\x00\x00",
    "long_leb": HEADER + b"\x01\x80\x80\x80\x80\x80\x01",
    "name_not_utf8": HEADER + b"\x02\x06\x01\x01\xff\x01a\x00\x00",
    "code_missing": HEADER + _EMPTY,
    "unknown_opcode": HEADER + _EMPTY + b"\x0a\x05\x01\x03\x00\xff\x0b",
    "no_end": HEADER + _EMPTY + b"\x0a\x04\x01\x02\x00\x01",
}
"""Files that are no modules, by the kind of job they make."""

REFUSED_TEXTS = {
    "type_mismatch": '(func (export "_start") (i32.add (i32.const 1) (i64.const 2)) drop)',
    "stack_underflow": '(func (export "_start") i32.add drop)',
    "missing_result": '(func (export "_start") (call $f) drop) (func $f (result i32))',
    "bad_local": '(func (export "_start") (local.get 3) drop)',
    "bad_label": '(func (export "_start") (br 5))',
    "immutable_global": '(global i32 (i32.const 1)) (func (export "_start") (global.set 0 '
    "(i32.const 2)))",
    "no_memory": '(func (export "_start") (i32.store (i32.const 0) (i32.const 1)))',
    "export_twice": '(func (export "_start")) (func (export "_start"))',
    "unknown_module": '(import "env" "now" (func)) (func (export "_start"))',
    "unknown_name": '(import "wasi_snapshot_preview1" "fd_fly" (func)) (func (export "_start"))',
    "import_type": f'(import {_FD_WRITE} (func (param i64))) (func (export "_start"))',
    "import_kind": f'(import {_FD_WRITE} (global i32)) (func (export "_start"))',
    "imported_memory": '(import "env" "memory" (memory 1)) (func (export "_start"))',
    "imported_table": '(import "env" "table" (table 1 funcref)) (func (export "_start"))',
    "no_start": "(func) (memory 1)",
    "start_is_a_global": '(global (export "_start") i32 (i32.const 1))',
    "start_takes": '(func (export "_start") (param i32))',
    "start_returns": '(func (export "_start") (result i32) (i32.const 1))',
    "data_out_of_bounds": '(memory 1) (data (i32.const 65535) "ab") (func (export "_start"))',
    "data_far_out": '(memory 1) (data (i32.const -1) "a") (func (export "_start"))',
    "data_without_pages": '(memory 0) (data (i32.const 0) "a") (func (export "_start"))',
    "elements_out_of_bounds": "(table 2 funcref) (elem (i32.const 1) $f $f) (func $f (export "
    '"_start"))',
    "elements_far_out": '(table 2 funcref) (elem (i32.const -1) $f) (func $f (export "_start"))',
    "huge_memory": '(memory 2000) (func (export "_start"))',
    "huge_table": '(table 40000 funcref) (func (export "_start"))',
    "simd": '(func (export "_start") (drop (v128.const i32x4 0 0 0 0)))',
    "memory64": '(memory i64 1) (func (export "_start"))',
    "reference": '(func (export "_start") (drop (ref.null func)))',
    "wasi_socket": '(import "wasi_snapshot_preview1" "sock_shutdown" (func (param i32 i32) '
    '(result i32))) (func (export "_start"))',
}
"""Modules of which no job can run, by the kind of job they make."""

GREETINGS, RANDOM_MODULES = 24, 24

# --- drawing jobs ---


def _bits(rng: random.Random, width: int) -> int:
    """An integer of that many bits, signed or unsigned, often an edge."""
    edges = (0, 1, 2, 31, 63, 255, (1 << width - 1) - 1, 1 << width - 1, (1 << width) - 1)
    value = rng.choice((rng.choice(edges), rng.getrandbits(width), rng.getrandbits(8)))
    return value - (1 << width) if value >> width - 1 and rng.random() < 0.5 else value


def _text(rng: random.Random, most: int) -> str:
    letters = string.ascii_letters + string.digits + " .,;\n\t\"\\'éß→😀"
    return "".join(rng.choices(letters, k=rng.randint(0, most)))


def _stdin(data: bytes) -> Job:
    return {"stdin_base64": base64.b64encode(data).decode()}


def _program(name: str, *args: object, **more: Any) -> Job:
    """A run of `_start`."""
    job: Job = {"module": f"{name}.wasm"}
    if args:
        job["args"] = [*map(str, args)]
    return job | more


def _call(module: str, name: str, *args: int, **more: Any) -> Job:
    job: Job = {"module": f"{module}.wasm", "call": name}
    if args:
        job["call_args"] = [*args]
    return job | more


def _collatz_length(n: int) -> int:
    length = 0
    while n > 1:
        n = 3 * n + 1 if n % 2 else n // 2
        length += 1
    return length


_SHORT_COLLATZ = [n for n in range(1, 3000) if _collatz_length(n) <= 18]
_GRID = [[(3 * (row % 3) + row // 3 + column) % 9 + 1 for column in range(9)] for row in range(9)]


def _sudoku(rng: random.Random) -> Job:
    digits = rng.sample("123456789", 9)
    cells = [digits[digit - 1] for row in _GRID for digit in row]
    for at in rng.sample(range(81), rng.randint(0, 9)):
        cells[at] = "."
    return _program("sudoku", stdin="".join(cells) + "\n")


def _long_addition(rng: random.Random) -> Job:
    numbers = ("".join(rng.choices(string.digits, k=rng.randint(1, 40))) for _ in range(2))
    return _program("long_addition", stdin="".join(f"{number}\n" for number in numbers))


def _matching(rng: random.Random) -> Job:
    n = rng.randint(1, 4)
    rows = (" ".join(str(rng.randint(-20, 99)) for _ in range(n)) for _ in range(n))
    return _program("matching", stdin=f"{n}\n" + "".join(f"{row}\n" for row in rows))


_USAGE: list[Job] = [
    _program("collatz"),
    _program("collatz", 0),
    _program("collatz", "-3"),
    _program("collatz", "12monkeys"),
    _program("long_addition", stdin="12a\n3\n"),
    _program("long_addition"),
    _program("fibonacci", 10001),
    _program("fibonacci", "x"),
    _program("sudoku", stdin="123\n"),
    _program("matching", stdin="2\n1 2\n3\n"),
    _program("quicksort", 1, 4097),
    _program("queens"),
    _program("queens", 17),
]

_MANIFEST = {entry["name"]: entry for entry in json.loads((EXAMPLES / "examples.json").read_text())}


def _long(rng: random.Random) -> Job:
    """Tens of thousands of steps."""
    puzzle = _program("sudoku", stdin=_MANIFEST["sudoku_17"]["stdin"])
    matching = _program("matching", stdin=_MANIFEST["matching_10"]["stdin"])
    others = (("queens", 8), ("bytecode", 50), ("life", 30), ("quicksort", 3, 300))
    return rng.choice((puzzle, matching, *(_program(*words) for words in others)))


EXAMPLE_JOBS: list[tuple[float, str, Draw]] = [
    (1, "hello", lambda rng: _program("hello")),
    (1, "add", lambda rng: _program("add")),
    (3, "rot13", lambda rng: _program("rot13", stdin=_text(rng, 120))),
    (2, "collatz", lambda rng: _program("collatz", rng.choice(_SHORT_COLLATZ))),
    (3, "usage", lambda rng: dict(rng.choice(_USAGE))),
    (2, "long_addition", _long_addition),
    (2, "fibonacci", lambda rng: _program("fibonacci", rng.randint(0, 150))),
    (1, "sudoku", _sudoku),
    (2, "matching", _matching),
    (1, "sha256", lambda rng: _program("sha256", **_stdin(rng.randbytes(rng.randint(0, 70))))),
    (3, "crc32", lambda rng: _program("crc32", **_stdin(rng.randbytes(rng.randint(0, 200))))),
    (2, "quicksort", lambda rng: _program("quicksort", rng.randint(1, 10**6), rng.randint(1, 80))),
    (2, "queens", lambda rng: _program("queens", rng.randint(1, 7))),
    (0.5, "life", lambda rng: _program("life", rng.randint(0, 4))),
    (2, "bytecode", lambda rng: _program("bytecode", rng.randint(1, 20))),
    (0.5, "long", _long),
    (2, "fib", lambda rng: _call("fib", "fib", rng.randint(0, 1000))),
    (2, "fib_recursive", lambda rng: _call("fib", "fib_recursive", rng.randint(0, 11))),
    (
        2,
        "sieve",
        lambda rng: _call("sieve", "count_primes", rng.choice((4097, rng.randint(0, 400)))),
    ),
]


def _operator(rng: random.Random) -> Job:
    type_ = rng.choice(("i32", "i64"))
    width = int(type_[1:])
    name = rng.choice((*BINARY, *UNARY, "convert"))
    if name == "convert":
        name = rng.choice(("i32.wrap_i64", "i64.extend_i32_s", "i64.extend_i32_u"))
        return _call("arithmetic", name, _bits(rng, 32 if "_i32" in name else 64))
    args = [_bits(rng, width) for _ in range(1 if name in UNARY else 2)]
    if name[:3] in ("div", "rem"):
        args[1] = rng.choice((args[1] or 1, rng.randint(2, 1000)))
        # the one quotient that does not fit
        if name == "div_s" and args[1] in (-1, (1 << width) - 1):
            args[1] = -7
    return _call("arithmetic", f"{type_}.{name}", *args)


def _multi(rng: random.Random) -> Job:
    name = rng.choice(("divide", "swap", "order", "digits", "nothing"))
    args = {
        "divide": [_bits(rng, 64), _bits(rng, 64) or 3],
        "swap": [_bits(rng, 32), _bits(rng, 64)],
        "order": [_bits(rng, 32) for _ in range(3)],
        "digits": [_bits(rng, 64)],
        "nothing": [_bits(rng, 32), _bits(rng, 64)],
    }
    return _call("multi_value", name, *args[name])


def _loops(rng: random.Random) -> Job:
    name = rng.choice(("gcd", "fibonacci", "xorshift", "power", "collatz"))
    args = {
        "gcd": [rng.getrandbits(rng.randint(1, 24)), rng.getrandbits(rng.randint(1, 24))],
        "fibonacci": [rng.randint(0, 150)],
        "xorshift": [_bits(rng, 64), rng.randint(1, 600)],
        "power": [rng.getrandbits(16), rng.getrandbits(8), rng.randint(1, 65535)],
        "collatz": [rng.getrandbits(rng.randint(1, 40))],
    }
    return _call("loops", name, *args[name])


def _recursion(rng: random.Random) -> Job:
    name = rng.choice(("factorial", "even", "ackermann"))
    args = {
        "factorial": [rng.randint(0, 60)],
        "even": [rng.randint(0, 400)],
        "ackermann": [rng.randint(0, 2), rng.randint(0, 4)],
    }
    return _call("recursion", name, *args[name])


def _start(rng: random.Random) -> Job:
    name = rng.choice(("element", "sum", "both"))
    return _call("start", name, *([] if name == "sum" else [_bits(rng, 32)]))


def _table(rng: random.Random) -> Job:
    name = rng.choice(("apply", "fold", "switch"))
    args = {
        "apply": [rng.randrange(4), _bits(rng, 32), _bits(rng, 32)],
        "fold": [_bits(rng, 32), rng.randint(1, 300)],
        "switch": [rng.choice((rng.randrange(6), _bits(rng, 32)))],
    }
    return _call("table", name, *args[name])


def _grow(rng: random.Random) -> Job:
    """Grows by what there is and by what there is not, under all three kinds of limits."""
    module = rng.choice(("grow", "grow_most"))
    more = {"max_memory_pages": rng.randint(2, 6)} if rng.random() < 0.4 else {}
    few = rng.choice((0, 1, 2, 3, 4))
    name = rng.choice(("grow", "twice", "touch"))
    if name == "touch":
        return _call(module, name, few, _bits(rng, 64), **more)
    many = rng.choice((few, few, 255, 256, 257, 65535, -1))
    return _call(module, name, *([many] if name == "grow" else [few, many]), **more)


def _bulk(rng: random.Random) -> Job:
    name = rng.choice(("copy", "fill", "init"))
    if name == "init":
        start = rng.randint(0, 18)
        return _call("bulk", name, rng.randint(0, 140), start, rng.randint(0, 18 - start))
    middle = rng.randint(0, 100) if name == "copy" else _bits(rng, 32)
    return _call("bulk", name, rng.randint(0, 100), middle, rng.randint(0, 60))


def _leave(rng: random.Random) -> Job:
    code = rng.choice((rng.choice(EXIT_CODES), rng.getrandbits(32), rng.getrandbits(8)))
    if rng.random() < 0.3:
        return _call("exit", "leave", code)
    return _program("exit", **_stdin(code.to_bytes(4, "little")))


def _strings(rng: random.Random) -> Job:
    if rng.random() < 0.5:
        return _program("args", *(_text(rng, 20) for _ in range(rng.randint(0, 4))))
    names = rng.sample(("HOME", "LANG", "TZ", "EMPTY", "X"), rng.randint(0, 4))
    return _program("environ", env=[f"{name}={_text(rng, 15)}" for name in names])


def _clock(rng: random.Random) -> Job:
    return _program("clock", seed=rng.getrandbits(64), clock=rng.getrandbits(60))


SMALL_JOBS: list[tuple[float, str, Draw]] = [
    (9, "operator", _operator),
    (6, "multi_value", _multi),
    (10, "loops", _loops),
    (6, "recursion", _recursion),
    (5, "start", _start),
    (4, "globals", lambda rng: _call("globals", "run", _bits(rng, 64), rng.randint(-5, 200))),
    (6, "table", _table),
    (4, "grow", _grow),
    (0.2, "grow_far", lambda rng: _call("grow", "touch", rng.randint(8, 24), _bits(rng, 64))),
    (5, "bulk", _bulk),
    (5, "sort", lambda rng: _call("sort", "sort", _bits(rng, 32), rng.randint(1, 40))),
    (4, "tee", lambda rng: _program("tee", **_stdin(rng.randbytes(rng.randint(0, 100))))),
    (3, "upper", lambda rng: _program("upper", stdin=_text(rng, 100))),
    (3, "count", lambda rng: _program("count", stdin=_text(rng, 250))),
    (4, "strings", _strings),
    (5, "exit", _leave),
    (1, "clock", _clock),
    (1, "start_writes", lambda rng: _program("start_writes")),
    (0.5, "start_then_call", lambda rng: _call("start_writes", "seven")),
    (0.5, "start_exits", lambda rng: _program("start_exits")),
    (0.5, "quiet", lambda rng: rng.choice((_program("quiet"), _call("quiet", "_start")))),
    (5, "greeting", lambda rng: _program(f"greeting_{rng.randrange(GREETINGS)}")),
    (
        1,
        "deep",
        lambda rng: _call("traps", "deep", depth := rng.randint(0, 300), call_depth=depth + 10),
    ),
]

SMALL_SHARE, EXAMPLE_SHARE, RANDOM_SHARE = 0.68, 0.26, 0.06

Expected = dict[str, Any]
_REFUSED: Expected = {"outcome": "refused"}
_STEP_LIMIT: Expected = {"outcome": "step limit"}


def _trap(message: str) -> Expected:
    return {"outcome": "trap", "trap": message}


def _zero_divisor(rng: random.Random) -> Job:
    type_ = rng.choice(("i32", "i64"))
    name = rng.choice(("div_s", "div_u", "rem_s", "rem_u"))
    return _call("arithmetic", f"{type_}.{name}", _bits(rng, int(type_[1:])), 0)


def _far_access(rng: random.Random) -> Job:
    name = rng.choice(("load_far", "store_far"))
    return _call("traps", name, *[rng.getrandbits(32) | 16, 5][: 1 + (name == "store_far")])


def _bulk_outside(rng: random.Random) -> Job:
    size = rng.randint(1, 40)
    outside = 65536 - rng.randrange(size)
    args = rng.choice(
        (
            ("copy", outside, 0, size),
            ("copy", 0, outside, size),
            ("fill", outside, 7, size),
            ("fill", 65537, 7, 0),
            ("init", outside, 0, min(size, 10)) if size <= 10 else ("init", 65530, 0, 10),
            ("init", 0, 6, 5),
        )
    )
    return _call("traps", *args)


def _any_argument(job: Job, key: str, text: str) -> Draw:
    return lambda rng: {**job, key: [text]}


_RANGES: dict[str, Job] = {
    "call_depth_zero": {"call_depth": 0},
    "call_depth_large": {"call_depth": 65536},
    "pages_negative": {"max_memory_pages": -1},
    "pages_large": {"max_memory_pages": 1025},
    "seed_negative": {"seed": -1},
    "seed_large": {"seed": 2**64},
    "clock_large": {"clock": 2**64},
}


def _broken_kinds() -> dict[str, tuple[Draw, Expected]]:
    """Every way to be broken: kind -> how to draw a job, what is known of its result."""
    kinds: dict[str, tuple[Draw, Expected]] = {}

    def refuse(name: str, draw: Draw) -> None:
        kinds[f"refused/{name}"] = draw, _REFUSED

    def trap(name: str, message: str, draw: Draw) -> None:
        kinds[f"trap/{name}"] = draw, _trap(message)

    def limit(name: str, draw: Draw) -> None:
        kinds[f"limit/{name}"] = draw, _STEP_LIMIT

    for name in (*REFUSED_BYTES, *REFUSED_TEXTS):
        refuse(name, lambda rng, name=name: _program(f"bad/{name}"))
    refuse("missing_file", lambda rng: _program("no/such/file"))
    refuse("folder", lambda rng: {"module": "bad"})
    refuse("truncated", lambda rng: _program(f"bad/truncated_{rng.randrange(TRUNCATED)}"))
    refuse("no_such_export", lambda rng: _call("loops", "nothing_of_that_name", 1))
    refuse("export_is_a_memory", lambda rng: _call("traps", "memory"))
    refuse("export_is_a_global", lambda rng: _call("traps", "g"))
    refuse("no_start_but_exports", lambda rng: _program("loops"))
    refuse("call_args_without_call", lambda rng: _program("quiet", call_args=[1]))
    refuse("no_arguments", lambda rng: _call("arithmetic", "i32.add"))
    refuse("too_few_arguments", lambda rng: _call("arithmetic", "i32.add", 5))
    refuse("too_many_arguments", lambda rng: _call("arithmetic", "i32.clz", 1, 2))
    refuse("argument_above_i32", lambda rng: _call("arithmetic", "i32.add", 1, 2**32))
    refuse("argument_below_i32", lambda rng: _call("arithmetic", "i32.add", -(2**31) - 1, 1))
    refuse("argument_above_i64", lambda rng: _call("arithmetic", "i64.add", 2**64, 1))
    refuse("argument_below_i64", lambda rng: _call("arithmetic", "i64.clz", -(2**63) - 1))
    refuse("more_pages_than_allowed", lambda rng: _call("grow_most", "grow", 0, max_memory_pages=1))
    for name, options in _RANGES.items():
        refuse(name, lambda rng, options=options: _program("quiet", **options))
    refuse("zero_byte_in_argument", _any_argument(_program("args"), "args", "a\0b"))
    refuse("zero_byte_in_variable", _any_argument(_program("environ"), "env", "A=\0"))
    # What the call refuses is refused before the start function traps.
    refuse("no_such_export_and_start_traps", lambda rng: _call("start_trap_divide", "nothing"))

    out_of_bounds = "out of bounds memory access"
    trap("unreachable", "unreachable", lambda rng: _call("traps", "unreachable", 1))
    trap("zero_divisor", "integer divide by zero", _zero_divisor)
    trap(
        "overflow_i32",
        "integer overflow",
        lambda rng: _call("arithmetic", "i32.div_s", rng.choice((2**31, -(2**31))), -1),
    )
    trap(
        "overflow_i64",
        "integer overflow",
        lambda rng: _call("arithmetic", "i64.div_s", -(2**63), rng.choice((-1, 2**64 - 1))),
    )
    for name, size in (("load8", 1), ("load32", 4), ("load64", 8)):
        trap(
            name,
            out_of_bounds,
            lambda rng, name=name, size=size: _call(
                "traps", name, rng.choice((65537 - size, 65536, 2**31, 2**32 - 1, -size))
            ),
        )
    for name, size in (("store16", 2), ("store64", 8)):
        trap(
            name,
            out_of_bounds,
            lambda rng, name=name, size=size: _call(
                "traps", name, rng.choice((65537 - size, 65536, 2**31, 2**32 - 1, -size)), 5
            ),
        )
    trap("huge_offset", out_of_bounds, _far_access)
    trap("bulk", out_of_bounds, _bulk_outside)
    trap(
        "undefined_element",
        "undefined element",
        lambda rng: _call("traps", "indirect", rng.choice((5, 6, 100, 65536, 2**31, -1))),
    )
    trap(
        "uninitialized_element",
        "uninitialized element",
        lambda rng: _call("traps", "indirect", rng.choice((2, 3))),
    )
    trap(
        "type_mismatch",
        "indirect call type mismatch",
        lambda rng: _call("traps", "indirect", 0),
    )
    exhausted = "call stack exhausted"
    trap("endless_recursion", exhausted, lambda rng: _call("traps", "endless", _bits(rng, 32)))
    trap("endless_indirect", exhausted, lambda rng: _call("traps", "around"))
    trap(
        "too_deep",
        exhausted,
        lambda rng: _call("traps", "deep", (n := rng.randint(20, 400)), call_depth=n - 10),
    )
    for name, (message, _) in SNIPPETS.items():
        trap(f"output_then_{name}", message, lambda rng, n=name: _program(f"trap_{n}"))
        trap(f"start_{name}", message, lambda rng, n=name: _program(f"start_trap_{n}"))

    limit("spin", lambda rng: _call("traps", "spin", max_steps=rng.randint(1, 3000)))
    limit(
        "spin_results",
        lambda rng: _call("traps", "spin_results", _bits(rng, 64), max_steps=rng.randint(1, 3000)),
    )
    limit("output", lambda rng: _program("spin", max_steps=rng.randint(100, 5000)))
    limit(
        "program",
        lambda rng: _program("collatz", 27, max_steps=rng.choice((1, 100, rng.randint(1, 30_000)))),
    )
    limit("recursion", lambda rng: _call("recursion", "even", 500, max_steps=rng.randint(1, 500)))
    limit("start", lambda rng: _call("spin_at_start", "f", max_steps=rng.randint(1, 3000)))
    return kinds


TRUNCATED = 6
BROKEN = _broken_kinds()
GOOD = {kind: draw for _, kind, draw in (*EXAMPLE_JOBS, *SMALL_JOBS)}
RANDOM_KIND = "random"


def kind_of(job: Job) -> str | None:
    """The kind of a job, if its id tells."""
    id_ = job.get("id")
    return id_["kind"] if isinstance(id_, dict) else id_.split("#")[0] if id_ else None


def expected(job: Job) -> Expected:
    """Fields of its result that are known beforehand."""
    kind = kind_of(job)
    return BROKEN[kind][1] if kind in BROKEN else {}


# --- writing ---


def _random_calls(
    rng: random.Random, binary: bytes, functions: list
) -> list[tuple[str, list[int]]]:
    """Calls of a random module that return."""
    calls = []
    for _ in range(40):
        index = rng.randrange(len(functions))
        args = [_bits(rng, int(type_[1:])) for type_ in functions[index][0]]
        # a fresh instance each, as a job has
        if isinstance(Reference(binary).invoke(f"f{index}", *args), list):
            calls.append((f"f{index}", args))
    return calls


class Writer:
    """Writes modules into a folder, and draws jobs of them.

    Attributes:
      random_calls: calls of random modules, which return: (module, export, arguments).
    """

    def __init__(self, folder: pathlib.Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        (folder / "bad").mkdir(parents=True, exist_ok=True)
        for path in (*EXAMPLES.glob("*.wasm"), *EXAMPLES.glob("freestanding/*.wasm")):
            (folder / path.name).write_bytes(path.read_bytes())
        for name, text in TEXTS.items():
            self._write(name, compile_wat(text))
        for name, data in REFUSED_BYTES.items():
            self._write(f"bad/{name}", data)
        for name, text in REFUSED_TEXTS.items():
            self._write(f"bad/{name}", compile_wat(f"(module {text})"))
        self._write_random()

    def _write(self, name: str, data: bytes) -> None:
        (self.folder / f"{name}.wasm").write_bytes(data)

    def _write_random(self) -> None:
        rng = self.rng
        whole = (EXAMPLES / "hello.wasm").read_bytes()
        for k in range(TRUNCATED):  # in or before the code, without which no module is complete
            self._write(f"bad/truncated_{k}", whole[: rng.randrange(9, len(whole) // 2)])
        for k in range(GREETINGS):
            data = _text(rng, 80).encode() if k % 2 else rng.randbytes(rng.randint(0, 80))
            self._write(f"greeting_{k}", compile_wat(greeting(data, rng.choice(EXIT_CODES))))
        self.random_calls: list[tuple[str, str, list[int]]] = []
        written = 0
        while written < RANDOM_MODULES:
            text, functions = random_module(rng)
            binary = compile_wat(text)
            calls = _random_calls(rng, binary, functions)
            if not calls:
                continue
            name = f"random_{written}"
            self._write(name, binary)
            self.random_calls += [(name, *call) for call in calls]
            written += 1

    def good(self) -> tuple[str, Job]:
        """A job that runs to its end, and its kind."""
        rng = self.rng
        where = rng.choices(
            (SMALL_JOBS, EXAMPLE_JOBS, None), (SMALL_SHARE, EXAMPLE_SHARE, RANDOM_SHARE)
        )[0]
        if where is None:
            return RANDOM_KIND, self.random()
        _, kind, draw = rng.choices(where, [weight for weight, _, _ in where])[0]
        job = draw(rng)
        return kind, self._varied(job)

    def random(self) -> Job:
        module, name, args = self.rng.choice(self.random_calls)
        return _call(module, name, *args)

    def _varied(self, job: Job) -> Job:
        """The job, sometimes with options that change nothing."""
        rng = self.rng
        options = {
            "max_steps": 10**7,
            "seed": rng.getrandbits(64),
            "clock": rng.getrandbits(64),
            "call_depth": rng.randint(900, 65535),
            "env": ["A=b", "C="],
            "stdin": "nobody reads this\n",
            "max_memory_pages": 300,
        }
        name = rng.choice([*options])
        may = rng.random() < 0.1 and job["module"] not in _READERS and "grow" not in job["module"]
        return {name: options[name]} | job if may or name == "max_steps" else job

    def broken(self, kind: str) -> Job:
        return BROKEN[kind][0](self.rng)

    def save(self, drawn: list[tuple[str, Job]]) -> list[Job]:
        """Numbers the jobs and writes them to `jobs.jsonl`."""
        jobs = []
        for index, (kind, job) in enumerate(drawn):
            # An id may be anything, or missing.
            id_: Any = {"kind": kind, "at": [index, None]} if index % 7 == 3 else f"{kind}#{index}"
            nameless = index % 31 == 5 and kind not in BROKEN
            jobs.append(job if nameless else job | {"id": id_})
        lines = "".join(json.dumps(job) + "\n" for job in jobs)
        (self.folder / "jobs.jsonl").write_text(lines)
        return jobs


_READERS = {f"{name}.wasm" for name in ("environ", "tee", "upper", "count", "exit", "clock")} | {
    f"{name}.wasm" for name in ("rot13", "long_addition", "sudoku", "matching", "sha256", "crc32")
}
"""Modules that show their input or environment."""


def make_jobs(folder: pathlib.Path, count: int, seed: int) -> list[Job]:
    """Writes `count` jobs and their modules into a folder; returns the jobs."""
    writer = Writer(folder, seed)
    rng = writer.rng
    drawn: list[tuple[str, Job]] = []
    while len(drawn) < round(count * BROKEN_SHARE):
        # every kind once before any comes again
        kinds = rng.sample([*BROKEN], len(BROKEN))
        drawn += [(kind, writer.broken(kind)) for kind in kinds]
    del drawn[round(count * BROKEN_SHARE) :]
    drawn += [writer.good() for _ in range(count - len(drawn))]
    rng.shuffle(drawn)
    return writer.save(drawn)


def one_of_each(folder: pathlib.Path, seed: int) -> list[Job]:
    """As `make_jobs`, with one job of every kind."""
    writer = Writer(folder, seed)
    drawn = [(kind, draw(writer.rng)) for kind, draw in GOOD.items()]
    drawn.append((RANDOM_KIND, writer.random()))
    drawn += [(kind, writer.broken(kind)) for kind in BROKEN]
    return writer.save(drawn)
