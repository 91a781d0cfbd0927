"""Futamura specialisation: a program folded into the weights.

Instruction fetch becomes a part of the feed-forward network (`fetch`), the code leaves the prompt,
and what no instruction of the program needs leaves the network. The tokens stay the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from wasmjax.circuit.weights import Compiled, compile_circuit
from wasmjax.machine.build import build_circuit
from wasmjax.machine.config import WASM, MachineConfig
from wasmjax.machine.program import Instruction, Program, code_tokens


def specialize(code: Sequence[Instruction], config: MachineConfig = WASM) -> Compiled:
    """A machine for one program.

    Args:
      code: its instructions; there must be some.

    Raises:
      ValueError: if an instruction does not fit the machine's fields.
      RangeError: if there are so many that exactness cannot be proven.
    """
    built = compile_circuit(build_circuit(config, code))
    names = dataclasses.replace(built.names, program=code_digest(code, config))
    return dataclasses.replace(built, names=names)


def code_digest(code: Sequence[Instruction], config: MachineConfig = WASM) -> str:
    """Names a program's code, whatever its inputs and initial contents."""
    return hashlib.sha256(code_tokens(config, code).tobytes()).hexdigest()


def require(code: Sequence[Instruction], folded: str) -> None:
    """Checks that code is what weights hold, given its digest; "": they hold none.

    Raises:
      ValueError: if it is other code.
    """
    if folded and code_digest(code) != folded:
        raise ValueError("the weights hold another program")


def without_code(program: Program) -> Program:
    """What is left for the prompt when the code is folded in."""
    return dataclasses.replace(program, instructions=())
