// What compiled runtime routines share (scripts/build_runtime). They are fused
// (wasmjax/wasm/fuse.py): no memory, no stack, no calls but of traps.
//
// A machine step is one integer operation, a branch, a call or a return. A multiplication costs
// what an addition costs, a constant costs nothing as an operator's second operand, and there is no
// division. So a routine finds out with one or two tests whether its operands are usual, and has
// straight code for these; the rest may take longer.

#pragma once

typedef unsigned u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#define CLZ(a) ((u64)__builtin_clzll(a))

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define INLINE static inline __attribute__((always_inline))
#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("wasmjax"), import_name(name)))
#define TRAP(name) IMPORT(#name) __attribute__((noreturn)) void name(void)

// These keep the compiler from what takes more steps here: making selects of a branch whose sides
// are alike, and computing with what a variable was made of instead of the variable.
#define APART __asm__ volatile("")
#define OPAQUE(a) __asm__("" : "+r"(a))

// A number below 2^32 as 32 bits: no step.
IMPORT("narrow") __attribute__((const)) u32 narrow(u64);
