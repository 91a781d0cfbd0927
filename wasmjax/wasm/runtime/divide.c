// Integer division.
//
// 32 bits: the divisor d is normalised, x = d << clz(d) in [2^31, 2^32), and r converges to 2^63/x:
//
//   r0 = 2.9 * 2^31 - x            r0 x / 2^63 is within 0.1 of 1
//   r  = r (2^64 - r x) / 2^63     Newton: the relative error e becomes e^2, always from below
//
// After three rounds e < 0.1^8, and where d is small, so that the quotient is large, it is far
// less: 2.9 makes it so. The estimate n r >> (63 - clz(d)) is never too large; the little that it
// may lack a loop adds. Instead of x its negation is kept, so that 2^64 - r x is one product modulo
// 2^64. With d = 0 the estimate is 0 and the remainder n >= d enters the loop, which is why only
// the loop looks for a zero divisor.

#include "machine.h"

TRAP(trap_divide_by_zero);
TRAP(trap_overflow);

// A function cannot return two values without memory.
typedef enum { QUOTIENT, REMAINDER } wanted;

// 2^63/x or a little less, of -x.
INLINE u64 reciprocal(u64 minus_x) {
  OPAQUE(minus_x);
  u64 r = minus_x + 0x173333333;
  for (int round = 0; round < 3; round++) r = r * (r * minus_x >> 32) >> 31;
  return r;
}

// Operands below 2^32.
INLINE u64 divide32(u64 n, u64 d, wanted what) {
  u64 zeros = (u64)__builtin_clz(narrow(d)), r = reciprocal(-d << zeros);
  OPAQUE(d);  // __builtin_clz lets the compiler believe that it is not zero
  u64 q = n * r >> (zeros ^ 63), rest = n - q * d;
  if (what == QUOTIENT) OPAQUE(q);
  while (rest >= d) {
    if (d == 0) trap_divide_by_zero();
    rest -= d;
    q++;
    APART;
  }
  return what == QUOTIENT ? q : rest;
}

// At least one operand from 2^32 on. x is the upper half of the normalised divisor, plus 1 so that
// the reciprocal is a lower bound. Each round takes the upper half of the normalised n times r off
// n and so shortens it by some 29 bits, until n < d.
INLINE u64 divide64(u64 n, u64 d, wanted what) {
  u64 q = 0;
  if (n >= d) {
    if (d == 0) trap_divide_by_zero();
    u64 zeros = CLZ(d), r = reciprocal(~(d << zeros >> 32)), shift = zeros ^ 63;
    OPAQUE(shift);
    do {
      // n >= d, so clz(n) <= clz(d): the shift is 63 - clz(d) + clz(n) <= 63
      u64 n_zeros = CLZ(n), part = (n << n_zeros >> 32) * r >> ((n_zeros + shift) & 63);
      part |= part == 0;
      OPAQUE(part);
      q += part;
      n -= part * d;
    } while (n >= d);
  }
  return what == QUOTIENT ? q : n;
}

INLINE u64 divide(u64 n, u64 d, wanted what) {
  if (narrow((n | d) >> 32)) return divide64(n, d, what);
  APART;
  return divide32(n, d, what);
}

EXPORT("i32.div_u") u32 div_u32(u32 n, u32 d) { return narrow(divide32(n, d, QUOTIENT)); }
EXPORT("i32.rem_u") u32 rem_u32(u32 n, u32 d) { return narrow(divide32(n, d, REMAINDER)); }
EXPORT("i64.div_u") u64 div_u64(u64 n, u64 d) { return divide(n, d, QUOTIENT); }
EXPORT("i64.rem_u") u64 rem_u64(u64 n, u64 d) { return divide(n, d, REMAINDER); }

INLINE u32 abs32(s32 a) { return a < 0 ? -(u32)a : (u32)a; }
INLINE u64 abs64(s64 a) { return a < 0 ? -(u64)a : (u64)a; }

EXPORT("i32.div_s") u32 div_s32(s32 n, s32 d) {
  if ((n | d) < 0) {
    u32 q = narrow(divide32(abs32(n), abs32(d), QUOTIENT));
    if ((n ^ d) < 0) return -q;
    // of two negative numbers: only -2^31 / -1 = 2^31 has the sign bit
    if ((s32)q < 0) trap_overflow();
    return q;
  }
  APART;
  return narrow(divide32((u32)n, (u32)d, QUOTIENT));
}

EXPORT("i32.rem_s") u32 rem_s32(s32 n, s32 d) {
  if ((n | d) < 0) {
    u32 rest = narrow(divide32(abs32(n), abs32(d), REMAINDER));
    return n < 0 ? -rest : rest;
  }
  APART;
  return narrow(divide32((u32)n, (u32)d, REMAINDER));
}

EXPORT("i64.div_s") u64 div_s64(s64 n, s64 d) {
  if ((u64)(n | d) >> 32) {
    u64 q = divide(abs64(n), abs64(d), QUOTIENT);
    if ((n ^ d) < 0) return -q;
    if ((s64)q < 0) trap_overflow();
    return q;
  }
  APART;
  return divide32(n, d, QUOTIENT);
}

EXPORT("i64.rem_s") u64 rem_s64(s64 n, s64 d) {
  if ((u64)(n | d) >> 32) {
    u64 rest = divide(abs64(n), abs64(d), REMAINDER);
    return n < 0 ? -rest : rest;
  }
  APART;
  return divide32(n, d, REMAINDER);
}
