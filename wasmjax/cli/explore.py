"""`wasmjax explore`."""

import argparse
import os
import sys
import threading
import webbrowser

from wasmjax.cli import program
from wasmjax.cli.status import Refused, refusing, say
from wasmjax.engine.decode import Engine
from wasmjax.explore import export, tour
from wasmjax.explore.exploration import Exploration
from wasmjax.explore.record import Tape
from wasmjax.explore.serve import Server
from wasmjax.explore.site import Site, read_results
from wasmjax.model.heads import CertificateError

MAX_STEPS = 4_000_000
"""Steps that are recorded unless --max-steps says otherwise."""


def explore(args: argparse.Namespace) -> int:
    """Serves the interactive exploration, or writes it to a folder."""
    # What can be wrong with the options is said before anything is run.
    with refusing(args.results or "results"):
        results = read_results(args.results)
    if args.export is not None:
        with refusing(args.export):
            export.check(args.export)
        return _export(args, _site(args, results))
    try:
        server = Server(port=args.port)
    except OSError as error:
        raise Refused(f"port {args.port}: {error.strerror or error}") from None
    with server:
        server.site = _site(args, results)
        server.site.warm()
        run = server.site.runs.get("program")
        if run is not None:
            threading.Thread(target=run.finish, args=(_steps(args),), daemon=True).start()
        print(f"{server.url}  (Ctrl-C ends)", flush=True)
        if args.open:
            webbrowser.open(server.url)
        server.serve_forever()
    return 0


def _steps(args: argparse.Namespace) -> int:
    return MAX_STEPS if args.max_steps is None else int(args.max_steps)


def _site(args: argparse.Namespace, results: dict | None) -> Site:
    """The tour's run, and the program's, which has not begun yet."""
    machine = program.machine(args)
    if machine.program:
        raise Refused(f"{args.weights}: weights that hold a program cannot run the tour")
    with refusing(args.weights or "weights"):
        run = _program(args, machine.engine, machine) if args.program is not None else None
        return Site(tour.Tour(tour.record(machine)), run, results)


def _program(args: argparse.Namespace, engine: Engine, machine: program.vm.Machine) -> Exploration:
    tape = Tape(engine)
    running = program.start(args, machine, tape)
    try:
        return Exploration(machine, running, tape, os.path.basename(args.program), args.args)
    except CertificateError as error:
        raise Refused(f"{args.weights}: {error}") from None


def _export(args: argparse.Namespace, site: Site) -> int:
    from tqdm import tqdm

    if "program" in site.runs:
        site.runs["program"].finish(_steps(args))

    with tqdm(unit=" steps", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        with refusing(args.export):
            manifest = export.export(site, args.export, args.export_mib, progress)
    steps = sum(run.record.steps for run in site.runs.values())
    heads = sum(
        last - first + 1
        for chunks in manifest["windows"].values()
        for _, spans in chunks
        for first, last in spans
    )
    print(f"{args.export}: {manifest['bytes'] / (1 << 20):.1f} MiB; open index.html")
    say(f"all {steps:,} steps are there, head data of {heads:,} tokens")
    left = sum(manifest["chosen"].values()) - heads
    if left:
        say(f"{left:,} more were left out: they would pass {args.export_mib} MiB (--export-mib)")
    return 0
