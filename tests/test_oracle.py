"""The oracle against plain formulas: every operation, memory, control flow, limits."""

import dataclasses
import random
import struct

import numpy as np
import pytest

import programs
from programs import LIMITS, NOWHERE, PAGES, Row, absolute, fp, make_program, sp
from wasmjax.machine import isa
from wasmjax.machine.config import SMALL, WASM
from wasmjax.machine.program import Instruction, Registers, Slot, invocation, prompt, registers
from wasmjax.machine.tokens import columns, fields, token
from wasmjax.oracle.execute import Oracle, OracleError

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
OUT_OF_BOUNDS = isa.TRAP["out of bounds memory access"]


def start(config, program, **kwargs):
    oracle = Oracle(config, **kwargs)
    oracle.feed(prompt(config, program))
    return oracle


def cell(config, row, name):
    return int(row[columns(config)[name]])


def value_of(config, row):
    return sum(cell(config, row, f"v{k}") << 8 * k for k in range(config.value_bytes))


def kind_of(config, row):
    return isa.KINDS[cell(config, row, "kind")]


def run_rows(config, rows, **kwargs):
    """The results of `op_rows_program`, and the oracle."""
    program = programs.op_rows_program(config, rows, **kwargs)
    oracle = start(config, program, strict=True)
    tokens = oracle.run(10**6)
    assert kind_of(config, tokens[-1]) == "halt"
    return [oracle.slot(program.stack_base + k) for k in range(len(rows))], oracle


# --- every operation ---


def signed(x, bits):
    return x - (1 << bits) if x >> (bits - 1) & 1 else x


def reference_binary(name, bits):
    """Independent formulas: bit strings and signed numbers, no masks and no tricks."""
    size = 1 << bits

    def bitwise(rule):
        return lambda a, b: int(
            "".join(rule(p, q) for p, q in zip(f"{a:0{bits}b}", f"{b:0{bits}b}", strict=True)),
            2,
        )

    def turned(a, n):
        text = f"{a:0{bits}b}"
        return int(text[n:] + text[:n], 2)

    def compare(relation, is_signed):
        def result(a, b):
            if is_signed:
                a, b = signed(a, bits), signed(b, bits)
            return int({"lt": a < b, "gt": a > b, "le": a <= b, "ge": a >= b}[relation])

        return result

    relation, _, order = name.partition("_")
    if relation in ("lt", "gt", "le", "ge"):
        return compare(relation, order == "s")
    return {
        "add": lambda a, b: (a + b) % size,
        "sub": lambda a, b: (a - b) % size,
        "mul": lambda a, b: (a * b) % size,
        "and": bitwise(lambda p, q: "1" if p == q == "1" else "0"),
        "or": bitwise(lambda p, q: "0" if p == q == "0" else "1"),
        "xor": bitwise(lambda p, q: "1" if p != q else "0"),
        "shl": lambda a, b: a * 2 ** (b % bits) % size,
        "shr_u": lambda a, b: a // 2 ** (b % bits),
        "shr_s": lambda a, b: signed(a, bits) // 2 ** (b % bits) % size,
        "rotl": lambda a, b: turned(a, b % bits),
        "rotr": lambda a, b: turned(a, -b % bits),
        "eq": lambda a, b: int(a == b),
        "ne": lambda a, b: int(a != b),
    }[name]


def reference(op):
    """The result of a value operation, from A, B, C."""
    if op == "move":
        return lambda a, b, c: b
    if op == "select":
        return lambda a, b, c: a if c % 2**32 else b
    if op == "i32.wrap_i64":
        return lambda a, b, c: b % 2**32
    prefix, _, name = op.partition(".")
    bits = int(prefix[1:])
    if name == "clz":
        return lambda a, b, c: len(f"{a:0{bits}b}") - len(f"{a:0{bits}b}".lstrip("0"))
    if name == "ctz":
        return lambda a, b, c: bits - len(f"{a:0{bits}b}".rstrip("0"))
    if name == "popcnt":
        return lambda a, b, c: f"{a:b}".count("1")
    if name.startswith("extend"):
        source = int(name.removeprefix("extend").removesuffix("_s"))
        return lambda a, b, c: signed(b % 2**source, source) % 2**bits
    function = reference_binary(name, bits)
    return lambda a, b, c: function(a, b)


