"""Runs scripts of the official test suite: command by command, with a verdict for each."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from spec_machine import Outcome, SpecMachine
from spec_script import Action, Command, Value

from wasmjax.store import Store, StoreInstance
from wasmjax.wasm.opcodes import SUPPORTED_FEATURES
from wasmjax.wasm.types import ExternKind, Module

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"

EQUIVALENT = {
    # What 1.0 calls a link error is, since 2.0, the trap of a segment that is out of bounds.
    "data segment does not fit": "out of bounds memory access",
    "elements segment does not fit": "out of bounds table access",
}
"""Messages that wasmjax has another one for."""

_NUMBERED = re.compile(r"(uninitialized element) \d+")
"""A message in which the suite's own interpreter names the element."""


@dataclass(frozen=True)
class Difference:
    """A command of the 1.0 suite that 2.0 (which wasmjax follows) decides otherwise.

    Attributes:
      text: the message that the suite expects. script, line: where it is; None: anywhere.
      reason: what 2.0 says.
    """

    text: str
    reason: str
    script: str | None = None
    line: int | None = None


DIFFERENCES = {
    "1.0": (
        Difference("invalid result arity", "2.0: a function may have several results"),
        Difference(
            "type mismatch",
            "2.0: code that is never reached is typed less strictly",
            "unreached-invalid",
            539,
        ),
    ),
    "extensions": (),
}
"""By group; the line is that of the group's own commit."""

_CHANGES = frozenset(
    "global.set memory.grow memory.init memory.copy memory.fill data.drop table.init table.copy"
    " elem.drop".split()
)


@dataclass(frozen=True)
class Verdict:
    """What became of a command.

    Attributes:
      status: PASSED, FAILED or NOT_APPLICABLE. reason: why not passed, short.
      detail: more on it.
    """

    status: str
    reason: str = ""
    detail: str = ""


@dataclass
class Report:
    """What became of a script.

    Attributes:
      name: the script. commands: its commands. verdicts: theirs, by number.
    """

    name: str
    commands: list[Command]
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    def count(self, status: str) -> int:
        """How many commands have a status."""
        return sum(verdict.status == status for verdict in self.verdicts.values())

    def reasons(self, status: str) -> dict[str, int]:
        """How many commands have a status for which reason, most frequent first."""
        found = (v.reason for v in self.verdicts.values() if v.status == status)
        return dict(collections.Counter(found).most_common())


def independent(module: Module) -> bool:
    """Whether no call of an export can see that others were made: nothing changes any state."""
    if module.imports or module.start is not None:
        return False
    bodies = (function.body for function in module.functions)
    return not any(
        instr.name in _CHANGES or ".store" in instr.name for body in bodies for instr in body
    )


BEYOND = ("steps", "limit")
"""Kinds of outcomes that do not count in a sample."""


class Plan:
    """What a script's commands refer to, found out before any of them runs.

    Modules that can see each other share a store: by what is registered, or by the memory and table
    of `spectest`, of which a script has one.

    Args:
      commands: of the script. modules: by number of command, those that can be decoded.

    Attributes:
      target: by number of a command, that of the command that makes its instance.
      group: by number of a command with a module, what its store is.
      spectest: the groups that import from `spectest`.
      last: by group, the last command that needs it.
    """

    def __init__(self, commands: Sequence[Command], modules: dict[int, Module]) -> None:
        self.target: dict[int, int] = {}
        self._parent: dict[int, int] = {}
        names: dict[str, int] = {}
        registered: dict[str, int] = {}
        latest: int | None = None
        shares_spectest: list[int] = []
        imports_spectest: list[int] = []
        for number, command in enumerate(commands):
            if number in modules:
                for import_ in modules[number].imports:
                    if import_.module in registered:
                        self._join(number, registered[import_.module])
                    elif import_.module == "spectest":
                        imports_spectest.append(number)
                        if import_.kind in (ExternKind.MEMORY, ExternKind.TABLE):
                            shares_spectest.append(number)
            if command.type == "module":
                latest = number
                if command.name is not None:
                    names[command.name] = number
            wants_instance = command.type == "register" or command.action is not None
            if wants_instance:
                name = command.name if command.action is None else command.action.module
                target = latest if name is None else names.get(name)
                if target is not None:
                    self.target[number] = target
                    if command.as_name is not None:
                        registered[command.as_name] = target
        for number in shares_spectest[1:]:
            self._join(number, shares_spectest[0])
        self.group = {number: self._root(number) for number in modules}
        self.spectest = {self._root(number) for number in imports_spectest}
        self.last: dict[int, int] = {}
        for number in range(len(commands)):
            made = self.target.get(number, number)
            if made in self.group:
                self.last[self.group[made]] = number

    def size(self, group: int) -> int:
        """How many modules are in a group."""
        return sum(other == group for other in self.group.values())

    def _root(self, number: int) -> int:
        while number in self._parent:
            number = self._parent[number]
        return number

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        if one != other:
            self._parent[max(one, other)] = min(one, other)


