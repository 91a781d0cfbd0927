/* Interprets the bytecode of a small stack machine, each instruction a function called through a
   table. The built-in program prints how many primes there are up to argv[1] (at most 1000000). */
#include <stdio.h>
#include <stdlib.h>

static const unsigned char *next; /* the next byte of the program; NULL stops */
static int stack[16], *top = stack;
static int variables[4];

/* Instructions, a byte each; some read an operand from the byte that follows. */
enum { NOP, PUSH, LOAD, STORE, ADD, MULTIPLY, REMAINDER, LESS, JUMP, JUMP_IF, PRINT, HALT };

enum { LIMIT, NUMBER, DIVISOR, COUNT }; /* variables */

/* Where the parts of the program begin; NOPs fill what they leave. */
enum { START = 0, NUMBERS = 8, DIVISORS = 24, GO_ON = 48, PRIME = 64, COMPOSITE = 72, DONE = 88 };

static const unsigned char program[] = {
    [START] = PUSH, 2, STORE, NUMBER,
    [NUMBERS] = LOAD, LIMIT, LOAD, NUMBER, LESS, JUMP_IF, DONE, /* while NUMBER <= LIMIT */
                PUSH, 2, STORE, DIVISOR,
    [DIVISORS] = LOAD, NUMBER, LOAD, DIVISOR, LOAD, DIVISOR, MULTIPLY, LESS, JUMP_IF, PRIME,
                 LOAD, NUMBER, LOAD, DIVISOR, REMAINDER, JUMP_IF, GO_ON,
                 JUMP, COMPOSITE,
    [GO_ON] = LOAD, DIVISOR, PUSH, 1, ADD, STORE, DIVISOR, JUMP, DIVISORS,
    [PRIME] = LOAD, COUNT, PUSH, 1, ADD, STORE, COUNT,
    [COMPOSITE] = LOAD, NUMBER, PUSH, 1, ADD, STORE, NUMBER, JUMP, NUMBERS,
    [DONE] = LOAD, COUNT, PRINT, HALT,
};

static int pop(void) { return *--top; }
static void push(int value) { *top++ = value; }

static void do_nop(void) {}
static void do_push(void) { push(*next++); }
static void do_load(void) { push(variables[*next++]); }
static void do_store(void) { variables[*next++] = pop(); }
static void do_add(void) { int b = pop(); push(pop() + b); }
static void do_multiply(void) { int b = pop(); push(pop() * b); }
static void do_remainder(void) { int b = pop(); push(pop() % b); }
static void do_less(void) { int b = pop(); push(pop() < b); }
static void do_jump(void) { next = program + *next; }
static void do_jump_if(void) { next = pop() ? program + *next : next + 1; }
static void do_print(void) { printf("%d\n", pop()); }
static void do_halt(void) { next = NULL; }

static void (*const instructions[])(void) = {
    [NOP] = do_nop, [PUSH] = do_push, [LOAD] = do_load, [STORE] = do_store,
    [ADD] = do_add, [MULTIPLY] = do_multiply, [REMAINDER] = do_remainder, [LESS] = do_less,
    [JUMP] = do_jump, [JUMP_IF] = do_jump_if, [PRINT] = do_print, [HALT] = do_halt,
};

int main(int argc, char **argv) {
    int limit = argc == 2 ? atoi(argv[1]) : 0;
    if (limit < 1 || limit > 1000000) {
        fputs("usage: bytecode LIMIT, from 1 to 1000000\n", stderr);
        return 1;
    }
    variables[LIMIT] = limit;
    next = program;
    while (next) instructions[*next++]();
    return 0;
}