def value_ops(config):
    return [
        op
        for op in programs.straight_line_ops(config)
        if isa.OPS[op].get("kind") == isa.KIND["slot"] and not {"mem", "input"} & isa.OPS[op].keys()
    ]


def operand_rows(op, rng, count):
    width = programs.operand_width(op)
    top = 1 << (width - 1)
    edges = [0, 1, 2, top - 1, top, 2 * top - 1, 255, 256 % (2 * top), width, width - 1]
    edges += [2**k % (2 * top) for k in (7, 15, 16, 31, 32, 63)]
    pairs = [(a, b) for a in edges[:10] for b in edges]
    pairs += [(rng.getrandbits(width), rng.getrandbits(width)) for _ in range(count)]
    conditions = [0, 1, 256, M32] + ([1 << 32] if op == "select" else [])
    return [Row(op, a, b, rng.choice(conditions), immediate=rng.random() < 0.5) for a, b in pairs]


@pytest.mark.parametrize("op", value_ops(WASM))
def test_value_operations(op):
    rows = operand_rows(op, random.Random(op), 200)
    results, _ = run_rows(WASM, rows)
    expected = [reference(op)(row.a, row.b, row.c) for row in rows]
    assert results == expected


@pytest.mark.parametrize("op", value_ops(SMALL))
def test_value_operations_of_a_small_machine(op):
    rng = random.Random(op)
    for _ in range(40):
        rows = [
            Row(op, programs.random_operand(rng, 8), programs.random_operand(rng, 8))
            for _ in range(10)
        ]
        results, _ = run_rows(SMALL, rows)
        assert results == [reference(op)(row.a, row.b, row.c) for row in rows]


@pytest.mark.parametrize("name", ["i32", "i64", "signext"])
def test_conformance_vectors(load_vectors, name):
    rows, expected = [], []
    for vector in load_vectors(name):
        op, operands = vector.operation, [operand.bits for operand in vector.operands]
        op = {"i64.extend_i32_s": "i64.extend32_s"}.get(op, op)
        if op.endswith(".eqz"):
            op, operands = op.replace("eqz", "eq"), [*operands, 0]
        if op not in WASM.instructions or vector.trap:
            continue
        if len(operands) == 1:
            operands *= 2  # counts read A, extensions read B
        rows.append(Row(op, *operands))
        expected.append(vector.results[0].bits)
    assert len(rows) > 30
    for at in range(0, len(rows), 1000):
        results, _ = run_rows(WASM, rows[at : at + 1000])
        assert results == expected[at : at + 1000]


def test_every_operation_has_a_test():
    tested = {*value_ops(WASM), *ACCESSES}
    tested |= {"jump", "br_if", "br_unless", "jump_table", "call", "call_indirect", "return"}
    tested |= {"return_value", "trap", "halt", "out", "err", "input"}
    tested |= {"host"}  # in test_store.py
    assert tested == set(WASM.instructions)


# --- memory ---

ACCESSES = [op for op in WASM.instructions if isa.OPS[op].get("mem")]
LOADS = [op for op in ACCESSES if "load" in op]
STORES = [op for op in ACCESSES if "store" in op]


def load_format(op):
    """struct format of a load's memory operand and bits of its result."""
    width, name = int(op[1:3]), op[4:].removeprefix("load")
    bits, _, sign = name.partition("_")
    size = int(bits or width) // 8
    letter = {1: "b", 2: "h", 4: "i", 8: "q"}[size]
    return "<" + (letter if sign == "s" else letter.upper()), width


@pytest.mark.parametrize("op", LOADS)
def test_loads_at_every_alignment(op):
    rng = random.Random(op)
    form, width = load_format(op)
    size = struct.calcsize(form)
    data = bytes(rng.choice([0, 0x7F, 0x80, 0xFF, rng.randrange(256)]) for _ in range(64))
    words = {
        65504 + k: word for k in range(0, 64, 8) if (word := struct.unpack_from("<Q", data, k)[0])
    }
    rows, expected = [], []
    for at in range(64 - size + 1):
        address = 65504 + at
        aux = rng.choice([0, 1, at, 255, 256, 65503, address])
        # Only the low 32 bits of the address operand count.
        rows.append(Row(op, address - aux | rng.getrandbits(32) << 32, c=2, aux=aux))
        expected.append(struct.unpack_from(form, data, at)[0] % 2**width)
    results, _ = run_rows(WASM, rows, memory=words)
    assert results == expected


