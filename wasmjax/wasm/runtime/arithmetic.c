// Addition, multiplication, division, square root. Subtraction is the addition of the opposite.

#include "float.h"

// --- addition ---

// All that is not usual. a is not less than b in magnitude.
INLINE bits add_any(bits a, bits b) {
  bits x = MAGNITUDE(a), e = EXPONENT(a), f = EXPONENT(b);
  if (x >= MAGNITUDE(INFINITE)) {
    if (x > MAGNITUDE(INFINITE)) return NOT_A_NUMBER;
    return a == (b ^ SIGN) ? NOT_A_NUMBER : a;
  }
  if (MAGNITUDE(b) == 0) return x ? a : a & b;
  if (e - f >= WIDTH) return a;
  // Subnormal numbers have the exponent of 1, but no hidden bit. There are ten bits of room below,
  // of which the last stands for what is shifted out.
  u64 s = (u64)(a & FRACTION) << 10, t = (u64)(b & FRACTION) << 10;
  if (e) s += (u64)HIDDEN << 10; else e = 1;
  if (f) t += (u64)HIDDEN << 10; else f = 1;
  u64 shifted = t >> (e - f);
  shifted |= shifted << (e - f) != t;
  s = (sbits)(a ^ b) < 0 ? s - shifted : s + shifted;
  if (s == 0) return 0;
  return pack(a & SIGN, (s64)e + (63 - 10 - FRACTION_BITS), s);
}

EXPORT(FLOAT ".add") bits add(bits a, bits b) {
  bits e = EXPONENT(a), f = EXPONENT(b), distance = e - f;
  if (MAGNITUDE(a) < MAGNITUDE(b)) {
    bits c = a;
    a = b, b = c, distance = f - e, e = f;
    OPAQUE(a);
    OPAQUE(b);
    OPAQUE(e);
    OPAQUE(distance);
  }
  // With a neither small nor huge, and b not much smaller, all numbers here are normal.
  if (e - WIDTH >= TOP_EXPONENT - 1 - WIDTH) return add_any(a, b);
  if (distance >= WIDTH) return a;
  bits small = SIGNIFICAND(b), shifted = small >> distance;
  if ((sbits)(a ^ b) >= 0) {
    // Added in place: right if the sum does not run into the exponent.
    bits sum = a + shifted;
    if ((sum ^ a) < HIDDEN) return sum + ROUND_UP(sum, small << COUNT(-distance), SIGN);
    APART;
    // It has one bit more, which goes off its end.
    bits ends = a & ~FRACTION, s = sum - ends + HIDDEN, half = s >> 1;
    bits rest = small << 1 << COUNT(~distance);
    return ends + half + (s & 1 & (half | (rest != 0)));
  }
  // Subtracted in place: right if what the exact difference is above still has a's exponent.
  bits difference = a - shifted;
  if (((difference - 1) ^ a) < HIDDEN)
    return difference - ROUND_UP(difference, small << COUNT(-distance), SIGN);
  APART;
  // Less than that: the result has more bits below. One is enough, since only with a distance of 0
  // or 1, which leaves no rest, more bits are cancelled.
  bits s = (SIGNIFICAND(a) << 1) - (small << 1 >> distance);
  s -= ROUND_UP(s, small << 2 << COUNT(~distance), SIGN);
  if (s == 0) return 0;
  bits zeros = CLZ(s) - (64 - WIDTH);
  s = s << zeros >> (WIDTH - 1 - FRACTION_BITS);
  return (a & ~FRACTION) + s - (zeros << FRACTION_BITS) + (WIDTH - 3 - FRACTION_BITS) * HIDDEN;
}

// --- multiplication and division ---

// Whether the exponents of both are in the middle half of the range, so that all results are normal
// numbers: counted from the start of that half they have no upper bits.
INLINE int usual(bits a, bits b) {
  const bits lowest = (BIAS + 1) / 4 * 3 * HIDDEN, mask = (BIAS + 1) / 2 * 3 * HIDDEN;
  return (((a - lowest) | (b - lowest)) & mask) == 0;
}

