/* What a workload needs of WASI: its size from argv[1], and a line to print. No C library, so that
   a module holds little but the workload. */
#include <stdint.h>

#define WASI(name) \
    __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name))) name

uint32_t WASI(args_sizes_get)(uint32_t *count, uint32_t *bytes);
uint32_t WASI(args_get)(char **args, char *text);
uint32_t WASI(fd_write)(uint32_t fd, const void *pieces, uint32_t count, uint32_t *written);
_Noreturn void WASI(proc_exit)(uint32_t code);

/* argv[1], or the usual size if there is none; exits with 1 unless it is from 1 to most. */
static uint32_t size_argument(uint32_t usual, uint32_t most) {
    static char *args[4], text[256];
    uint32_t count, bytes, size = 0;
    args_sizes_get(&count, &bytes);
    if (count < 2) return usual;
    if (count > 4 || bytes > sizeof text) proc_exit(1);
    args_get(args, text);
    for (const char *p = args[1]; *p; p++) {
        if (*p < '0' || *p > '9' || size > most) proc_exit(1);
        size = 10 * size + (uint32_t)(*p - '0');
    }
    if (size < 1 || size > most) proc_exit(1);
    return size;
}

static void write_bytes(const char *text, uint32_t size) {
    struct {
        const char *text;
        uint32_t size;
    } piece = {text, size};
    uint32_t written;
    fd_write(1, &piece, 1, &written);
}

static void write_text(const char *text) {
    uint32_t size = 0;
    while (text[size]) size++;
    write_bytes(text, size);
}

static void write_number(uint32_t number) {
    char digits[10], *p = digits + 10;
    do {
        *--p = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    write_bytes(p, (uint32_t)(digits + 10 - p));
}

/* The lowest digits, leading zeros too. */
static void write_hex(uint64_t number, uint32_t count) {
    char digits[16];
    for (uint32_t i = count; i-- > 0; number >>= 4) digits[i] = "0123456789abcdef"[number & 15];
    write_bytes(digits, count);
}
