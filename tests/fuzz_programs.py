"""Random valid modules, drawn so that hypothesis can shrink them."""

from dataclasses import dataclass

from hypothesis import strategies as st

from floats import CANONICAL, INFINITE, bits_of

INTEGERS = ("i32", "i64")
FLOATS = {"f32": "i32", "f64": "i64"}
TYPES = (*INTEGERS, *FLOATS)
BITS = {"i32": 32, "i64": 64, "f32": 32, "f64": 64}
ARITHMETIC = "add sub mul and or xor shl shr_s shr_u rotl rotr".split()
DIVISIONS = "div_s div_u rem_s rem_u".split()
COMPARISONS = "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u".split()
UNARY = {
    "i32": "clz ctz popcnt extend8_s extend16_s".split(),
    "i64": "clz ctz popcnt extend8_s extend16_s extend32_s".split(),
    "f32": "abs neg ceil floor trunc nearest sqrt".split(),
    "f64": "abs neg ceil floor trunc nearest sqrt".split(),
}
FLOAT_ARITHMETIC = "add sub mul div min max copysign".split()
FLOAT_COMPARISONS = "eq ne lt gt le ge".split()
LOADS = {
    "i32": "load load8_s load8_u load16_s load16_u".split(),
    "i64": "load load8_s load8_u load16_s load16_u load32_s load32_u".split(),
    "f32": ["load"],
    "f64": ["load"],
}
STORES = {
    "i32": "store store8 store16".split(),
    "i64": "store store8 store16 store32".split(),
    "f32": ["store"],
    "f64": ["store"],
}
OFFSETS = (0, 1, 3, 8, 255, 65527, 65536, 2**32 - 1)
CALLEES = 2  # most functions before the one called from outside; all may call those before them
TRIPS = 3  # most rounds of a loop
LOOPS = 2  # most loops around an instruction of one function


@dataclass(frozen=True)
class Signature:
    params: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self):
        return f"(param {' '.join(self.params)}) (result {' '.join(self.results)})"


@dataclass(frozen=True)
class Program:
    text: str
    calls: tuple[tuple[int, ...], ...]

    def _repr_pretty_(self, printer, cycle):  # how hypothesis shows it
        for line in (*self.text.splitlines(), f";; arguments of the calls of f: {self.calls}"):
            printer.break_()
            printer.text(line)


def signatures(types):
    return st.builds(
        Signature,
        st.lists(st.sampled_from(types), max_size=3).map(tuple),
        st.lists(st.sampled_from(types), max_size=2).map(tuple),
    )


def integers(width):
    """Bits, often those of an edge."""
    edges = [0, 1, 2, 3, 7, 31, 32, 63, 255, 256, 65535]
    edges += [2 ** (width - 1) - 1, 2 ** (width - 1), 2**width - 2, 2**width - 1]
    return st.sampled_from(edges) | st.integers(0, 2**width - 1)


def floats(type_):
    """Bits of floats: numbers of everyday, edges, any."""
    everyday = [bits_of(type_, x) for x in (0.0, 1.0, -1.0, 0.5, 1.5, 2.5, 3.0, -7.25, 1e6, 0.1)]
    inf, sign = INFINITE[type_], 1 << (BITS[type_] - 1)
    edges = [sign, 1, inf, inf | sign, inf - 1, CANONICAL[type_], inf + 1, sign - 1, inf >> 1]
    return st.sampled_from(everyday) | st.sampled_from(edges) | st.integers(0, 2 ** BITS[type_] - 1)


# What is drawn by these is a unit that hypothesis may delete, or put in place of one around it.


@st.composite
def unit_value(draw, write):
    write(draw)


@st.composite
def unit_statement(draw, write):
    write(draw)


