"""C programs built with default flags do what they do in wasmtime: compile, lower, run."""

import subprocess
import sys

import pytest
import wasmtime

from lowering import Exit, Machine

# Clocks and random numbers decide nothing that is printed.
PROGRAMS = {
    "strings and the heap": """
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        typedef struct { int key; char name[60]; } Entry;
        static int compare(const void *a, const void *b) {
            return ((const Entry *)a)->key - ((const Entry *)b)->key;
        }
        int main(int argc, char **argv) {
            Entry *entries = calloc(20, sizeof(Entry));
            for (int i = 0; i < 20; i++) {
                entries[i].key = (i * 7919 - 50000) % 23;
                snprintf(entries[i].name, 60, "%d/%llu", i, 123456789012345678ull / (i + 1) % 1000);
            }
            qsort(entries, 20, sizeof(Entry), compare);
            memmove(entries + 1, entries, 10 * sizeof(Entry));
            for (int i = 0; i < 20; i++) printf("%d %s\\n", entries[i].key, entries[i].name);
            char *text = malloc(70000);
            memset(text, 'x', 69999);
            text[69999] = 0;
            printf("%zu %s\\n", strlen(text), argc > 1 ? argv[1] : "none");
            free(text);
            return 3;
        }""",
    "files, time, sleep": """
        #include <errno.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/stat.h>
        #include <sched.h>
        #include <time.h>
        #include <unistd.h>
        int main(void) {
            struct stat status;
            unsigned char bytes[16];
            struct timespec before, after;
            printf("%d", fopen("missing", "r") == NULL);
            printf(" %d", errno == ENOENT || errno == EBADF || errno == ENOTCAPABLE);
            printf(" %d %d %d", remove("a"), rename("a", "b"), stat("a", &status));
            printf(" %d %d\\n", fstat(0, &status), isatty(1));
            srand(time(NULL));
            rand();
            getentropy(bytes, sizeof bytes);
            clock_gettime(CLOCK_MONOTONIC, &before);
            sched_yield();
            usleep(2000);
            nanosleep(&(struct timespec){0, 1000}, NULL);
            clock_gettime(CLOCK_MONOTONIC, &after);
            long long seconds = after.tv_sec - before.tv_sec;
            long long passed = seconds * 1000000000 + after.tv_nsec - before.tv_nsec;
            printf("%d %s\\n", passed >= 2001000, getenv("NAME") ? getenv("NAME") : "none");
            char line[40];
            while (fgets(line, sizeof line, stdin)) fputs(line, stderr);
            exit(passed < 0);
        }""",
    "floating point": """
        #include <math.h>
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) {
            const char *texts[] = {"3.14159265358979", "-1e-310", "6.02214076e23", "0.1", "-0"};
            float sum = 0;
            for (int i = 0; i < 5; i++) {
                double x = strtod(texts[i], NULL);
                printf("%f %g %.17g %a\\n", x, x / 3, sqrt(fabs(x)), x * 0x1p-1000);
                int seven = x < 1e9 ? (int)(x * 7) : 0;
                printf("%d %d %.3f %.0f\\n", seven, x < 0.5, floor(x), rint(x + 0.5));
                sum += (float)x;
            }
            printf("%g %g %d %d\\n", sum, 1 / (sum - sum), isnan(0 * log(0)), (int)lround(-2.5));
            printf("%.12f %.12f %.12f\\n", sin(1), exp(2.5), pow(2, 0.5));
            printf("%llu %lld\\n", (unsigned long long)1.5e19, (long long)-9.2e18);
            return sum > 1;
        }""",
}


def in_wasmtime(binary, scratch, argv, stdin):
    """(stdout, stderr, exit code)"""
    (scratch / "stdin").write_bytes(stdin)
    config = wasmtime.WasiConfig()
    config.argv = argv
    config.stdin_file = scratch / "stdin"
    config.stdout_file = scratch / "stdout"
    config.stderr_file = scratch / "stderr"
    store = wasmtime.Store(wasmtime.Engine())
    store.set_wasi(config)
    linker = wasmtime.Linker(store.engine)
    linker.define_wasi()
    module = wasmtime.Module(store.engine, binary)
    exports = linker.instantiate(store, module).exports(store)
    try:
        exports["_start"](store)
        code = 0
    except wasmtime.ExitTrap as error:
        code = error.code
    return (scratch / "stdout").read_bytes(), (scratch / "stderr").read_bytes(), code


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-O2"], ["-O2", "-mcpu=mvp"]], ids=" ".join)
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name, flags, tmp_path):
    pytest.importorskip("ziglang", reason="needs the compile extra (ziglang)")
    source, target = tmp_path / "program.c", tmp_path / "program.wasm"
    source.write_text(PROGRAMS[name])
    command = [sys.executable, "-m", "ziglang", "cc", "--target=wasm32-wasi", *flags]
    subprocess.run([*command, str(source), "-o", str(target)], check=True)
    binary, argv, stdin = target.read_bytes(), ["program", "argument"], b"one\ntwo\nlast"
    machine = Machine(binary, args=argv, stdin=stdin)
    outcome = machine.invoke("_start")
    assert isinstance(outcome, Exit) or outcome == []
    code = outcome.code if isinstance(outcome, Exit) else 0
    expected = in_wasmtime(binary, tmp_path, argv, stdin)
    assert (machine.oracle.stdout, machine.oracle.stderr, code) == expected