class ScriptRun:
    """Runs a script.

    Args:
      machine: what runs it. group: of the script. name, commands: the script.
      defer: leave the calls that nothing else depends on to `deferred`.
      sample: most calls to run; of these, none counts that takes too many steps.

    Attributes:
      report: the verdicts so far.
      deferred: calls that are left: (number of the command, module, action).
    """

    def __init__(
        self,
        machine: SpecMachine,
        group: str,
        name: str,
        commands: Sequence[Command],
        defer: bool = False,
        sample: int | None = None,
    ) -> None:
        self._machine, self._group, self._defer = machine, group, defer
        self._sample, self._called = sample, 0
        self.report = Report(name, list(commands))
        self.deferred: list[tuple[int, Module, Action]] = []
        self._loaded = {
            number: machine.load(command.binary)
            for number, command in enumerate(commands)
            if command.binary is not None
        }
        self._modules = {
            number: outcome.value
            for number, outcome in self._loaded.items()
            if outcome.kind == "returned"
        }
        self._plan = Plan(commands, self._modules)
        self._stores: dict[int, Store] = {}
        self._instances: dict[int, StoreInstance | Verdict] = {}
        self._independent: dict[int, bool] = {}

    def run(self) -> Report:
        """Runs all commands but the deferred ones."""
        for number, command in enumerate(self.report.commands):
            verdict = self._run(number, command)
            if verdict is not None:
                self.conclude(number, verdict)
            for group in [g for g in self._stores if self._plan.last[g] == number]:
                del self._stores[group]
        self._instances.clear()
        return self.report

    def conclude(self, number: int, verdict: Verdict) -> None:
        """Takes note of a verdict, unless the command is one that 2.0 decides otherwise."""
        command = self.report.commands[number]
        if verdict.status == FAILED:
            for known in DIFFERENCES[self._group]:
                place = known.script in (None, self.report.name), known.line in (None, command.line)
                if all(place) and known.text == command.text and verdict.reason == "was accepted":
                    verdict = Verdict(NOT_APPLICABLE, known.reason)
        self.report.verdicts[number] = verdict

    def _run(self, number: int, command: Command) -> Verdict | None:
        """The verdict on a command; None if it is deferred."""
        if command.textual:
            return Verdict(NOT_APPLICABLE, "text format")
        match command.type:
            case "module":
                verdict = self._instantiate(number)
                self._instances.setdefault(number, verdict)
                return verdict
            case "register":
                return self._register(number, command)
            case "action" | "assert_return" | "assert_trap" | "assert_exhaustion":
                return self._act(number, command)
            case "assert_invalid" | "assert_malformed":
                return self._refuse(number)
            case "assert_unlinkable" | "assert_uninstantiable":
                return self._fail_to_instantiate(number, command)
        return Verdict(NOT_APPLICABLE, f"command {command.type}")

    # -- modules --------------------------------------------------------------------------

    def _store(self, number: int) -> Store:
        group = self._plan.group[number]
        if group not in self._stores:
            several = self._plan.size(group) > 1
            self._stores[group] = self._machine.store(group in self._plan.spectest, several)
        return self._stores[group]

    def _instantiate(self, number: int) -> Verdict:
        outcome = self._loaded[number]
        if outcome.kind == "returned":
            outcome = self._machine.instantiate(self._store(number), outcome.value)
        if outcome.kind == "returned":
            self._instances[number] = outcome.value
            return Verdict(PASSED)
        return self._unexpected(outcome)

    def _register(self, number: int, command: Command) -> Verdict:
        instance = self._instance(number)
        if isinstance(instance, Verdict):
            return instance
        assert command.as_name is not None, "register names what it registers as"
        store = self._store(self._plan.target[number])
        outcome = self._machine.register(store, command.as_name, instance)
        return Verdict(PASSED) if outcome.kind == "returned" else self._unexpected(outcome)

    def _refuse(self, number: int) -> Verdict:
        outcome = self._loaded[number]
        # A module of a later version than the suite's is refused as that.
        if outcome.kind in ("refused", "unsupported"):
            return Verdict(PASSED)
        return Verdict(FAILED, "was accepted") if outcome.kind == "returned" else _crash(outcome)

    def _fail_to_instantiate(self, number: int, command: Command) -> Verdict:
        outcome = self._loaded[number]
        if outcome.kind == "returned":
            outcome = self._machine.instantiate(self._store(number), outcome.value)
        if outcome.kind in ("unlinkable", "uninstantiable", "trap"):
            return _message(command.text, outcome)
        if outcome.kind == "returned":
            return Verdict(FAILED, "was instantiated", f"expected: {command.text}")
        return self._unexpected(outcome)

    def _instance(self, number: int) -> StoreInstance | Verdict:
        """The instance that a command is about; or the verdict on it, if there is none."""
        target = self._plan.target.get(number)
        if target is None:
            return Verdict(FAILED, "no such instance")
        instance = self._instances[target]
        if isinstance(instance, Verdict):
            where = f"line {self.report.commands[target].line}"
            prefix = "" if instance.reason.startswith("no instance: ") else "no instance: "
            detail = f"{where}: {instance.detail}" if instance.detail else where
            return Verdict(instance.status, prefix + instance.reason, detail)
        return instance

    # -- actions --------------------------------------------------------------------------

    def _act(self, number: int, command: Command) -> Verdict | None:
        instance = self._instance(number)
        if isinstance(instance, Verdict):
            return instance
        action = command.action
        assert action is not None, "it is an action"
        # Of other commands the expected results have types only.
        results = command.expected if command.type == "assert_return" else ()
        for value in (*action.args, *results):
            if value.bits is None:
                return Verdict(NOT_APPLICABLE, f"values of type {value.type}")
        if self._sample is not None:
            return self._act_if_short(command, action, instance)
        if action.kind == "get":
            return judge(command, self._machine.get(instance, action.field))
        target = self._plan.target[number]
        if self._defer and command.type != "action" and self._is_independent(target):
            self.deferred.append((number, self._modules[target], action))
            return None
        return judge(command, self._machine.invoke(instance, action.field, _bits(action)))

    def _act_if_short(self, command: Command, action: Action, instance: StoreInstance) -> Verdict:
        """The verdict on a command of a sample."""
        assert self._sample is not None
        if self._called >= self._sample:
            return Verdict(NOT_APPLICABLE, "not in the sample")
        if action.kind == "get":
            outcome = self._machine.get(instance, action.field)
        else:
            outcome = self._machine.invoke(instance, action.field, _bits(action))
        if outcome.kind in BEYOND:
            return Verdict(NOT_APPLICABLE, "beyond the horizon", outcome.text)
        self._called += action.kind != "get"
        return judge(command, outcome)

    def _is_independent(self, number: int) -> bool:
        if number not in self._independent:
            # Another module's segments can be written into what this one exports.
            alone = self._plan.size(self._plan.group[number]) == 1
            self._independent[number] = alone and independent(self._modules[number])
        return self._independent[number]

    # -- verdicts -------------------------------------------------------------------------

    def _unexpected(self, outcome: Outcome) -> Verdict:
        """The verdict on a module that should have been instantiated."""
        if self._sample is not None and outcome.kind in BEYOND:
            return Verdict(NOT_APPLICABLE, "beyond the horizon", outcome.text)
        if outcome.kind == "unsupported" and self._group != "1.0" and _proposal(outcome.value):
            return Verdict(NOT_APPLICABLE, outcome.value, outcome.text)
        if outcome.kind == "unlinkable":
            return Verdict(FAILED, "imports", outcome.text)
        return _crash(outcome)


