// What the floating-point routines share. They are compiled twice, with WIDTH 32 and 64, to
// f32.wasm and f64.wasm.

#include "machine.h"

#if WIDTH == 32
typedef u32 bits;
typedef s32 sbits;
#define FRACTION_BITS 23
#define BIAS 127
#else
typedef u64 bits;
typedef s64 sbits;
#define FRACTION_BITS 52
#define BIAS 1023
#endif

#define ONE ((bits)1)
#define SIGN (ONE << (WIDTH - 1))
#define HIDDEN (ONE << FRACTION_BITS)         // the 1 before the fraction, or 1 in the exponent
#define FRACTION (HIDDEN - 1)
#define TOP_EXPONENT (2 * BIAS + 1)           // of infinities and NaNs
#define INFINITE (TOP_EXPONENT * HIDDEN)
#define NOT_A_NUMBER (INFINITE + HIDDEN / 2)  // the canonical NaN, which every NaN result is
#define MAGNITUDE(a) ((a) << 1)               // all but the sign
#define EXPONENT(a) ((a) << 1 >> (FRACTION_BITS + 1))
#define SIGNIFICAND(a) (((a) & FRACTION) | HIDDEN)  // of a normal number
#define IS_NAN(a) (MAGNITUDE(a) > MAGNITUDE(INFINITE))

#define TOP64 (1ull << 63)
#define FLOAT "f" TEXT(WIDTH)
// How far to shift: the machine takes it modulo the width, so this costs nothing.
#define COUNT(a) ((a) & (WIDTH - 1))

INLINE bits as_bits(u64 a) {
#if WIDTH == 32
  return narrow(a);
#else
  return a;
#endif
}

// Whether rounding to nearest, ties to even, adds 1 to q, what is kept of a number. What is cut off
// its end is rest, an even fraction of 2 * half.
#define ROUND_UP(q, rest, half) ((rest) + ((q) & 1) > (half))

// The float that is nearest to s * 2^(exponent - BIAS - 63): subnormal if it must be, infinite if
// it is too large. s is not 0; its last bit may stand for others beyond it.
INLINE bits pack(bits sign, s64 exponent, u64 s) {
  u64 shift = CLZ(s);
  s <<= shift;
  exponent -= shift;
  if (exponent <= 0) {
    u64 right = 1 - exponent;
    s = right > 63 ? 1 : s >> right | (s << (64 - right) != 0);
    exponent = 1;
  }
  u64 q = s >> (63 - FRACTION_BITS), rest = s << (FRACTION_BITS + 1);
  u64 magnitude = ((u64)(exponent - 1) << FRACTION_BITS) + q + ROUND_UP(q, rest, TOP64);
  if (magnitude >= INFINITE) magnitude = INFINITE;
  return sign | as_bits(magnitude);
}

// A number other than 0 with its highest bit in bit 63, and the exponent that then belongs to it.
INLINE u64 normalized(bits a, s64 *exponent) {
  s64 e = EXPONENT(a);
  u64 fraction = (u64)(a & FRACTION) << (63 - FRACTION_BITS);
  if (e) {
    *exponent = e;
    return fraction | TOP64;
  }
  *exponent = 1 - CLZ(fraction);
  return fraction << CLZ(fraction);
}
