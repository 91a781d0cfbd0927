"""The runtime library: division against Python integers, WASI against wasmtime."""

import random
import struct

import numpy as np
import pytest
import wasmtime

from lowering import Exit, Machine, Trap, check, compile_wat
from wasmjax.wasm import runtime

PAIRS = 100_000
DIVISIONS = [
    f"i{width}.{name}" for width in (32, 64) for name in ("div_u", "div_s", "rem_u", "rem_s")
]


PRIMITIVES = """(module
  (func (export "narrow") (param i64) (result i32) (i32.wrap_i64 (local.get 0)))
  (func (export "trap_divide_by_zero") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func (export "trap_overflow") (drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))))"""


def division(name):
    """A function of the division library in wasmtime: of lists of dividends and of divisors."""
    type_ = name[:3]
    loop = f"""(module
      (import "library" "{name}" (func $divide (param {type_} {type_}) (result {type_})))
      (memory (export "memory") 128)
      (func (export "run") (param $end i32) (local $i i32)
        (block $done (loop $next
          (br_if $done (i32.eq (local.get $i) (local.get $end)))
          ({type_}.store (local.get $i)
            (call $divide
              ({type_}.load (local.get $i)) ({type_}.load offset=8 (local.get $i))))
          (local.set $i (i32.add (local.get $i) (i32.const 16)))
          (br $next)))))"""
    store = wasmtime.Store(wasmtime.Engine())
    linker = wasmtime.Linker(store.engine)
    for module, text in (
        (runtime.PSEUDO_MODULE, PRIMITIVES),
        ("library", runtime.binary("divide")),
    ):
        instance = linker.instantiate(store, wasmtime.Module(store.engine, text))
        linker.define_instance(store, module, instance)
    exports = linker.instantiate(store, wasmtime.Module(store.engine, loop)).exports(store)

    def divide(dividends, divisors):
        operands = np.array([dividends, divisors], np.uint64).T
        exports["memory"].write(store, operands.tobytes())
        exports["run"](store, operands.nbytes)
        results = bytes(exports["memory"].read(store, 0, operands.nbytes))
        values = np.frombuffer(results, np.uint64)[::2].tolist()
        return [value % (1 << int(name[1:3])) for value in values]

    return divide


def signed(value, width):
    return value - (1 << width) if value >> (width - 1) else value


def expected(name, n, d):
    """What the operator gives for unsigned bits, or its trap."""
    width = int(name[1:3])
    if d == 0:
        return "integer divide by zero"
    if name.endswith("_s"):
        n, d = signed(n, width), signed(d, width)
    quotient = abs(n) // abs(d) * (-1 if (n < 0) != (d < 0) else 1)
    if name[4:].startswith("div"):
        if name.endswith("_s") and quotient >> (width - 1) == 1:
            return "integer overflow"
        return quotient % (1 << width)
    return (n - quotient * d) % (1 << width)


def edges(width):
    """Numbers near powers of two and near the ends of the range."""
    numbers = {0, 1, 2, 3, 5, 7, 10, 100, 1000, 0xAAAA_AAAA, 0x5555_5555}
    for bit in range(width + 1):
        numbers |= {(1 << bit) + delta for delta in (-2, -1, 0, 1, 2)}
    numbers |= {10**k for k in range(1, 20)}
    return sorted({number % (1 << width) for number in numbers})


def pairs(width, count):
    """Random operands of all lengths; half of them near a multiple of the divisor."""
    rng = random.Random(width)
    for _ in range(count):
        d = rng.getrandbits(rng.randint(1, width))
        n = rng.getrandbits(rng.randint(1, width))
        if rng.random() < 0.5 and d:
            n = n // d * d + rng.choice((-1, 0, 1))
        if rng.random() < 0.2:
            n = -n
        if rng.random() < 0.2:
            d = -d
        yield n % (1 << width), d % (1 << width)


@pytest.mark.parametrize("name", DIVISIONS)
def test_division(name):
    width = int(name[1:3])
    divide = division(name)
    numbers = edges(width)
    cases = [(n, d) for n in numbers for d in numbers] + list(pairs(width, PAIRS))
    cases += [(n, d) for d in range(1, 256) for n in range(512)]
    want = [expected(name, n, d) for n, d in cases]
    defined = [k for k, value in enumerate(want) if not isinstance(value, str)]
    got = divide(*zip(*(cases[k] for k in defined), strict=True))
    wrong = [(cases[k], value, want[k]) for k, value in zip(defined, got, strict=True)]
    assert [(case, value, right) for case, value, right in wrong if value != right] == []
    traps = {(value, d): n for (n, d), value in zip(cases, want, strict=True)}
    for (value, d), n in traps.items():
        if isinstance(value, str):
            with pytest.raises(wasmtime.Trap, match=value):
                divide([n], [d])