def _bits(action: Action) -> list[int]:
    """The arguments of a call."""
    return [value.bits for value in action.args if isinstance(value.bits, int)]


def judge(command: Command, outcome: Outcome) -> Verdict:
    """The verdict on an action that ended like this."""
    if command.type in ("assert_trap", "assert_exhaustion"):
        if outcome.kind == "trap":
            return _message(command.text, outcome)
        if outcome.kind == "returned":
            return Verdict(FAILED, "did not trap", f"expected: {command.text}")
        return _crash(outcome)
    if outcome.kind != "returned":
        return _crash(outcome)
    if command.type == "action" or accepts(command.expected, outcome.bits):
        return Verdict(PASSED)
    got = ", ".join(hex(bits) for bits in outcome.bits) or "nothing"
    wanted = ", ".join(map(str, command.expected)) or "nothing"
    return Verdict(FAILED, "wrong result", f"{got}; expected: {wanted}")


def accepts(expected: Sequence[Value], bits: Sequence[int]) -> bool:
    """Whether these are the results expected, bit by bit, and by class where it is one of NaN.

    Integers may be signed."""
    if len(expected) != len(bits):
        return False
    pairs = zip(expected, bits, strict=True)
    return all(value.accepts(found % (1 << int(value.type[1:]))) for value, found in pairs)


