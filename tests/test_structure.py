"""The house: arrows run one way, and the engines do not know what they run."""

import ast
import graphlib
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parent.parent / "wasmjax"
STAGES = ["circuit", "model", "cache", "engine"]
WORDS = re.compile(r"i32\.|i64\.|opcode|br_table|call_indirect|wasm(?!jax)|WebAssembly")


def modules() -> dict[str, pathlib.Path]:
    out = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def imports(name: str, path: pathlib.Path, known: set[str]) -> set[str]:
    """Modules of the package that a module imports when it is imported (not inside functions)."""
    found: set[str] = set()
    nodes = list(ast.parse(path.read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef):
            nodes += ast.iter_child_nodes(node)
    found &= known
    # `from package import submodule` also names the package; what is meant is the submodule.
    return {m for m in found if m != name and not any(o.startswith(f"{m}.") for o in found)}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, set(known)) for name, path in known.items()}


def stage(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_no_circular_import():
    assert list(graphlib.TopologicalSorter(graph()).static_order())


def test_arrows_run_one_way():
    wrong = []
    for name, targets in graph().items():
        for target in targets:
            here, there = stage(name), stage(target)
            if here in STAGES and there != here:
                earlier = there in STAGES[: STAGES.index(here)]
                wrong += [] if earlier else [(name, target)]
            if here in ("machine", "wasm", "oracle") and there in ("model", "cache", "engine"):
                wrong.append((name, target))
            if here == "oracle" and there == "circuit":
                wrong.append((name, target))
            if here == "machine" and there in ("wasm", "oracle"):
                wrong.append((name, target))
    assert wrong == []


def test_no_vocabulary_of_what_is_run_below_the_machine():
    found = []
    for directory in STAGES:
        for path in (PACKAGE / directory).glob("*.py"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if WORDS.search(line):
                    found.append(f"{directory}/{path.name}:{number}: {line.strip()}")
    assert found == []