def operator_module(names):
    functions = "".join(
        f'(func (export "{name}") (param {name[:3]} {name[:3]}) (result {name[:3]})'
        f" ({name} (local.get 0) (local.get 1)))"
        for name in names
    )
    return f"(module {functions})"


@pytest.mark.parametrize("name", DIVISIONS)
def test_lowered_division(name):
    width = int(name[1:3])
    machine = Machine(compile_wat(operator_module([name])))
    rng = random.Random(7)
    numbers = edges(width)
    cases = [(rng.choice(numbers), rng.choice(numbers)) for _ in range(150)]
    cases += list(pairs(width, 150))
    cases += [(1 << (width - 1), (1 << width) - 1), (5, 0), (0, 0)]
    for n, d in cases:
        want = expected(name, n, d)
        assert machine.invoke(name, n, d) == (Trap(want) if isinstance(want, str) else [want])


@pytest.mark.parametrize(
    ("name", "n", "d", "limit"),
    [
        ("i32.div_u", 4_000_000_007, 10, 54),
        ("i32.rem_u", 4_000_000_007, 10, 54),
        ("i32.div_s", 2_000_000_007, 10, 64),
        ("i32.div_s", -2_000_000_007, 10, 94),
        ("i64.div_u", 4_000_000_007, 10, 64),
        ("i64.rem_s", 4_000_000_007, 10, 64),
        ("i64.div_u", 10**19 + 7, 10, 129),
        ("i64.rem_u", 10**19 + 7, 10**10 + 3, 100),
    ],
)
def test_division_steps(name, n, d, limit):
    machine = Machine(compile_wat(operator_module([name])))
    assert isinstance(machine.invoke(name, n, d), list)
    assert machine.steps - 4 <= limit  # two operands pushed, return, halt


def test_memory_grow():
    text = """(module (memory (export "memory") 1 3)
      (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
      (func (export "size") (result i32) (memory.size))
      (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0))))"""
    calls = [
        ("size",), ("load", 65535), ("load", 65536), ("grow", 0), ("grow", 3), ("grow", -1),
        ("grow", 1), ("size",), ("load", 131071), ("load", 131072), ("grow", 2), ("grow", 1),
        ("grow", 1), ("size",),
    ]  # fmt: skip
    assert check(text, *calls).pages == 3


def test_memory_grow_stops_at_the_cap():
    text = """(module (memory 1)
      (func (export "grow") (param i32) (result i32) local.get 0 memory.grow))"""
    machine = Machine(compile_wat(text), max_pages=4)
    assert machine.invoke("grow", 4) == [2**32 - 1]
    assert machine.invoke("grow", 3) == [1]
    assert machine.invoke("grow", 1) == [2**32 - 1]


SIGNATURES = {
    "fd_write": "i32 i32 i32 i32",
    "fd_read": "i32 i32 i32 i32",
    "fd_close": "i32",
    "fd_seek": "i32 i64 i32 i32",
    "fd_fdstat_get": "i32 i32",
    "fd_prestat_get": "i32 i32",
    "fd_prestat_dir_name": "i32 i32 i32",
    "args_sizes_get": "i32 i32",
    "args_get": "i32 i32",
    "environ_sizes_get": "i32 i32",
    "environ_get": "i32 i32",
    "fd_tell": "i32 i32",
    "fd_filestat_get": "i32 i32",
    "fd_fdstat_set_flags": "i32 i32",
    "fd_filestat_set_size": "i32 i64",
    "fd_filestat_set_times": "i32 i64 i64 i32",
    "fd_sync": "i32",
    "fd_pread": "i32 i32 i32 i64 i32",
    "fd_pwrite": "i32 i32 i32 i64 i32",
    "fd_readdir": "i32 i32 i32 i64 i32",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
    "path_filestat_get": "i32 i32 i32 i32 i32",
    "path_filestat_set_times": "i32 i32 i32 i32 i64 i64 i32",
    "path_create_directory": "i32 i32 i32",
    "path_unlink_file": "i32 i32 i32",
    "path_remove_directory": "i32 i32 i32",
    "path_rename": "i32 i32 i32 i32 i32 i32",
    "path_link": "i32 i32 i32 i32 i32 i32 i32",
    "path_symlink": "i32 i32 i32 i32 i32",
    "path_readlink": "i32 i32 i32 i32 i32 i32",
    "clock_time_get": "i32 i64 i32",
    "clock_res_get": "i32 i32",
    "sched_yield": "",
    "poll_oneoff": "i32 i32 i32 i32",
    "random_get": "i32 i32",
}
WASI = "wasi_snapshot_preview1"
TEXT = b"Hello, WASI world! 0123456789"


