"""Shifts and rotates: multiply bytes by a power of two, split, rotate lanes by whole bytes.

Everything is a rotation to the left. shl keeps the lanes that did not wrap around, shr those
that did, rotl and rotr both; a right shift by 0 counts as not wrapped. shr_s adds a fill mask.
"""

from collections.abc import Callable

from wasmjax.circuit.language import ZERO, Affine, Circuit
from wasmjax.machine.alu import add_to
from wasmjax.machine.spaces import Tables
from wasmjax.machine.state import Lanes, Step

Function = Callable[[int], float]


def _lanes_moved(width: int, right: bool, q: int) -> Function:
    def moved(t: int) -> float:
        left = (width - t) % width if right else t % width
        return float(left // 8 == q)

    return moved


def _fill(width: int, k: int) -> Function:
    ones = (1 << width) - 1
    return lambda t: float((ones & ~(ones >> t % width)) >> 8 * k & 255)


def _multiple_of(width: int) -> Function:
    return lambda t: float(t % width == 0)


def _functions() -> dict[str, Function]:
    """What is needed of the shift count t (its low byte)."""
    out: dict[str, Function] = {
        "2^t": lambda t: 2.0 ** (t % 8),
        "2^-t": lambda t: 2.0 ** (-t % 8),
    }
    for width in (64, 32):
        for q in range(width // 8):
            out[f"left{width} {q}"] = _lanes_moved(width, False, q)
            out[f"right{width} {q}"] = _lanes_moved(width, True, q)
            out[f"fill{width} {q}"] = _fill(width, q)
        out[f"zero{width}"] = _multiple_of(width)
    return out


def shifts(step: Step, tables: Tables, lanes: Lanes) -> None:
    """shl, shr_s, shr_u, rotl, rotr of both widths."""
    if not step.has("left", "right"):
        return
    c = step.circuit
    functions = _functions()
    count = dict(
        zip(functions, tables.lookup("shift count", step.b.byte[0], functions), strict=True)
    )
    off = 128  # no power of two in the table is larger
    high, low = [], []
    for k, byte in enumerate(step.a.byte):
        product = c.wire(
            f"shifted {k}",
            c.reglu(f"shifted left {k}", count["2^t"] - off * (1 - step.flag("left")), byte)
            + c.reglu(f"shifted right {k}", count["2^-t"] - off * (1 - step.flag("right")), byte),
            (0, 255 * 128),
            "left and right exclude each other",
        )
        high.append(tables.divide(f"shifted {k} high", product, 8))
        low.append(product - 256 * high[k])
    for width in (64, 32):
        n = width // 8
        straight, wrapped = _gates(c, step, count, width)
        for q in range(n):
            for k in range(n):
                lower, upper = low[(k - q) % n], high[(k - q - 1) % n]
                name = f"rotate{width} {k} by {q}"
                if k > q:
                    add_to(lanes, k, c.reglu(name, straight[q], lower + upper))
                elif k < q:
                    add_to(lanes, k, c.reglu(name, wrapped[q], lower + upper))
                else:
                    add_to(lanes, k, c.reglu(name, straight[q], lower))
                    add_to(lanes, k, c.reglu(f"{name} wrapped", wrapped[q], upper))
        sign = c.wire(
            f"shr_s sign {width}",
            c.step(f"shr_s sign {width}", step.a.byte[n - 1], 128, step.flag(f"sar{width}")),
            (0, 1),
            "a step function",
        )
        for k in range(n):
            add_to(lanes, k, c.reglu(f"shr_s fill{width} {k}", sign, count[f"fill{width} {k}"]))


def _gates(
    c: Circuit, step: Step, count: dict[str, Affine], width: int
) -> tuple[list[Affine], list[Affine]]:
    """Per whole-byte rotation q: do lanes that stay, and lanes that wrap, reach the result."""
    straight, wrapped = [], []
    for q in range(width // 8):

        def gate(what: str, operation: str, q: int = q) -> Affine:
            return c.reglu(
                f"{operation}{width} {what}{q}",
                count[f"{what}{width} {q}"] + step.flag(f"{operation}{width}") - 1,
            )

        shl, rotl = gate("left", "shl"), gate("left", "rotl")
        rotr, shr = gate("right", "rotr"), gate("right", "shr")
        by_zero = (
            c.reglu(f"shr{width} by 0", count[f"zero{width}"] + step.flag(f"shr{width}") - 1)
            if q == 0
            else ZERO
        )
        why = "one operation at a time, and a shift by 0 is either straight or wrapped"
        stays = shl + rotl + rotr + by_zero
        straight.append(c.wire(f"straight{width} {q}", stays, (0, 1), why))
        around = rotl + rotr + shr - by_zero
        wrapped.append(c.wire(f"wrapped{width} {q}", around, (0, 1), why))
    return straight, wrapped