def says(expected: str, message: str) -> bool:
    """Whether a message is the expected one: begins with it, as in the suite's own interpreter."""
    expected = EQUIVALENT.get(expected, _NUMBERED.sub(r"\1", expected))
    return message.startswith(expected)


def _message(expected: str, outcome: Outcome) -> Verdict:
    if says(expected, outcome.text):
        return Verdict(PASSED)
    if outcome.text.startswith("not yet supported: "):
        return Verdict(FAILED, outcome.text)
    return Verdict(FAILED, "wrong message", f"{outcome.text}; expected: {expected}")


def _crash(outcome: Outcome) -> Verdict:
    """The verdict on what should not have ended like this at all."""
    if outcome.kind == "trap":
        known = outcome.text.startswith("not yet supported: ")
        return Verdict(FAILED, outcome.text if known else f"trap: {outcome.text}")
    words = {
        "uninstantiable": "segment out of bounds",
        "steps": "out of steps",
        "limit": "limit of the machine",
    }
    return Verdict(FAILED, words.get(outcome.kind, outcome.kind), outcome.text)


def _proposal(feature: str) -> bool:
    """Whether a feature that is refused is a proposal's, and not a limit of the machine."""
    return feature not in SUPPORTED_FEATURES and feature.startswith(("the ", "extended "))


def run_deferred(machine: SpecMachine, runs: Sequence[ScriptRun]) -> Iterator[None]:
    """Runs what scripts have deferred as one batch; yields after every call."""
    calls = [(run, *deferred) for run in runs for deferred in run.deferred]
    batch = [(module, action.field, _bits(action)) for _, _, module, action in calls]
    outcomes = machine.invoke_all(batch)
    for (run, number, _, _), outcome in zip(calls, outcomes, strict=True):
        run.conclude(number, judge(run.report.commands[number], outcome))
        yield