#if WIDTH == 32
#define PRODUCT_BITS 46  // or one more
INLINE u64 product(bits a, bits b, u32 *below) {
  *below = 0;
  return (u64)a * b;
}
#else
#define PRODUCT_BITS 54
// The upper half of the product times 2^14, from products of halves. below is 0 if the lower is.
INLINE u64 product(bits a, bits b, u32 *below) {
  u64 a0 = a << 7 & 0xffffffff, a1 = a >> 25, b0 = b << 7 & 0xffffffff, b1 = b >> 25;
  u64 low = a0 * b0, middle = a1 * b0 + a0 * b1 + (low >> 32);
  *below = low | middle;
  return a1 * b1 + (middle >> 32);
}
#endif

// s without its last bits, rounded: halves up, but those that are exactly one to even.
INLINE bits round_off(u64 s, u32 below, int count) {
  u64 half = 1ull << (count - 1), q = (s + half) >> count;
  if ((s & (2 * half - 1)) == half) {
    APART;
    if (below == 0) q &= ~1ull;
    APART;
  }
  return as_bits(q);
}

EXPORT(FLOAT ".mul") bits mul(bits a, bits b) {
  u32 below;
  if (usual(a, b)) {
    // Both signs and exponents. One bias is too many, and so is the hidden bit of what is added.
    bits ends = (a & ~FRACTION) + (b & ~FRACTION);
    u64 s = product(SIGNIFICAND(a), SIGNIFICAND(b), &below);
    if (s >> (PRODUCT_BITS + 1))
      return ends + round_off(s, below, PRODUCT_BITS + 1 - FRACTION_BITS) - BIAS * HIDDEN;
    APART;
    return ends + round_off(s, below, PRODUCT_BITS - FRACTION_BITS) - (BIAS + 1) * HIDDEN;
  }
  bits x = MAGNITUDE(a), y = MAGNITUDE(b), sign = (a ^ b) & SIGN;
  if (x < y) {
    bits z = x;
    x = y, y = z;
  }
  if (x >= MAGNITUDE(INFINITE))
    return y == 0 || x > MAGNITUDE(INFINITE) ? NOT_A_NUMBER : sign | INFINITE;
  if (y == 0) return sign;
  s64 e, f;
  u64 s = normalized(a, &e) >> (63 - FRACTION_BITS), t = normalized(b, &f) >> (63 - FRACTION_BITS);
  s = product(s, t, &below);
  return pack(sign, e + f - BIAS - PRODUCT_BITS + 63, s | (below != 0));
}

// n 2^(FRACTION_BITS + 1) / d, rounded down; rest says whether something was left. d is a
// significand, n is one or twice one, and n / d is from 1 to 2.
//
// x is d in 32 bits (at least that much), and r converges to 2^63 / x:
//   r = 2.928 * 2^31 - x          within 0.072
//   r = r (2^64 - r x) / 2^63     Newton: the relative error e becomes e^2, from below
// After three rounds it is less than 1.7e-9 for every x. Then r times the upper bits of n is a
// digit of the quotient; what it lacks is less than 1.7 in the first and 1.3 in the last one.
INLINE u64 quotient(u64 n, u64 d, u64 *rest) {
#if WIDTH == 32
  u64 minus_x = -(d << 8);
#else
  u64 minus_x = ~(d >> 21);
#endif
  OPAQUE(minus_x);
  u64 r = minus_x + 0x176c8b439;
  for (int round = 0; round < 3; round++) r = (r * minus_x >> 32) * r >> 31;
#if WIDTH == 32
  u64 q = n * r >> 31;
  n = (n << 24) - q * d;
#else
  u64 q = (n >> 21) * r >> 36;
  n = (n << 27) - q * d;
  u64 digit = (n >> 21) * r >> 37;
  n = (n << 26) - digit * d;
  q = (q << 26) + digit;
#endif
  *rest = n != 0 && n != d;
  return q + (n >= d);
}

