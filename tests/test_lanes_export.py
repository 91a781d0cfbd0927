"""What is compiled for accelerators, read off the exported programs; and the contract on a GPU."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import onengine
import onlanes
from wasmjax.engine.decode import Engine, Session
from wasmjax.engine.fleet import Fleet
from wasmjax.engine.lanes import make_mesh

TESTS = pathlib.Path(__file__).parent
SHARDING = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "shape_assertion"}
COLLECTIVES = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broad"


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


class Recorder:
    """Everything that a fleet of an engine compiles: by name the jitted function, its arguments'
    shapes, and the compiled one."""

    def __init__(self, engine) -> None:
        self.engine, self._compiled = engine, engine.compiled
        self.jitted, self.args, self.compiled = {}, {}, {}

    def __enter__(self):
        self.engine.compiled = self.record
        return self

    def __exit__(self, *exception) -> None:
        del self.engine.compiled

    def record(self, name, function, in_specs, out_specs, *args, donate=0):
        self.jitted[name] = self.engine.lowerable(function, in_specs, out_specs, donate)
        self.args[name] = shapes(args)
        found = self._compiled(name, function, in_specs, out_specs, *args, donate=donate)
        self.compiled[name] = found
        return found


def recorded(devices, lanes: int = 8) -> Recorder:
    """A fleet of the universal machine that was filled, changed and stepped."""
    engine = onlanes.engine("wasm", mesh=make_mesh(devices))
    tokens = onlanes.wasm_prompts()[0]
    with Recorder(engine) as out:
        fleet = Fleet(engine, onlanes.capacity(engine, lanes, *onlanes.WASM_ROWS))
        fleet.admit([(onlanes.sequence(engine.cache, tokens, 257), 5)])
        fleet.start(1, 1)
        fleet.finish()
    assert set(out.jitted) == {"fill", "change", "chunk"}
    return out


@functools.cache
def of_lanes() -> Recorder:
    return recorded(jax.devices()[:1])


@functools.cache
def of_one_lane(name: str):
    """The jitted chunk of one lane, and its arguments' shapes."""
    engine: Engine = onengine.machine(name).engine
    session = Session(engine)
    session.feed(onlanes.wasm_prompts()[0])
    args = engine.params, session._lane, jnp.int32(0), jnp.array(False)
    return jax.jit(engine._chunk, donate_argnums=(1,)), shapes(args)


def check_exported(jitted, args, dots: bool = False, computes: bool = True) -> None:
    """The program for GPUs and TPUs is plain StableHLO in single precision."""
    exported = jax.export.export(jitted, platforms=["cuda", "tpu"])(*args)
    assert set(exported.platforms) == {"cuda", "tpu"}
    text = exported.mlir_module()
    assert not computes or ("stablehlo.while" in text and "xf32>" in text)
    assert not re.search(r"\bf64\b|xf64|complex", text)
    assert set(re.findall(r"custom_call @([\w.]+)", text)) <= SHARDING
    assert text.count("custom_call") == len(re.findall(r"custom_call @[\w.]+", text))
    assert not re.search(r"callback|infeed|outfeed|stablehlo\.(send|recv)", text)
    found = re.findall(r"stablehlo\.(?:dot|dot_general|convolution)\b.*", text)
    assert bool(found) == dots
    for dot in found:
        assert "precision = [HIGHEST, HIGHEST]" in dot


@pytest.mark.parametrize("name", ["chunk", "fill", "change"])
def test_batches_are_exported(name):
    made = of_lanes()
    check_exported(made.jitted[name], made.args[name], computes=name == "chunk")


@pytest.mark.parametrize(("name", "dots"), [("packed", False), ("dense", True)])
def test_one_lane_is_exported(name, dots):
    check_exported(*of_one_lane(name), dots=dots)


def donated(jitted, args) -> list[tuple[str, bool]]:
    """Types of the arguments of the lowered program, and whether each may be written over."""
    text = jitted.lower(*args).as_text()
    main = next(line for line in text.splitlines() if "func.func public @main(" in line)
    arguments = main.split(" -> ")[0].split("%arg")[1:]
    marks = ("tf.aliasing_output", "jax.buffer_donor")
    return [(re.search(r"tensor<\S+>", a)[0], any(mark in a for mark in marks)) for a in arguments]


@pytest.mark.parametrize(("name", "unused"), [("chunk", 2), ("fill", 0), ("change", 0)])
def test_lanes_are_donated(name, unused):
    """What is donated is written in place: nothing is copied, in a chunk either."""
    args = of_lanes().args[name]
    count = len(jax.tree.leaves(args[0])) - unused  # counters are set to zero
    marks = [mark for _, mark in donated(of_lanes().jitted[name], args)]
    assert marks == [True] * count + [False] * (len(jax.tree.leaves(args[1:])))
    memory = of_lanes().compiled[name].memory_analysis()
    caches = args[0].cache.written if name == "chunk" else args[0]
    sizes = [array.size * array.dtype.itemsize for array in caches]
    assert memory.alias_size_in_bytes >= sum(sizes)
    assert memory.temp_size_in_bytes < max(sizes) / 4


@pytest.mark.parametrize("name", ["packed", "dense"])
def test_the_cache_of_one_lane_is_donated(name):
    jitted, args = of_one_lane(name)
    cache = [f"tensor<{'x'.join(map(str, x.shape))}xf32>" for x in args[1].cache.written]
    found = donated(jitted, args)
    for type_ in cache:
        assert (type_, True) in found and (type_, False) not in found


SEVERAL_DEVICES = """
import json, re
import jax
from jax.sharding import PartitionSpec
import test_lanes_export
from wasmjax.engine import fleet, lanes

made = test_lanes_export.recorded(jax.devices())
programs = {name: compiled.as_text() for name, compiled in made.compiled.items()}
whole, sharded = (made.engine.sharding(PartitionSpec(*axis)) for axis in ((), (lanes.AXIS,)))
written = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded) for x in made.args["fill"][0]]
taken = jax.jit(fleet._taken, out_shardings=whole).lower(tuple(written), jax.numpy.zeros(1, int))
programs["take"] = taken.compile().as_text()
found = {name: re.findall(test_lanes_export.COLLECTIVES, text) for name, text in programs.items()}
print(json.dumps({"devices": made.engine.devices, "found": found}))
"""


def test_devices_exchange_nothing_within_a_chunk():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL_DEVICES],
        cwd=TESTS, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    found = record["found"]
    assert record["devices"] == 2 and set(found) == {"chunk", "fill", "change", "take"}
    assert not (found["chunk"] or found["fill"] or found["change"])
    assert found["take"]  # the test would see them


@pytest.mark.gpu
def test_the_contract_on_a_gpu():
    backend = jax.default_backend()
    if backend == "cpu":
        pytest.skip("JAX's default devices are CPUs: this needs a GPU")
    mesh = make_mesh()
    onlanes.check_wasm(onlanes.engine("wasm", mesh=mesh), 8 * mesh.size)
    onlanes.check_counters(onlanes.engine("counter", mesh=mesh), 4 * mesh.size)
    for seed in (0, 3, 20, 192, 255):
        onlanes.check_random_transformer(seed)
