"""Random valid modules run alike lowered and in wasmtime."""

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowering import Machine, Reference, Trap, compile_wat

TYPES = ("i32", "i64")
FUEL = 120
_BINARY = (
    "add sub mul and or xor shl shr_s shr_u rotl rotr div_s div_u rem_s rem_u"
    " eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u"
).split()
_UNARY = "clz ctz popcnt extend8_s extend16_s".split()
_COMPARES = _BINARY[15:]
_LOADS = {
    "i32": "load load8_s load8_u load16_s load16_u",
    "i64": "load load8_s load8_u load16_s load16_u load32_s load32_u",
}
_STORES = {"i32": "store store8 store16", "i64": "store store8 store16 store32"}
_CONSTANTS = (0, 1, 2, 3, 5, 31, 32, 100, 255, 2**31 - 1, -1, -2, -100, -(2**31))


class Generator:
    """Writes the body of one function, instruction by instruction, keeping track of types.

    Args:
      rng: makes the choices.
      functions: (parameters, results) of the functions there are to call.
      locals_: types of the function's locals, parameters first.
      results: its result types.
      globals_: types of the globals after the first, which counts fuel down.
    """

    def __init__(self, rng, functions, locals_, results, globals_):
        self.rng = rng
        self.functions = functions
        self.locals = locals_
        self.globals = globals_
        self.out = []
        self.labels = [tuple(results)]  # what a branch to each label passes, innermost last
        self.budget = 60
        self.burn()
        self.body([], list(results), depth=0)

    def burn(self):
        """Ends endless loops and recursion in a trap."""
        self.out.append(
            "(if (i32.eqz (global.get 0)) (then unreachable))"
            "(global.set 0 (i32.sub (global.get 0) (i32.const 1)))"
        )

    def push(self, stack, type_):
        pick = self.rng.random()
        candidates = [k for k, t in enumerate(self.locals) if t == type_]
        if pick < 0.5 and candidates:
            self.out.append(f"local.get {self.rng.choice(candidates)}")
        else:
            value = self.rng.choice(_CONSTANTS)
            if type_ == "i64" and self.rng.random() < 0.4:
                value = value * 2**31 + self.rng.choice(_CONSTANTS)
                value = (value + 2**63) % 2**64 - 2**63
            self.out.append(f"{type_}.const {value}")
        stack.append(type_)

    def need(self, stack, types):
        """Makes `types` the top of the stack."""
        types = list(types)
        for common in range(len(types), -1, -1):
            if common <= len(stack) and stack[len(stack) - common :] == types[:common]:
                for type_ in types[common:]:
                    self.push(stack, type_)
                return

    def take(self, stack, types):
        self.need(stack, types)
        if types:
            del stack[-len(types) :]

    def address(self, stack):
        """An address that is mostly in bounds, as the top of the stack."""
        self.need(stack, ["i32"])
        if self.rng.random() < 0.9:
            self.out.append("(i32.and (i32.const 255))")

    def body(self, stack, results, depth):
        """Instructions up to the end of a block whose stack is `stack`, leaving `results`."""
        for _ in range(self.rng.randint(1, 10)):
            self.budget -= 1
            if self.budget <= 0:
                break
            if self.instruction(stack, depth):
                stack.clear()  # nothing reaches what follows, which is still to be valid
                if self.rng.random() < 0.7:
                    break
        if stack[len(stack) - len(results) :] == results and self.rng.random() < 0.7:
            extra = len(stack) - len(results)
            if extra and self.labels[-1] == tuple(results):
                self.out.append("br 0")
                return
            if not extra:
                return
        self.out += ["drop"] * len(stack)
        stack.clear()
        self.need(stack, results)

    def instruction(self, stack, depth):
        """One instruction, or a few; whether nothing reaches what follows."""
        rng, out = self.rng, self.out
        choice = rng.choice(
            "const const binary binary unary set tee global drop select memory memory block loop"
            " if if br_if br_if br br_table call indirect grow bulk convert return".split()
        )
        type_ = rng.choice(TYPES)
        if choice == "const":
            self.push(stack, type_)
        elif choice == "binary":
            self.take(stack, [type_, type_])
            name = rng.choice(_BINARY)
            out.append(f"{type_}.{name}")
            stack.append("i32" if name in _COMPARES else type_)
        elif choice == "unary":
            self.take(stack, [type_])
            name = rng.choice([*_UNARY, "eqz"])
            out.append(f"{type_}.{name}")
            stack.append("i32" if name == "eqz" else type_)
        elif choice == "convert":
            self.take(stack, [type_])
            names = ("i64.extend_i32_s", "i64.extend_i32_u")
            out.append(rng.choice(names) if type_ == "i32" else "i32.wrap_i64")
            stack.append("i64" if type_ == "i32" else "i32")
        elif choice in ("set", "tee"):
            index = rng.randrange(len(self.locals))
            self.take(stack, [self.locals[index]])
            out.append(f"local.{choice} {index}")
            if choice == "tee":
                stack.append(self.locals[index])
        elif choice == "global":
            index = rng.randrange(len(self.globals))
            if rng.random() < 0.5:
                out.append(f"global.get {index + 1}")
                stack.append(self.globals[index])
            else:
                self.take(stack, [self.globals[index]])
                out.append(f"global.set {index + 1}")
        elif choice == "drop":
            for _ in range(rng.randint(1, 3)):
                if stack:
                    stack.pop()
                    out.append("drop")
        elif choice == "select":
            self.take(stack, [type_, type_, "i32"])
            out.append("select")
            stack.append(type_)
        elif choice == "memory":
            offset = rng.choice((0, 0, 1, 7, 200, 65530))
            self.address(stack)
            if rng.random() < 0.5:
                stack.pop()
                out.append(f"{type_}.{rng.choice(_LOADS[type_].split())} offset={offset}")
                stack.append(type_)
            else:
                self.push(stack, type_)
                del stack[-2:]
                out.append(f"{type_}.{rng.choice(_STORES[type_].split())} offset={offset}")
        elif choice == "grow":
            if rng.random() < 0.5:
                out.append("memory.size")
            else:
                self.take(stack, ["i32"])
                out.append("(i32.and (i32.const 1)) memory.grow")
            stack.append("i32")
        elif choice == "bulk":
            self.address(stack)
            self.push(stack, "i32")
            out.append("(i32.and (i32.const 127))")
            self.push(stack, "i32")
            out.append("(i32.and (i32.const 31))")
            del stack[-3:]
            out.append(f"memory.{rng.choice(('copy', 'fill'))}")
        elif choice in ("block", "loop", "if") and depth < 5:
            self.structure(stack, choice, depth)
        elif choice in ("br", "br_if"):
            label = rng.randrange(len(self.labels))
            types = self.labels[-1 - label]
            if choice == "br":
                self.take(stack, types)
                out.append(f"br {label}")
                return True
            self.take(stack, [*types, "i32"])
            out.append(f"br_if {label}")
            stack.extend(types)
        elif choice == "br_table":
            label = rng.randrange(len(self.labels))
            types = self.labels[-1 - label]
            same = [k for k in range(len(self.labels)) if self.labels[-1 - k] == types]
            targets = [rng.choice(same) for _ in range(rng.randint(1, 4))]
            self.take(stack, [*types, "i32"])
            out.append("br_table " + " ".join(map(str, targets)))
            return True
        elif choice == "call":
            index = rng.randrange(len(self.functions))
            params, results = self.functions[index]
            self.take(stack, params)
            out.append(f"call {index}")
            stack.extend(results)
        elif choice == "indirect":
            params, results = rng.choice(self.functions)
            self.take(stack, [*params, "i32"])
            if rng.random() < 0.8:
                out.append("(i32.and (i32.const 3))")
            out.append(f"call_indirect (param {' '.join(params)}) (result {' '.join(results)})")
            stack.extend(results)
        elif choice == "return" and rng.random() < 0.5:
            self.take(stack, self.labels[0])
            out.append("return")
            return True
        return False

    def structure(self, stack, kind, depth):
        rng, out = self.rng, self.out
        if kind == "if":
            self.take(stack, ["i32"])
        count = rng.randint(0, min(2, len(stack)))
        params = stack[len(stack) - count :]
        results = [rng.choice(TYPES) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
        otherwise = kind == "if" and rng.random() < 0.7
        if kind == "if" and not otherwise:
            results = list(params)
        del stack[len(stack) - count :]
        out.append(f"{kind} (param {' '.join(params)}) (result {' '.join(results)})")
        self.labels.append(tuple(params if kind == "loop" else results))
        if kind == "loop":
            self.burn()
        self.body(list(params), results, depth + 1)
        if otherwise:
            out.append("else")
            self.body(list(params), results, depth + 1)
        out.append("end")
        self.labels.pop()
        stack.extend(results)


def random_module(rng):
    """The text of a module and the signatures of its functions, exported as f0, f1, ..."""

    def types(most):
        return [rng.choice(TYPES) for _ in range(rng.randint(0, most))]

    functions = [(types(3), types(3)) for _ in range(rng.randint(1, 4))]
    globals_ = [rng.choice(TYPES) for _ in range(2)]
    text = f'(module (memory (export "memory") 1 3) (global (mut i32) (i32.const {FUEL}))'
    text += "".join(f"(global (mut {t}) ({t}.const {rng.randint(-5, 5)}))" for t in globals_)
    members = [str(rng.randrange(len(functions))) for _ in range(3)]
    text += f"(table 5 funcref) (elem (i32.const 0) {' '.join(members)})"
    text += '(data (i32.const 3) "0123456789abcdef\\ff\\fe\\80")'
    for index, (params, results) in enumerate(functions):
        locals_ = [rng.choice(TYPES) for _ in range(rng.randint(1, 4))]
        body = Generator(rng, functions, params + locals_, results, globals_).out
        text += (
            f'\n(func (export "f{index}") (param {" ".join(params)}) (result {" ".join(results)})'
            f" (local {' '.join(locals_)})\n" + "\n".join(body) + ")"
        )
    fuel = f'(func (export "refuel") (global.set 0 (i32.const {FUEL})))'
    return text + fuel + ")", functions


def compare(rng):
    text, functions = random_module(rng)
    binary = compile_wat(text)
    machine, reference = Machine(binary), Reference(binary)
    outcomes = []
    for _ in range(4):
        index = rng.randrange(len(functions))
        args = [rng.choice((rng.getrandbits(64), *_CONSTANTS)) for _ in functions[index][0]]
        expected = reference.invoke(f"f{index}", *args)
        assert machine.invoke(f"f{index}", *args) == expected, text
        assert machine.memory(512) == reference.memory(512), text
        assert machine.pages == reference.pages, text
        reference.invoke("refuel")
        machine.invoke("refuel")
        outcomes.append(expected)
    return outcomes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_random_module(seed):
    compare(random.Random(seed))


def test_random_modules_mostly_finish():
    """The generator is worth something: calls return values and trap in several ways."""
    seen = [outcome for seed in range(40) for outcome in compare(random.Random(seed))]
    returned = [outcome for outcome in seen if isinstance(outcome, list)]
    assert len(returned) > len(seen) // 4
    assert len({outcome.name for outcome in seen if isinstance(outcome, Trap)}) >= 3