@pytest.mark.parametrize("op", STORES)
def test_stores_at_every_alignment(op):
    rng = random.Random(op)
    size = int(op.removeprefix("store")) // 8
    model = bytearray(64)
    rows = []
    for at in [*range(64 - size + 1), *(rng.randrange(64 - size + 1) for _ in range(40))]:
        value = rng.getrandbits(64)
        aux = rng.choice([0, 255, 65504])
        rows.append(Row(op, 65504 + at - aux, value, c=2, aux=aux))
        model[at : at + size] = (value % 256**size).to_bytes(size, "little")
    program = programs.op_rows_program(WASM, rows)
    oracle = start(WASM, program)
    tokens = oracle.run(10**6)
    assert oracle.memory(65504, 64) == model
    assert oracle.memory(65503, 1) + oracle.memory(65568, 1) == b"\0\0"
    stores = [row for row in tokens if kind_of(WASM, row) == f"mem{size}"]
    assert len(stores) == len(rows)
    for row, token_row in zip(rows, stores, strict=True):
        digits = [cell(WASM, token_row, f"a{k}") for k in range(4)]
        assert bytes(digits) == (row.a + row.aux).to_bytes(4, "little")
        assert value_of(WASM, token_row) == row.b


@pytest.mark.parametrize("op", ACCESSES)
@pytest.mark.parametrize("pages", [0, 1, 3, 257, 1024])
def test_bounds(op, pages):
    size = isa.OPS[op]["size_minus_1"] + 1
    end = 65536 * pages
    base = 1234567 << 32  # ignored: an address has 32 bits
    for address, aux, traps in (
        (end - size, 0, False),
        (end - size + 1, 0, True),
        (0, end - size, False),
        (1, end - size, True),
        (0, end - size + 1, True),
        (end, 0, True),
        (M32, 0, True),
        (M32, M32, True),
        (M32, 1, True),  # no wrap to 0
        (0, M32, True),
    ):
        if address < 0 or not 0 <= aux <= M32:
            continue
        row = Row(op, base | address, 0x1122334455667788, c=pages | 0xFFFF0000, aux=aux)
        program = programs.op_rows_program(WASM, [row])
        oracle = start(WASM, program)
        oracle.run(3)
        before = oracle.registers
        got = oracle.step()
        assert (kind_of(WASM, got) == "trap") == traps
        assert cell(WASM, got, "code") == (OUT_OF_BOUNDS if traps else 0)
        assert oracle.stopped == traps
        digits = [cell(WASM, got, f"a{k}") for k in range(4)]
        if op in LOADS:  # where it would have written, trap or not
            assert digits == [program.stack_base, 0, 0, 0]
        elif traps:
            assert digits == [0, 0, 0, 0]
        if traps:
            assert value_of(WASM, got) == 0
        assert oracle.registers == dataclasses.replace(
            before, ip=(before.ip[0] + 1, 0, 0), sp=before.sp + 1
        )


def test_latest_write_wins_across_widths():
    rows = [
        Row("store64", 8, 0x0807060504030201, c=1),
        Row("store16", 11, 0xBBAA, c=1),
        Row("store8", 15, 0xCC, c=1),
        Row("store32", 13, 0x44332211, c=1),
        Row("i64.load", 8, c=1),
        Row("i64.load", 9, c=1),
        Row("i64.load", 16, c=1),
    ]
    results, _ = run_rows(WASM, rows)
    assert results[4:] == [0x332211BBAA030201, 0x44332211BBAA0302, 0x44]


def test_memory_beyond_the_machine_is_refused():
    row = Row("store8", 65536 * WASM.memory_pages, 1, c=WASM.memory_pages + 1)
    oracle = start(WASM, programs.op_rows_program(WASM, [row]))
    with pytest.raises(OracleError, match=r"step 3: .*a0.*outside"):
        oracle.run(100)
    assert oracle.steps == 3


# --- operands ---