class Body:
    """Writes one function, in the order of its instructions.

    Args:
      draw: draws from a strategy; simpler choices come first everywhere, for shrinking.
      signature: of this function. callees: of those it may call.
      n_functions: how many there are in all, the first ones of the table.
      size: about how many statements and operators there may be.
    """

    def __init__(self, draw, signature, callees, n_functions, size):
        self.draw = draw
        self.signature = signature
        self.callees = callees
        self.n_functions = n_functions
        self.budget = size
        extra = draw(st.lists(st.sampled_from(TYPES), max_size=3))
        self.locals = [*signature.params, *extra]
        self.hidden = []  # loop counters and temporaries; other code does not see them
        self.labels = [signature.results]  # what a branch to each passes, innermost last
        self.loops = 0
        self.out = []
        self.statements(8)
        for type_ in signature.results:
            self.value(type_, 3)

    def text(self, name):
        locals_ = [*self.locals[len(self.signature.params) :], *self.hidden]
        body = "\n    ".join(self.out)
        return (
            f'  (func (export "{name}") {self.signature} (local {" ".join(locals_)})\n    {body})'
        )

    def emit(self, *code):
        self.out += code

    def pick(self, options):
        return self.draw(st.sampled_from(options))

    def up_to(self, most):
        return self.draw(st.integers(0, most))

    def hide(self, type_):
        """A new local of its own."""
        self.hidden.append(type_)
        return len(self.locals) + len(self.hidden) - 1

    def fitting(self, types):
        """Depths of the labels to which a branch passes `types`."""
        return [d for d in range(len(self.labels)) if self.labels[-1 - d] == tuple(types)]

    # --- values: code that leaves one more value of a type ---

    def constant(self, type_):
        bits = self.draw(floats(type_) if type_ in FLOATS else integers(BITS[type_]))
        if type_ in FLOATS:
            self.emit(f"{FLOATS[type_]}.const {bits:#x}", f"{type_}.reinterpret_{FLOATS[type_]}")
        else:
            self.emit(f"{type_}.const {bits:#x}")

    def value(self, type_, depth):
        self.draw(unit_value(lambda _: self.any_value(type_, depth)))

    def any_value(self, type_, depth):
        self.budget -= 1
        if depth <= 0 or self.budget < 0:
            at = [k for k, t in enumerate(self.locals) if t == type_]
            if at and self.up_to(2):
                self.emit(f"local.get {self.pick(at)}")
            else:
                self.constant(type_)
            return
        kinds = ["leaf", "global", "tee", "load", "select", "if", "block", "call", "convert"]
        kinds += ["unary", "binary", "binary"]
        if type_ in INTEGERS:
            kinds += ["division", "truncate"]
        else:
            kinds += ["number"]
        if type_ == "i32":
            kinds += ["compare", "compare", "size"]
        getattr(self, f"value_{self.pick(kinds)}")(type_, depth - 1)

    def value_leaf(self, type_, depth):
        self.value(type_, 0)

    def value_global(self, type_, depth):
        self.emit(f"global.get ${type_}")

    def value_tee(self, type_, depth):
        self.value(type_, depth)
        at = [k for k, t in enumerate(self.locals) if t == type_]
        if at:
            self.emit(f"local.tee {self.pick(at)}")

    def value_load(self, type_, depth):
        offset = self.address(depth)
        self.emit(f"{type_}.{self.pick(LOADS[type_])} offset={offset}")

    def value_select(self, type_, depth):
        self.value(type_, depth)
        self.value(type_, depth)
        self.value("i32", depth)
        self.emit("select")

    def value_convert(self, type_, depth):
        if type_ in FLOATS:
            self.value(FLOATS[type_], depth)
            self.emit(f"{type_}.reinterpret_{FLOATS[type_]}")
        elif not self.up_to(3):
            self.value("f" + type_[1:], depth)
            self.emit(f"{type_}.reinterpret_f{type_[1:]}")
        elif type_ == "i32":
            self.value("i64", depth)
            self.emit("i32.wrap_i64")
        else:
            self.value("i32", depth)
            self.emit(self.pick(["i64.extend_i32_u", "i64.extend_i32_s"]))

    def value_unary(self, type_, depth):
        self.value(type_, depth)
        self.emit(f"{type_}.{self.pick(UNARY[type_])}")

    def value_binary(self, type_, depth):
        self.value(type_, depth)
        self.value(type_, depth)
        self.emit(f"{type_}.{self.pick(FLOAT_ARITHMETIC if type_ in FLOATS else ARITHMETIC)}")

    def value_number(self, type_, depth):
        """A float from another number."""
        source = self.pick([t for t in TYPES if t != type_])
        self.value(source, depth)
        if source in INTEGERS:
            self.emit(f"{type_}.convert_{source}_{self.pick('su')}")
        else:  # which keeps some bits of a NaN in wasmtime; the product is the canonical one
            self.emit("f64.promote_f32" if type_ == "f64" else "f32.demote_f64")
            self.emit(f"{type_}.const 1", f"{type_}.mul")

    def value_truncate(self, type_, depth):
        source = self.pick([*FLOATS])
        self.value(source, depth)
        saturating = "_sat" if self.up_to(4) else ""
        self.emit(f"{type_}.trunc{saturating}_{source}_{self.pick('su')}")

    def value_division(self, type_, depth):
        self.value(type_, depth)
        self.value(type_, depth)
        if self.up_to(5):  # mostly not by zero
            self.emit(f"{type_}.const 1", f"{type_}.or")
        self.emit(f"{type_}.{self.pick(DIVISIONS)}")

    def value_compare(self, type_, depth):
        operands = self.pick(TYPES)
        self.value(operands, depth)
        if operands in FLOATS or self.up_to(4):
            self.value(operands, depth)
            relations = FLOAT_COMPARISONS if operands in FLOATS else COMPARISONS
            self.emit(f"{operands}.{self.pick(relations)}")
        else:
            self.emit(f"{operands}.eqz")

    def value_size(self, type_, depth):
        self.emit("memory.size")

    def value_if(self, type_, depth):
        self.value("i32", depth)
        self.open(f"if (result {type_})", [type_])
        self.arm(type_, depth)
        self.emit("else")
        self.arm(type_, depth)
        self.close()

    def value_block(self, type_, depth):
        self.open(f"block (result {type_})", [type_])
        self.arm(type_, depth)
        self.close()

    def arm(self, type_, depth):
        """Code in a block that ends with a value, and may leave before it with others below."""
        self.value(type_, depth)
        targets = self.fitting([type_])
        choice = self.up_to(3)
        if choice == 1:  # leaves with it, or else it stays
            self.value("i32", depth)
            self.emit(f"br_if {self.pick(targets)}")
        elif choice == 2:  # leaves with another one
            self.value(type_, depth)
            self.value("i32", depth)
            self.emit(f"br_if {self.pick(targets)}", "drop")
        elif choice == 3:
            self.value("i32", depth)
            others = self.draw(st.lists(st.sampled_from(targets), min_size=1, max_size=4))
            self.emit("br_table " + " ".join(map(str, others)))

    def value_call(self, type_, depth):
        """A call, and that result of it which has the type, if one has."""
        if not self.callees:
            return self.constant(type_)
        results = self.call(depth)
        if type_ not in results:
            self.emit(*["drop"] * len(results))
            return self.constant(type_)
        keep = results.index(type_)
        kept = self.hide(type_)
        for k in reversed(range(len(results))):
            self.emit(f"local.set {kept}" if k == keep else "drop")
        self.emit(f"local.get {kept}")
        return None

    def call(self, depth):
        """A call, mostly direct; returns the types of its results."""
        index = self.up_to(len(self.callees) - 1)
        callee = self.callees[index]
        for type_ in callee.params:
            self.value(type_, depth)
        how = self.pick(["direct", "direct", "indirect", "any", "trap"])
        if how == "direct":
            self.emit(f"call {index}")
            return callee.results
        if how == "indirect":
            self.emit(f"i32.const {index}")
        else:
            self.value("i32", depth)
        if how == "any":  # of this type or not; never a function that is not before this one
            self.emit(f"i32.const {len(self.callees)}", "i32.rem_u")
        elif how == "trap":
            self.emit("i32.const 3", "i32.and", f"i32.const {self.n_functions}", "i32.add")
        self.emit(f"call_indirect {callee}")
        return callee.results

    def address(self, depth):
        """Leaves an address; returns an offset. Mostly in bounds together."""
        self.value("i32", depth)
        if self.up_to(9) < 9:
            self.emit("i32.const 0x7f", "i32.and")
            return self.pick(OFFSETS[:5])
        return self.pick(OFFSETS)

    # --- statements: code that leaves the stack as it is ---

    def open(self, head, passes):
        self.emit(head)
        self.labels.append(tuple(passes))

    def close(self):
        self.labels.pop()
        self.emit("end")

    def statements(self, expected):
        """About that many; how many is not drawn first, so that any can be deleted."""
        while self.budget > 0 and self.up_to(expected):
            self.draw(unit_statement(lambda _: self.any_statement()))

    def any_statement(self):
        self.budget -= 1
        kinds = ["set", "set_global", "store", "call", "if", "loop", "block", "table", "grow"]
        getattr(self, f"statement_{self.pick([*kinds, 'bulk', 'leave'])}")()

    def statement_set(self):
        if not self.locals:
            return self.statement_set_global()
        index = self.up_to(len(self.locals) - 1)
        self.value(self.locals[index], 3)
        self.emit(f"local.set {index}")
        return None

    def statement_set_global(self):
        type_ = self.pick(TYPES)
        self.value(type_, 3)
        self.emit(f"global.set ${type_}")

    def statement_store(self):
        type_ = self.pick(TYPES)
        offset = self.address(2)
        self.value(type_, 2)
        self.emit(f"{type_}.{self.pick(STORES[type_])} offset={offset}")

    def statement_call(self):
        if self.callees:
            self.emit(*["drop"] * len(self.call(2)))

    def statement_if(self):
        self.value("i32", 2)
        self.open("if", [])
        self.statements(2)
        if self.up_to(1):
            self.emit("else")
            self.statements(2)
        self.close()

    def statement_block(self):
        self.open("block", [])
        self.statements(2)
        self.value("i32", 2)
        self.emit(f"br_if {self.pick(self.fitting([]))}")
        self.statements(2)
        self.close()

    def statement_loop(self):
        """A loop that counts its rounds where a branch to its start cannot miss it."""
        if self.loops == LOOPS:
            return self.statement_block()
        counter = self.hide("i32")
        self.loops += 1
        self.emit("i32.const 0", f"local.set {counter}")
        self.open("block", [])
        self.open("loop", [])
        self.emit(f"local.get {counter}", f"i32.const {1 + self.up_to(TRIPS - 1)}")
        self.emit("i32.ge_u", "br_if 1")
        self.emit(f"local.get {counter}", "i32.const 1", "i32.add", f"local.set {counter}")
        self.statements(3)
        self.emit("br 0")
        self.close()
        self.close()
        self.loops -= 1
        return None

    def statement_table(self):
        """A br_table to code of its own, and perhaps to labels further out."""
        self.open("block", [])
        self.open("block", [])
        self.value("i32", 2)
        if self.up_to(1):
            self.emit("i32.const 3", "i32.and")
        targets = self.draw(st.lists(st.sampled_from(self.fitting([])), min_size=1, max_size=5))
        self.emit("br_table " + " ".join(map(str, targets)))
        self.close()
        self.statements(1)
        self.close()

    def statement_grow(self):
        self.value("i32", 1)
        if self.up_to(2):
            self.emit("i32.const 1", "i32.and")
        self.emit("memory.grow", "drop")

    def statement_bulk(self):
        for mask in (127, 31 if self.up_to(4) else 2**17 - 1, 31):
            self.value("i32", 1)
            self.emit(f"i32.const {mask}", "i32.and")
        self.emit(self.pick(["memory.fill", "memory.copy", "memory.init $passive"]))

    def statement_leave(self):
        """Leaves, under a condition mostly: to a label, from the function, by a trap."""
        conditional = self.up_to(4) < 4
        if conditional:
            self.value("i32", 2)
            self.open("if", [])
        choice = self.up_to(6)
        if choice < 3:
            self.emit(f"br {self.pick(self.fitting([]))}" if self.fitting([]) else "nop")
        elif choice < 6:
            for type_ in self.labels[0]:
                self.value(type_, 2)
            self.emit("return")
        else:
            self.emit("unreachable")
        if conditional:
            self.close()


