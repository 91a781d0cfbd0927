#!/usr/bin/env python3
"""A learned head put back into the universal machine, and the machine under noise.

    .venv/bin/python scripts/learn_machine.py --config=configs/learn_cpu.py --out=learn_cpu

Of the heads that the arm T1.head/random_softmax has learned (in OUT, see scripts/learn.py), the one
with the largest margin takes the place of the machine's fetch heads, and runs a program; then the
machine's own weights are disturbed and compared token by token. Writes OUT/machine.json, which
scripts/learn_report.py puts into results.json. Needs the extra `train`.

Exit status: 0 done; 2 a wrong command line, or no such run.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
TASK, ARM, GROUP, ADDRESSES = "T1.head", "random_softmax", "fetch", 64
SIGMAS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
CALL = "fib", (20,)
MOST = 2000
"""More steps than the call takes."""


def program() -> tuple[np.ndarray, np.ndarray]:
    """The prompt of a call, and the tokens that follow it, of the universal machine."""
    import wasmjax
    from wasmjax.instance import invocation_of
    from wasmjax.learn.machine import truth
    from wasmjax.machine.config import WASM
    from wasmjax.machine.program import prompt, registers
    from wasmjax.wasm.lower import lower

    lowered = lower(wasmjax.load(ROOT / "examples" / "freestanding" / "fib.wasm"))
    code = prompt(WASM, lowered.program)
    name, args = CALL
    now = registers(WASM, code)
    call = invocation_of(lowered.program, now, lowered.exports[name], args)
    tokens = np.concatenate([code, call])
    return tokens, truth(WASM, tokens, MOST)


def put_back(run: Any, tokens: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """The best of a run's heads in the machine: its margin, its key, and how far it gets."""
    from wasmjax.learn import machine
    from wasmjax.machine.build import build_machine
    from wasmjax.machine.config import WASM
    from wasmjax.vm import stop_rule

    params = run.restore().params
    seeds = len(jax.tree.leaves(params)[0])
    found = []
    for seed in range(seeds):
        one = jax.tree.map(lambda leaf, k=seed: leaf[k], params)
        for head in range(2):
            learned = machine.learned_head(one, head, ADDRESSES)
            found.append((learned.margin, seed, head, learned))
    margin, seed, head, best = max(found, key=lambda entry: entry[0])
    built = build_machine(WASM)
    weights = machine.put_back(built.weights, built.names, GROUP, best)
    equal, why = machine.compare(WASM, weights, stop_rule(), tokens, expected)
    chosen = {"seed": seed, "head": head, "margin": margin, "key": best.key_2x4.tolist()}
    outcome = {"program": f"{CALL[0]}{CALL[1]}", "tokens": len(expected), "equal": equal}
    heads = [{"seed": s, "head": h, "margin": m} for m, s, h, _ in found]
    return {"heads": heads, "put_back": chosen | outcome | {"why": why}}


def disturbed(tokens: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """The machine under noise, with its zeros disturbed or not: where it first goes wrong."""
    from wasmjax.learn import machine
    from wasmjax.machine.build import build_machine
    from wasmjax.machine.config import WASM
    from wasmjax.vm import stop_rule

    weights = build_machine(WASM).weights
    noise = []
    for sigma in SIGMAS:
        for wired in (True, False):
            other = machine.noisy(weights, sigma, 0, wired)
            right = machine.agreement(other, tokens, expected)
            bad = ~right.all(axis=1)
            noise.append(
                {
                    "sigma": sigma,
                    "wired": wired,
                    "tokens": len(expected),
                    "right": float((~bad).mean()),
                    "fields_right": float(right.mean()),
                    "first_divergence": int(bad.argmax()) if bad.any() else None,
                }
            )
            print(noise[-1], file=sys.stderr, flush=True)
    other = machine.noisy(weights, SIGMAS[-1], 0, True)
    caches = ("indexed", "hull", "softmax")
    refusals = {c: machine.refusal(other, stop_rule(), "packed", c) for c in caches}
    return {"noise": noise, "refusals": refusals}


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError("no arguments are expected")
    import learn

    out = pathlib.Path(flags.FLAGS.out)
    runs = learn.planned(flags.FLAGS.config, out)
    run = next((r for r in runs if (r.task.name, r.arm.name) == (TASK, ARM)), None)
    if run is None or not run.done:
        print(f"learn_machine.py: {out} holds no finished {TASK} {ARM}", file=sys.stderr)
        return 2
    tokens, expected = program()
    found = put_back(run, tokens, expected)
    print(found["put_back"], file=sys.stderr, flush=True)
    found |= disturbed(tokens, expected)
    (out / "machine.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    import learn

    learn.begin(main, lambda: None)