def test_bases_and_registers():
    program = make_program(
        [
            Instruction("move", b=absolute(3), d=sp(2), dsp=5),
            Instruction("i32.add", a=fp(-1), b=sp(-3), d=fp(300), dsp=1000),
            Instruction("i32.sub", a=Slot("sp", -705), b=fp(300), d=absolute(1), dsp=-1005),
            Instruction("halt", b=absolute(1), d=absolute(0)),
        ],
        slots={3: 7, 399: 40},
        stack_base=400,
    )
    oracle = start(WASM, program)
    tokens = oracle.run(10)
    digits = [(cell(WASM, row, "a0"), cell(WASM, row, "a1")) for row in tokens]
    assert digits == [(402 % 256, 1), (700 % 256, 2), (1, 0), (0, 0)]
    assert [value_of(WASM, row) for row in tokens] == [7, 47, 0, 0]
    assert [cell(WASM, row, "sp") for row in tokens] == [5, 1000, -1005, 0]
    assert oracle.registers == Registers((3, 0, 0), 400, 400, 0)
    everything = np.concatenate([prompt(WASM, program), tokens])
    assert registers(WASM, everything) == oracle.registers


def test_immediate_adds_to_free_bytes_only():
    def instructions(imm):
        return [Instruction("move", b=absolute(2), imm=imm, d=absolute(3)), Instruction("halt")]

    good = make_program(instructions(0xAB00_0000), slots={2: 0x10}, stack_base=4)
    oracle = start(WASM, good)
    assert value_of(WASM, oracle.step()) == 0xAB00_0010
    bad = make_program(instructions(0xF0), slots={2: 0x10}, stack_base=4)
    with pytest.raises(OracleError, match="step 0: byte 0 of B plus the immediate is 256"):
        start(WASM, bad).run(1)


def test_unwritten_slots_read_zero_unless_strict():
    program = make_program(
        [Instruction("i32.add", a=absolute(9), b=NOWHERE, imm=5, d=sp(0)), Instruction("halt")],
        stack_base=2,
    )
    assert value_of(WASM, start(WASM, program).step()) == 5
    with pytest.raises(OracleError, match="step 0: slot 9"):
        start(WASM, program, strict=True).step()


def test_addresses_out_of_range_are_refused():
    for config, base, name in ((WASM, 65536 - 2, "a0"), (SMALL, 62, "a0")):
        program = make_program(
            [
                Instruction("move", b=NOWHERE, imm=1, d=sp(1)),
                Instruction("move", b=NOWHERE, imm=1, d=sp(2)),
                Instruction("halt"),
            ],
            stack_base=base,
        )
        oracle = start(config, program)
        with pytest.raises(OracleError, match=f"step 1: fields? {name}.*{base + 2}") as caught:
            oracle.run(10)
        assert caught.value.step == 1
        assert oracle.steps == 1
        assert oracle.slot(base + 1) == 1
    program = make_program([Instruction("move", b=NOWHERE, d=sp(-3)), Instruction("halt")])
    with pytest.raises(OracleError, match=r"step 0: .*-3"):
        start(WASM, program).run(1)


# --- input and output ---


def test_input_and_outputs():
    program = make_program(
        [
            Instruction("input", a=absolute(2), d=sp(0), dsp=1),
            Instruction("out", b=sp(-1)),
            Instruction("err", b=NOWHERE, imm=0x4142),
            Instruction("input", a=absolute(3), d=sp(0)),
            Instruction("halt", b=sp(0)),
        ],
        slots={2: 0xFF00_0002, 3: 3},
        inputs=b"xyz",
        stack_base=8,
    )
    oracle = start(WASM, program)
    tokens = oracle.run(3)
    assert [value_of(WASM, row) for row in tokens] == [ord("z"), ord("z"), 0x42]
    assert (oracle.stdout, oracle.stderr) == (b"z", b"B")
    with pytest.raises(OracleError, match="step 3: there is no input byte 3"):
        oracle.run(1)


# --- control flow ---


@pytest.mark.parametrize("op", ["br_if", "br_unless"])
@pytest.mark.parametrize("condition", [0, 1, 256, 1 << 31, 1 << 32])
def test_branches(op, condition):
    nz = condition % 2**32 != 0  # 32 bits count
    program = make_program(
        [
            Instruction(op, c=absolute(2), target=300, next=1),
            *[Instruction("halt", b=NOWHERE, imm=k) for k in range(1, 301)],
        ],
        slots={2: condition},
        stack_base=3,
    )
    oracle = start(WASM, program)
    tokens = oracle.run(5)
    taken = nz == (op == "br_if")
    assert kind_of(WASM, tokens[0]) == "none"
    assert value_of(WASM, tokens[0]) == 0
    assert [cell(WASM, tokens[0], f"ip{k}") for k in range(3)] == (
        [44, 1, 0] if taken else [1, 0, 0]
    )
    assert value_of(WASM, tokens[1]) == (300 if taken else 1)
    assert len(tokens) == 2