def wasi_module(module=WASI):
    """Every WASI function under its own name, and some memory: TEXT at 100."""
    imports = f'(import "{module}" "proc_exit" (func $proc_exit (param i32)))'
    functions = '(func (export "proc_exit") (param i32) (call $proc_exit (local.get 0)))'
    for name, params in SIGNATURES.items():
        type_ = f"(param {params}) (result i32)"
        imports += f'(import "{module}" "{name}" (func ${name} {type_}))\n'
        operands = " ".join(f"(local.get {k})" for k in range(len(params.split())))
        functions += f'(func (export "{name}") {type_} (call ${name} {operands}))\n'
    return compile_wat(
        f"""(module {imports} {functions} (memory (export "memory") 1)
          (data (i32.const 100) "{TEXT.decode()}")
          ;; iovecs: 29, 0 and 7 bytes at 16; room for 5, 0 and 40 bytes at 48
          (data (i32.const 16) "\\64\\00\\00\\00\\1d\\00\\00\\00"
            "\\64\\00\\00\\00\\00\\00\\00\\00" "\\6b\\00\\00\\00\\07\\00\\00\\00")
          (data (i32.const 48) "\\00\\02\\00\\00\\05\\00\\00\\00"
            "\\05\\02\\00\\00\\00\\00\\00\\00" "\\05\\02\\00\\00\\28\\00\\00\\00"))"""
    )


ARGS = ["program", "27", "", "hé"]
ENVIRON = ["HOME=/", "EMPTY="]
STDIN = b"first line\nsecond line\n\xff\x00end"


@pytest.fixture
def reference(tmp_path):
    return in_wasmtime(wasi_module(), tmp_path)


def in_wasmtime(binary, tmp_path):
    """A module in wasmtime: a function that calls an export, and one that reads memory."""
    (tmp_path / "stdin").write_bytes(STDIN)
    config = wasmtime.WasiConfig()
    config.argv = ARGS
    config.env = [variable.split("=") for variable in ENVIRON]
    config.stdin_file = tmp_path / "stdin"
    config.stdout_file = tmp_path / "stdout"
    config.stderr_file = tmp_path / "stderr"
    store = wasmtime.Store(wasmtime.Engine())
    store.set_wasi(config)
    linker = wasmtime.Linker(store.engine)
    linker.define_wasi()
    module = wasmtime.Module(store.engine, binary)
    exports = linker.instantiate(store, module).exports(store)
    return (
        lambda name, *args: exports[name](store, *args),
        lambda size: bytes(exports["memory"].read(store, 0, size)),
    )


def test_wasi(reference, tmp_path):
    invoke, memory = reference
    machine = Machine(wasi_module(), args=ARGS, environ=ENVIRON, stdin=STDIN)
    calls = [
        ("args_sizes_get", 1000, 1004), ("args_get", 1008, 1100),
        ("environ_sizes_get", 1200, 1204), ("environ_get", 1208, 1300),
        ("fd_write", 1, 16, 1, 8), ("fd_write", 2, 16, 1, 8), ("fd_write", 2, 32, 1, 8),
        ("fd_write", 1, 24, 1, 8), ("fd_write", 0, 16, 1, 8), ("fd_write", 3, 16, 1, 8),
        ("fd_read", 0, 48, 1, 8), ("fd_read", 1, 48, 1, 8), ("fd_read", 9, 48, 1, 8),
        ("fd_read", 0, 64, 1, 8), ("fd_read", 0, 64, 1, 8), ("fd_read", 0, 64, 1, 8),
    ]  # fmt: skip
    for fd in range(4):
        calls += [
            ("fd_seek", fd, 0, 1, 1400), ("fd_prestat_get", fd, 1400),
            ("fd_prestat_dir_name", fd, 1400, 4), ("fd_fdstat_get", fd, 1408),
            ("fd_tell", fd, 1440), ("fd_filestat_get", fd, 1448),
            ("fd_fdstat_set_flags", fd, 4), ("path_open", fd, 0, 100, 5, 0, 0, 0, 0, 1400),
            ("path_filestat_get", fd, 0, 100, 5, 1400), ("path_unlink_file", fd, 100, 5),
            ("path_remove_directory", fd, 100, 5), ("path_rename", fd, 100, 5, fd, 100, 5),
            ("fd_filestat_set_size", fd, 9), ("fd_filestat_set_times", fd, 0, 0, 0),
            ("fd_sync", fd), ("fd_pread", fd, 16, 1, 0, 8), ("fd_pwrite", fd, 16, 1, 0, 8),
            ("fd_readdir", fd, 1400, 9, 0, 8), ("path_create_directory", fd, 100, 5),
            ("path_filestat_set_times", fd, 0, 100, 5, 0, 0, 0),
            ("path_link", fd, 0, 100, 5, fd, 100, 5), ("path_symlink", 100, 5, fd, 100, 5),
            ("path_readlink", fd, 100, 5, 1400, 9, 8),
        ]  # fmt: skip
    for name, *args in calls:
        assert machine.invoke(name, *args) == [invoke(name, *args)], (name, args)
        assert machine.memory(2048) == memory(2048), (name, args)
    assert machine.oracle.stdout == (tmp_path / "stdout").read_bytes() == TEXT
    assert machine.oracle.stderr == (tmp_path / "stderr").read_bytes() == TEXT + TEXT[7:14]
    for fd in range(4):
        assert machine.invoke("fd_close", fd) == [invoke("fd_close", fd)]