@st.composite
def programs(draw, size=40, calls=(1, 3)):
    """A module and the arguments of calls of its function f, that many, one after the other."""
    n_functions = 1 + draw(st.integers(0, CALLEES))
    functions, texts = [], []
    for k in range(n_functions):
        last = k == n_functions - 1
        # wasmtime's Python interface does not keep the bits of NaNs: none goes in or out.
        signature = draw(signatures(INTEGERS if last else TYPES))
        body = Body(draw, signature, tuple(functions), n_functions, size)
        texts.append(body.text("f" if last else f"f{k}"))
        functions.append(signature)
    initial = {t: draw(integers(BITS[t])) for t in INTEGERS}
    text = "\n".join(
        [
            "(module",
            '  (memory (export "memory") 1 3)',
            '  (data (i32.const 0) "\\00\\01\\7f\\80\\ff0123456789abcdef\\fe\\ff\\ff\\ff\\ff\\80")',
            '  (data $passive "The quick brown fox jumps over the lazy dog.")',
            f"  (table {n_functions + 2} funcref)",
            f"  (elem (i32.const 0) {' '.join(map(str, range(n_functions)))})",
            *(
                f'  (global ${t} (export "{t}") (mut {t}) ({t}.const {initial[t]:#x}))'
                for t in INTEGERS
            ),
            *(f"  (global ${t} (mut {t}) ({t}.const -1.5))" for t in FLOATS),
            *texts,
            ")",
        ]
    )
    params = functions[-1].params
    arguments = st.tuples(*(integers(BITS[type_]) for type_ in params))
    turns = draw(st.lists(arguments, min_size=calls[0], max_size=calls[1]))
    return Program(text, tuple(turns))