@pytest.mark.parametrize("index, output", [(0, b"0"), (1, b"1"), (2, b"d"), (3, b"d"), (M32, b"d")])
def test_jump_table(index, output):
    oracle = start(WASM, programs.jump_by_table(index), strict=True)
    oracle.run(10)
    assert oracle.stdout == output


def test_missing_table_entry_is_refused():
    program = programs.jump_by_table(1)
    oracle = start(WASM, dataclasses.replace(program, table={0: program.table[0]}))
    with pytest.raises(OracleError, match="step 1: there is no table entry 1"):
        oracle.run(10)


@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_recursion(n):
    oracle = start(WASM, programs.recursive_sum(n), strict=True)
    tokens = oracle.run(10**5)
    assert value_of(WASM, tokens[-1]) == n * (n + 1) // 2
    assert oracle.registers == Registers((11, 0, 0), 4, 4, 0)
    depths = np.cumsum(tokens[:, columns(WASM)["depth"]])
    assert depths.max() == n + 1 and depths.min() == 0
    assert np.cumsum(tokens[:, columns(WASM)["fp"]]).max() == 2 * n


def test_call_and_return_tokens():
    oracle = start(WASM, programs.recursive_sum(1))
    tokens = oracle.run(100)
    names = ("kind", "v0", "v3", "a0", "ip0", "sp", "fp", "depth")
    rows = [tuple(cell(WASM, row, name) for name in names) for row in tokens]
    slot = isa.KIND["slot"]
    assert rows[1] == (slot, 11, 0, 5, 1, 2, 0, 1)  # call from the top: no frame below
    assert rows[4] == (slot, 5, 2, 7, -2, 2, 2, 1)  # the nested call
    assert rows[6] == (0, 0, 0, 0, 5 - 9, -2, -2, -1)  # return
    assert rows[8] == (slot, 1, 0, 4, 11 - 6, -3, 0, -1)  # return_value


def test_depth_exhaustion():
    calls = 40 + 1
    oracle = start(WASM, programs.recursive_sum(40, depth_limit=calls))
    assert kind_of(WASM, oracle.run(10**4)[-1]) == "halt"
    oracle = start(WASM, programs.recursive_sum(40, depth_limit=calls - 1))
    last = oracle.run(10**4)[-1]
    assert kind_of(WASM, last) == "trap"
    assert cell(WASM, last, "code") == isa.TRAP["call stack exhausted"]
    # Everything else is as in a call that succeeds.
    assert value_of(WASM, last) == programs.frame_link(5, 2)
    assert [cell(WASM, last, name) for name in ("sp", "fp", "depth", "ip0")] == [2, 2, 1, -2]
    assert oracle.registers.depth == calls


def test_slot_exhaustion():
    deepest = 4 + 2 * 40 + 2  # sp before the last call's successor would call
    oracle = start(WASM, programs.recursive_sum(40, slot_limit=deepest))
    assert kind_of(WASM, oracle.run(10**4)[-1]) == "halt"
    oracle = start(WASM, programs.recursive_sum(40, slot_limit=deepest - 2))
    last = oracle.run(10**4)[-1]
    assert kind_of(WASM, last) == "trap"
    assert cell(WASM, last, "code") == isa.TRAP["call stack exhausted"]


@pytest.mark.parametrize(
    "index, type_id, output, trap",
    [
        (0, 1, b"a.", ""),
        (1, 2, b"b.", ""),
        (0, 2, b"", "indirect call type mismatch"),
        (1, 258, b"", "indirect call type mismatch"),
        (2, 1, b"", "uninitialized element"),
        (3, 1, b"", "undefined element"),
        (4, 1, b"", "undefined element"),
        (M32, 1, b"", "undefined element"),
    ],
)
def test_indirect_calls(index, type_id, output, trap):
    oracle = start(WASM, programs.indirect_call(index, type_id), strict=True)
    tokens = oracle.run(100)
    assert oracle.stdout == output
    assert isa.TRAPS[cell(WASM, tokens[-1], "code")] == trap
    assert kind_of(WASM, tokens[-1]) == ("trap" if trap else "halt")
    if trap:  # it has jumped nevertheless
        entry = {0: 2, 1: 4}.get(index, 0)
        assert oracle.registers == Registers((entry, 0, 0), 6, 4, 1)
        assert value_of(WASM, tokens[-1]) == programs.frame_link(6, 0)


