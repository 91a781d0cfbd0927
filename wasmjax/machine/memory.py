"""Loads, stores and their bounds, without ever forming an address in one number."""

import dataclasses

from wasmjax.circuit.language import ZERO, Affine, total
from wasmjax.machine.alu import add_to, pass_columns
from wasmjax.machine.spaces import BANKS, Bank
from wasmjax.machine.state import Lanes, Step


@dataclasses.dataclass(frozen=True)
class Access:
    """A memory access: whether it traps, and the address digits that a store emits."""

    trap: Affine
    address: list[Affine]


def memory(step: Step, banks: list[Bank], lanes: Lanes) -> Access:
    """Adds a load's bytes to the lanes."""
    if not step.has("mem"):
        return Access(ZERO, [ZERO] * step.config.address_digits)
    pages = step.aux[2] + 256 * step.aux[3] + step.a.byte[2] + 256 * step.a.byte[3]
    trap = _out_of_bounds(step, pages)
    if step.has("load"):
        _load(step, banks, pages, trap, lanes)
    return Access(trap, _effective_address(step, trap))


def _out_of_bounds(step: Step, pages: Affine) -> Affine:
    """1 if the access's last byte is outside: digit comparison in units of 64 KiB pages."""
    c = step.circuit
    low, offset = step.a.byte, step.aux
    last = low[0] + 256 * low[1] + offset[0] + 256 * offset[1] + step.flag("size_minus_1")
    # Materialised at weight 1 before it meets larger numbers.
    carry = c.wire(
        "page carry",
        c.step("page carry 1", last, 65536) + c.step("page carry 2", last, 131072),
        (0, 2),
        "two step functions",
    )
    limit = step.c[0] + 256 * step.c[1]
    return c.wire(
        "memory trap",
        c.step("memory trap", pages + carry - limit, 0, step.flag("mem")),
        (0, 1),
        "a step function",
    )


def _effective_address(step: Step, trap: Affine) -> list[Affine]:
    """The store's address as digits: a + aux with carry look-ahead."""
    if not step.has("store"):
        return [ZERO] * step.config.address_digits
    c = step.circuit
    sums = [x + y for x, y in zip(step.a.byte[:4], step.aux, strict=True)]
    carries = [ZERO]
    below = ZERO
    for k in range(3):
        digit = c.wire(
            f"address digit {k}",
            c.reglu(f"address digit {k}+", sums[k] - 254)
            - c.reglu(f"address digit {k}-", sums[k] - 256),
            (0, 2),
            "[s >= 255] + [s >= 256]",
        )
        below = below + 2**k * digit
        carry = c.step(f"address carry {k + 1}", below, 2 ** (k + 1))
        carries.append(c.wire(f"address carry {k + 1}", carry, (0, 1), "a step function"))
    carries.append(ZERO)
    gate = step.flag("store") - trap
    return [
        c.reglu(f"address {k}", gate, sums[k] + carries[k] - 256 * carries[k + 1]) for k in range(4)
    ]


def _load(step: Step, banks: list[Bank], pages: Affine, trap: Affine, lanes: Lanes) -> None:
    c = step.circuit
    low, offset = step.a.byte, step.aux
    word_of_offset, byte_of_offset = _split_offset(step)
    # The word index, clamped so that operands of other instructions stay in range too.
    top = step.config.memory_pages - 1
    clamped = top - c.reglu("page clamp", top - pages)
    word = c.wire(
        "load word",
        step.a.word + 32 * low[1] + word_of_offset + 32 * offset[1] + 8192 * clamped,
        (0, 8192 * top + 2 * (31 + 32 * 255)),
        "pages are clamped to the largest memory",
    )
    # Where in the word the access starts: 0..14, one-hot and thresholds from the same neurons.
    start = low[0] - 8 * step.a.word + byte_of_offset
    ramp = {t: c.reglu(f"load start > {t}", start - t) for t in range(-1, 14)} | {
        14: ZERO,
        15: ZERO,
    }

    def at_least(t: int) -> Affine:
        return ramp[t - 1] - ramp[t]

    def equals(t: int) -> Affine:
        return ramp[t - 1] - 2 * ramp[t] + ramp[t + 1] if t < 15 else ZERO

    starts, matched, byte, asked = [], [], [], []
    for b in range(BANKS):
        starts.append(
            c.wire(f"load starts in bank {b}", equals(b) + equals(b + 8), (0, 1), "one-hot")
        )
        beyond = at_least(b + 1) + (at_least(b + 9) if b + 9 < 15 else ZERO)
        wrap = c.wire(f"load wraps past bank {b}", beyond, (0, 2), "two step functions")
        query = word + wrap
        value, own = c.read(
            f"memory bank {b}", banks[b].space, query, [banks[b].value, banks[b].own_address]
        )
        asked.append(query)
        byte.append(value)
        d = own - query
        # Nearest is not equal: a byte counts only if its own address is the one asked for.
        matched.append(
            c.wire(
                f"bank {b} match",
                c.reglu(f"bank {b} match+", d + 1)
                - 2 * c.reglu(f"bank {b} match", d)
                + c.reglu(f"bank {b} match-", d - 1),
                (0, 1),
                "second difference of a ramp at integers",
            )
        )
    for i in range(len(lanes)):
        group = pass_columns(i)
        wanted = step.flag("load" if group == "0" else f"load{group}")
        for b in range(BANKS):
            j = (b + i) % BANKS
            gate = starts[b] + matched[j] + wanted - trap - 2
            add_to(lanes, i, c.reglu(f"load byte {i} from bank {j}", gate, byte[j]))
    _load_sign(step, starts, matched, byte, trap, lanes)


def _split_offset(step: Step) -> tuple[Affine, Affine]:
    """aux0 as words and bytes (the embedding of aux0 carries its word part)."""
    return step.aux_word, step.aux[0] - 8 * step.aux_word


def _load_sign(
    step: Step,
    starts: list[Affine],
    matched: list[Affine],
    byte: list[Affine],
    trap: Affine,
    lanes: Lanes,
) -> None:
    """Fills upper bytes of a signed load with the sign of its last byte."""
    if not step.has("load_sign1", "load_sign2", "load_sign4"):
        return
    c = step.circuit
    negative = []
    for b in range(BANKS):
        # Is bank b the one that holds the last byte of a signed load, and is its sign set?
        last = total(
            c.reglu(
                f"sign of {size} in bank {b}",
                starts[(b - size + 1) % BANKS] + step.flag(f"load_sign{size}") - 1,
            )
            for size in (1, 2, 4)
        )
        sign = c.step(f"bank {b} sign", byte[b], 128)
        negative.append(
            c.wire(
                f"bank {b} negative",
                last + sign,
                (0, 2),
                "one size at a time, plus a step function",
            )
            + matched[b]
        )
    for group in ("1", "23", "47"):
        fill = step.flag(f"load_fill{group}")
        if fill.terms:
            spread = total(
                c.reglu(f"load fill {group} from bank {b}", negative[b] + fill - trap - 3, 255)
                for b in range(BANKS)
            )
            for k in range(len(lanes)):
                if pass_columns(k) == group:
                    add_to(lanes, k, spread)
