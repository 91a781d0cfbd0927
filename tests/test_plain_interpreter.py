"""The yardstick of the batch benchmark really runs the programs: same output, same steps."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import plain_interpreter
import pytest

from wasmjax import load
from wasmjax.machine.config import WASM
from wasmjax.machine.program import invocation, prompt, registers
from wasmjax.oracle.execute import Oracle
from wasmjax.wasm.lower import lower

ROOT = pathlib.Path(__file__).parent.parent

CASES = ("hello", "rot13", "collatz_7", "long_addition", "crc32_text", "queens_4", "sudoku_none")


def lowered_cases():
    examples = {e["name"]: e for e in json.loads((ROOT / "examples/examples.json").read_text())}
    for name in CASES:
        example = examples[name]
        module = load(ROOT / "examples" / example["wasm"])
        args = ["program", *example["args"]]
        yield lower(module, args=args, stdin=example["stdin"].encode())


def by_oracle(lowered) -> tuple[bytes, int]:
    """Output and steps."""
    entry, program = lowered.exports["_start"], lowered.program
    tokens = prompt(WASM, program)
    oracle = Oracle(WASM)
    oracle.feed(tokens)
    oracle.feed(
        invocation(
            WASM,
            program,
            registers(WASM, tokens),
            entry=entry.entry,
            args=(),
            header=entry.header,
            frame_size=entry.frame_size,
        )
    )
    oracle.run(10**7, keep=False)
    return oracle.stdout, oracle.steps


@pytest.mark.parametrize("how", ["switch", "select"])
def test_it_runs_the_examples(how):
    cases = list(lowered_cases())
    with jax.enable_x64(True):
        code = plain_interpreter.pack([case.program for case in cases])
        lanes = [
            plain_interpreter.initial(case.program, start, case.exports["_start"], 1024, 1 << 18)
            for case, start in zip(cases, code.starts, strict=True)
        ]
        for lane in lanes:
            lane["output"], lane["n_output"] = np.zeros(4096, np.int32), np.int32(0)
        state = {k: jnp.asarray(np.stack([lane[k] for lane in lanes])) for k in lanes[0]}
        names = ("instructions", "immediates", "table", "inputs")
        arrays = {name: jnp.asarray(getattr(code, name)) for name in names}
        run = jax.jit(
            lambda code, state: plain_interpreter.run_chunk(code, state, 20000, how),
            donate_argnums=1,
        )
        for _ in range(100):
            state = run(arrays, state)
            if not (np.asarray(state["status"]) == 0).any():
                break
        outputs, counts = np.asarray(state["output"]), np.asarray(state["n_output"])
        for number, case in enumerate(cases):
            written = outputs[number, : counts[number]]
            out = (written[written >> 8 == 1] & 255).astype(np.uint8).tobytes()
            assert (out, int(state["steps"][number])) == by_oracle(case)