def test_exhaustion_comes_before_the_type_check():
    oracle = start(WASM, programs.indirect_call(0, 2, depth_limit=0))
    assert isa.TRAPS[cell(WASM, oracle.run(100)[-1], "code")] == "call stack exhausted"


def test_trap_and_halt():
    program = make_program(
        [
            Instruction("br_if", c=absolute(2), target=2),
            Instruction("trap", aux=isa.UNSUPPORTED_BASE + 7),
            Instruction("halt", b=NOWHERE, imm=0x1_0000_0005),
        ],
        slots={2: 0},
        stack_base=3,
    )
    oracle = start(WASM, program)
    tokens = oracle.run(100)
    assert len(tokens) == 2 and oracle.stopped
    assert (kind_of(WASM, tokens[1]), cell(WASM, tokens[1], "code")) == ("trap", 39)
    assert oracle.registers.ip == (1, 0, 0)  # it stays
    oracle = start(WASM, dataclasses.replace(program, slots={2: 1}))
    tokens = oracle.run(100)
    assert kind_of(WASM, tokens[1]) == "halt"
    assert value_of(WASM, tokens[1]) == 0x1_0000_0005
    assert np.array_equal(oracle.last_token, tokens[1])
    assert len(oracle.run(100)) == 0
    with pytest.raises(OracleError, match="stopped"):
        oracle.step()


def test_no_instruction_at_ip():
    program = make_program([Instruction("jump", next=5), Instruction("halt")], stack_base=3)
    oracle = start(WASM, program)
    with pytest.raises(OracleError, match="step 1: there is no instruction at 5"):
        oracle.run(100)
    assert oracle.steps == 1


# --- streams ---


def test_second_invocation_on_the_same_instance():
    # next(k): adds k to a counter in slot 2 and to one in memory, returns both added.
    program = make_program(
        [
            Instruction("i32.add", a=absolute(2), b=fp(0), d=absolute(2)),
            Instruction("i32.load", a=NOWHERE, c=PAGES, d=sp(0), aux=40, dsp=1),
            Instruction("i32.add", a=sp(-1), b=fp(0), d=sp(-1)),
            Instruction("store32", a=NOWHERE, b=sp(-1), c=PAGES, aux=40),
            Instruction("i32.add", a=sp(-1), b=absolute(2), d=sp(-1)),
            Instruction("return_value", a=sp(-1), b=fp(1), d=fp(0), dsp=-2),
            Instruction("halt", b=absolute(3)),
        ],
        slots={0: 1, 2: 100},
        memory={40: 1},
        stack_base=3,
    )
    oracle = start(WASM, program, strict=True)
    stream = [prompt(WASM, program)]
    state = 101
    for argument in (5, 7, 0, M32):
        call = invocation(
            WASM, program, oracle.registers, entry=0, args=[argument], header=1, frame_size=2
        )
        oracle.feed(call)
        tokens = oracle.run(100)
        state = state + 2 * argument
        assert value_of(WASM, tokens[-1]) == state % 2**32
        stream += [call, tokens]
    # Tokens are all there is: an oracle that is fed what was generated is in the same state.
    replay = Oracle(WASM)
    replay.feed(np.concatenate(stream))
    assert replay.stopped and replay.registers == oracle.registers
    assert replay.slot(2) == oracle.slot(2) and replay.memory(40, 4) == oracle.memory(40, 4)


def test_memory_trap_then_another_invocation():
    program = make_program(
        [
            Instruction("i32.load", a=fp(0), c=PAGES, d=fp(0)),
            Instruction("return_value", a=fp(0), b=fp(1), d=fp(0), dsp=-2),
            Instruction("halt", b=absolute(4)),
        ],
        slots={0: 1, LIMITS.offset: 0},
        memory={8: 77},
        stack_base=4,
    )
    oracle = start(WASM, program)
    for argument, kind in ((65533, "trap"), (8, "halt")):
        oracle.feed(
            invocation(
                WASM, program, oracle.registers, entry=0, args=[argument], header=1, frame_size=2
            )
        )
        last = oracle.run(100)[-1]
        assert kind_of(WASM, last) == kind
    assert value_of(WASM, last) == 77


