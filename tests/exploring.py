"""Recorded runs that the tests of the exploration share."""

import functools
from pathlib import Path

import onengine
import wasmjax
from lowering import compile_wat
from wasmjax.explore import tour
from wasmjax.explore.exploration import Exploration
from wasmjax.explore.record import Tape
from wasmjax.explore.site import Site
from wasmjax.explore.tour import Tour

__all__ = ["EXAMPLES", "compile_wat", "explore", "hello", "site", "the_tour"]

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@functools.cache
def the_tour() -> Tour:
    return Tour(tour.record(onengine.machine()))


def explore(source, args=(), max_steps: int | None = None, **inputs) -> Exploration:
    """A run of a program (a path or a binary), recorded to its end."""
    machine = onengine.machine()
    tape = Tape(machine.engine)
    run = machine.start(wasmjax.load(source), ["program", *args], session=tape, **inputs)
    exploration = Exploration(machine, run, tape, "program.wasm", [*args])
    exploration.finish(max_steps)
    return exploration


@functools.cache
def hello() -> Exploration:
    return explore(EXAMPLES / "hello.wasm")


@functools.cache
def site() -> Site:
    return Site(the_tour(), hello(), None)