EXPORT(FLOAT ".div") bits div(bits a, bits b) {
  u64 rest;
  if (usual(a, b)) {
    bits ends = (a & ~FRACTION) - (b & ~FRACTION), s = SIGNIFICAND(a), d = SIGNIFICAND(b);
    if (s < d) {
      s <<= 1, ends -= HIDDEN;
      OPAQUE(s);
      OPAQUE(ends);
    }
    // One bit more than the result has is enough: no quotient lies halfway between two floats.
    return ends + as_bits((quotient(s, d, &rest) + 1) >> 1) + (BIAS - 1) * HIDDEN;
  }
  bits x = MAGNITUDE(a), y = MAGNITUDE(b), sign = (a ^ b) & SIGN;
  if (x > MAGNITUDE(INFINITE) || y > MAGNITUDE(INFINITE)) return NOT_A_NUMBER;
  if (x == MAGNITUDE(INFINITE)) return y == x ? NOT_A_NUMBER : sign | INFINITE;
  if (y == 0) return x == 0 ? NOT_A_NUMBER : sign | INFINITE;
  if (x == 0 || y == MAGNITUDE(INFINITE)) return sign;
  s64 e, f;
  u64 s = normalized(a, &e) >> (63 - FRACTION_BITS), t = normalized(b, &f) >> (63 - FRACTION_BITS);
  if (s < t) s <<= 1, e--;
  s = quotient(s, t, &rest) << 1;
  return pack(sign, e - f + BIAS + 61 - FRACTION_BITS, s | rest);
}

// --- square root ---

EXPORT(FLOAT ".sqrt") bits sqrt_(bits a) {
  bits halved;
  if (a - HIDDEN < INFINITE - HIDDEN) {
    halved = (a + BIAS * HIDDEN) >> 1;
  } else {
    if (MAGNITUDE(a) == 0 || a == INFINITE) return a;
    if (a > INFINITE) return NOT_A_NUMBER;
    // Subnormal: times 2^64, the root by 2^-32.
    s64 e;
    u64 s = normalized(a, &e);
    a = (bits)(e + 64) * HIDDEN + as_bits((s & ~TOP64) >> (63 - FRACTION_BITS));
    halved = ((a + BIAS * HIDDEN) >> 1) - 32 * HIDDEN;
  }
  // halved has the exponent of the root. Its last bit went to the top of the fraction: it says
  // whether m, from 1 to 4, is the significand or twice that. A line through this fraction is
  // within 5% of y = 1 / sqrt(m) (times 2^32), and Newton's y = y (3 - m y^2) / 2 within 1.5e-9
  // after three rounds.
  u64 fraction = (u64)halved << (63 - FRACTION_BITS + 1);
  u64 m = (u64)SIGNIFICAND(a) << (fraction >> 63);
#if WIDTH == 32
  u64 x = m << 7;
#else
  u64 x = m >> 22;
#endif
  u64 y = (fraction >> 33 ^ 0x7fffffff) + 0x79ba5e36, minus_x = -x;
  OPAQUE(minus_x);
  for (int round = 0; round < 3; round++)
    y = (((y * y >> 32) * minus_x + (3ull << 62)) >> 32) * y >> 31;
#if WIDTH == 32
  u64 s = x * y >> 38;
#else
  u64 s = x * y >> 31;
  s64 missing = (s64)((m << 10) - s * s) >> 6;  // times y / 2: the root's lower half
  s = (s << 22) + (missing * (s64)y >> 36);
#endif
  // s has one bit more than the result, and is less than 1.2 away from the root. If made odd it is
  // halfway between two floats, and the root, which never is, is nearer to one of these.
  s |= 1;
  s64 left = (m << (FRACTION_BITS + 2)) - s * s;
  return (halved & ~FRACTION) + as_bits((s >> 1) + (left >= 0)) - HIDDEN;
}