def test_feed_replaces_code():
    program = make_program([Instruction("jump", next=0), Instruction("halt")], stack_base=2)
    oracle = start(WASM, program)
    assert len(oracle.run(10)) == 10
    halt = make_program([Instruction("halt", b=NOWHERE, imm=9)])
    rows = prompt(WASM, halt)
    oracle.feed(rows[rows[:, 0] == isa.KIND["code"]])
    assert value_of(WASM, oracle.step()) == 9


def test_feed_refuses_malformed_tokens():
    oracle = Oracle(WASM)
    with pytest.raises(OracleError, match="must be"):
        oracle.feed(np.zeros((3, 5), np.int32))
    bad = token(WASM)
    bad[columns(WASM)["v3"]] = 256
    with pytest.raises(OracleError, match="fed token 0: field v3: 256"):
        oracle.feed(bad[None])
    far = token(WASM, kind=isa.KIND["mem8"], a0=255, a1=255, a2=255, a3=3)
    with pytest.raises(OracleError, match="fed token 0: byte 67108863 is outside"):
        oracle.feed(far[None])


@pytest.mark.parametrize("config", [WASM, SMALL], ids=["wasm", "small"])
@pytest.mark.parametrize("seed", range(10))
def test_random_programs(config, seed):
    """Chunking, single steps and runs without tokens all agree; every value fits its field."""
    n = 400 if config is WASM else 60
    program = programs.random_straight_line(config, random.Random(seed), n)
    whole = start(config, program, strict=True)
    tokens = whole.run(10**6)
    assert len(tokens) == n + 1 and kind_of(config, tokens[-1]) == "halt"
    assert tokens.dtype == np.int32
    for field, column in zip(fields(config), tokens.T, strict=True):
        assert column.min() >= (field.lo if field.emitted else 0), field.name
        assert column.max() <= (field.hi if field.emitted else 0), field.name
    single = start(config, program)
    assert np.array_equal(np.stack([single.step() for _ in range(n + 1)]), tokens)
    silent = start(config, program)
    assert silent.run(7, keep=False).shape == (0, tokens.shape[1])
    silent.run(10**6, keep=False)
    assert silent.steps == n + 1
    for other in (single, silent):
        assert other.registers == whole.registers
        assert (other.stdout, other.stderr) == (whole.stdout, whole.stderr)
        assert other.memory(65400, 400) == whole.memory(65400, 400)
        assert np.array_equal(other.last_token, tokens[-1])


def test_random_programs_use_every_operation():
    seen = set()
    for seed in range(10):
        program = programs.random_straight_line(WASM, random.Random(seed), 400)
        seen |= {ins.op for ins in program.instructions}
    assert seen == {*programs.straight_line_ops(WASM), "halt"}


@pytest.mark.parametrize("config", [WASM, SMALL], ids=["wasm", "small"])
def test_loops(config):
    oracle = start(config, programs.counter_loop(config, 200), strict=True)
    tokens = oracle.run(10**4)
    assert oracle.stdout == bytes(range(200, 0, -1))
    assert len(tokens) == 3 * 200 + 1
    oracle = start(config, programs.fibonacci_small(config, 20), strict=True)
    oracle.run(10**4)
    a, b, expected = 0, 1, []
    for _ in range(20):
        expected.append(a % 256)
        a, b = b, a + b
    assert oracle.stdout == bytes(expected)


def test_long_runs_are_packed_in_chunks():
    oracle = start(WASM, programs.counter_loop(WASM, 50_000))
    tokens = oracle.run(10**6)
    assert len(tokens) == 150_001
    low = np.arange(50_000, 0, -1) % 256
    assert np.array_equal(tokens[:-1:3, columns(WASM)["v0"]], low)


def test_digits_must_suit_the_memory():
    odd = dataclasses.replace(WASM, digit=128)
    with pytest.raises(ValueError, match="256"):
        Oracle(odd)


def test_fields_out_of_range_are_refused():
    """A return through a slot that is no frame header."""
    for link, name in ((2000 << 24, "fp: -2000"), (1 << 23, None)):
        program = make_program(
            [Instruction("return", b=absolute(2)), Instruction("halt")],
            slots={2: link},
            stack_base=3,
        )
        oracle = start(WASM, program)
        if name is None:
            assert cell(WASM, oracle.step(), "ip2") == 128
            assert oracle.registers == Registers((0, 0, 128), 3, 3, -1)
            continue
        with pytest.raises(OracleError, match=f"step 0: field {name} is outside -1279..1279"):
            oracle.step()
        assert oracle.registers == Registers((0, 0, 0), 3, 3, 0)