# --- time and random numbers ---


def word(machine, address):
    return int.from_bytes(machine.oracle.memory(address, 8), "little")


def test_every_look_at_a_clock_advances_it():
    start = 1_700_000_000 * 10**9
    machine = Machine(wasi_module(), clock=start)
    for looks, clock in enumerate((0, 1, 1, 0)):
        assert machine.invoke("clock_time_get", clock, 0, 8) == [0]
        assert word(machine, 8) == start + 1000 * looks
        assert machine.invoke("clock_res_get", clock, 16) == [0]
        assert word(machine, 16) == 1000
    machine = Machine(wasi_module())
    assert machine.invoke("clock_time_get", 1, 0, 8) == [0]
    assert word(machine, 8) == 0


def test_other_clocks_and_the_scheduler(reference):
    invoke, _ = reference
    machine = Machine(wasi_module())
    for clock in range(4):
        for name, *args in (("clock_time_get", clock, 0, 8), ("clock_res_get", clock, 8)):
            assert machine.invoke(name, *args) == [invoke(name, *args)], (name, clock)
    assert machine.invoke("sched_yield") == [invoke("sched_yield")] == [0]


def random_words(seed):
    """splitmix64, eight bytes at a time."""
    mask = 2**64 - 1
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ seed >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        yield (z ^ z >> 31).to_bytes(8, "little")


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_random_bytes_follow_from_the_seed(seed):
    assert next(random_words(0)) == 0xE220A8397B1DCDAF.to_bytes(8, "little")
    machine, words = Machine(wasi_module(), seed=seed), random_words(seed)
    end = 1000
    for size in (*range(19), 64, 100):
        assert machine.invoke("random_get", end, size) == [0]
        expected = b"".join(next(words) for _ in range(-(-size // 8)))[:size]
        assert machine.oracle.memory(end, size + 1) == expected + b"\0"
        end += size
    assert machine.invoke("random_get", 65530, 9) == Trap("out of bounds memory access")


def clock_event(data, clock, timeout, flags=0):
    return struct.pack("<QB7xI4xQQH6x", data, 0, clock, timeout, 0, flags)


def stream_event(data, kind, fd):
    return struct.pack("<QB7xI28x", data, kind, fd)


READ, WRITE, SECOND = 1, 2, 10**9
POLLS = {
    "nothing": [],
    "a sleep": [clock_event(2**64 - 7, 1, 1000)],
    "a sleep of no time": [clock_event(7, 0, 0)],
    "a time gone by": [clock_event(7, 1, 1, 1)],
    "the shortest of three": [
        clock_event(1, 1, SECOND), clock_event(2, 0, 2000), clock_event(3, 1, 2000),
    ],
    "stdout is ready": [stream_event(4, WRITE, 1), clock_event(5, 1, SECOND)],
    "stdin is ready": [stream_event(4, READ, 0)],
    "all streams": [
        stream_event(1, WRITE, 1), stream_event(2, WRITE, 2), stream_event(3, READ, 0),
    ],
    "reading stdout": [stream_event(1, READ, 1)],
    "writing stdin": [clock_event(1, 1, 1000), stream_event(1, WRITE, 0)],
    "reading what is not open": [stream_event(1, READ, 3)],
    "writing what is not open": [stream_event(1, WRITE, 3)],
    "a clock of the process": [clock_event(1, 2, 1000)],
    "an unknown kind": [stream_event(1, 3, 0)],
}  # fmt: skip


def poll_module(subscriptions):
    """Polls once; events to address 2048, their number to 8."""
    data = "".join(f"\\{byte:02x}" for byte in b"".join(subscriptions))
    return compile_wat(
        f"""(module
          (import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "{WASI}" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
          (memory (export "memory") 1) (data (i32.const 1024) "{data}")
          (func (export "poll") (result i32)
            (call $poll (i32.const 1024) (i32.const 2048) (i32.const {len(subscriptions)})
              (i32.const 8)))
          (func (export "time") (result i64)
            (drop (call $time (i32.const 1) (i64.const 0) (i32.const 16)))
            (i64.load (i32.const 16))))"""
    )


@pytest.mark.parametrize("name", POLLS)
def test_poll(name, tmp_path):
    binary = poll_module(POLLS[name])
    invoke, memory = in_wasmtime(binary, tmp_path)
    machine = Machine(binary, stdin=STDIN)
    assert machine.invoke("poll") == [invoke("poll")]
    assert machine.memory(4096) == memory(4096)


@pytest.mark.parametrize(
    ("subscriptions", "time", "users"),
    [
        ([clock_event(1, 1, 5 * SECOND)], 100 + 5 * SECOND, [1]),
        ([clock_event(1, 0, 5 * SECOND), clock_event(2, 1, 3 * SECOND)], 100 + 3 * SECOND, [2]),
        ([clock_event(1, 0, 5 * SECOND, 1)], 5 * SECOND, [1]),
        ([clock_event(1, 0, 50, 1), clock_event(2, 1, SECOND)], 100, [1]),
        ([clock_event(1, 1, SECOND), stream_event(2, WRITE, 2)], 100, [2]),
        ([clock_event(1, 1, 0), stream_event(2, READ, 0), clock_event(3, 1, 1)], 100, [1, 2]),
        ([clock_event(1, 1, 2**64 - 101)], 2**64 - 1, [1]),
    ],
)
def test_sleeping_advances_the_clock(subscriptions, time, users):
    machine = Machine(poll_module(subscriptions), clock=100)
    assert machine.invoke("poll") == [0]
    assert [word(machine, 2048 + 32 * k) for k in range(len(users) + 1)] == [*users, 0]
    assert word(machine, 8) == len(users)
    assert machine.invoke("time") == [time]


def test_several_iovecs():
    machine = Machine(wasi_module(), stdin=STDIN)
    assert machine.invoke("fd_write", 1, 16, 3, 8) == [0]
    assert machine.oracle.stdout == TEXT + TEXT[7:14]
    assert machine.memory(12)[8:] == bytes([36, 0, 0, 0])
    assert machine.invoke("fd_read", 0, 48, 3, 8) == [0]
    assert machine.oracle.memory(512, len(STDIN)) == STDIN
    assert machine.memory(12)[8:] == bytes([len(STDIN), 0, 0, 0])
    assert machine.invoke("fd_read", 0, 48, 0, 8) == [0]
    assert machine.memory(12)[8:] == bytes(4)


@pytest.mark.parametrize("size", range(20))
def test_written_sizes(size):
    text = f"""(module (import "{WASI}" "fd_write"
        (func $fd_write (param i32 i32 i32 i32) (result i32)))
      (memory 1) (data (i32.const 100) "{TEXT.decode()}") (data (i32.const 0) "\\64")
      (func (export "_start")
        (i32.store offset=4 (i32.const 0) (i32.const {size}))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
    machine = Machine(compile_wat(text))
    assert machine.invoke("_start") == []
    assert machine.oracle.stdout == machine.oracle.stderr == TEXT[:size]


def test_proc_exit():
    machine = Machine(wasi_module("wasi_unstable"))
    assert machine.invoke("proc_exit", 7) == Exit(7)
    assert machine.invoke("proc_exit", 0) == Exit(0)


def test_no_arguments():
    machine = Machine(wasi_module())
    assert machine.invoke("args_sizes_get", 0, 4) == [0]
    assert machine.memory(8) == bytes(8)
    assert machine.invoke("args_get", 0, 4) == [0]
    assert machine.memory(8) == bytes(8)
