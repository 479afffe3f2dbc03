// Vectors of `real` and their elementary functions: what the generated C of a cell is written in (C11, GCC or Clang).
//
// `real` is float, or double under REAL_DOUBLE; `vec` is the widest vector of it that the target has, `ivec` the
// integers of the same lanes, which comparisons give (all ones or zero). Errors are in ulp, measured by
// tests/cpu/test_vector.py. NaN, infinities, signed zeros and denormals are as torch has them unless a comment says so.
// Write no vector ternary (GCC's C has none: v_where) and no -ffast-math (it undoes the rounding by V_MAGIC).
#ifndef CELLWRIGHT_VECTOR_H
#define CELLWRIGHT_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 16
// The parts of <immintrin.h> that are used: to read all of it takes GCC longer than many a cell.
#define _IMMINTRIN_H_INCLUDED
#include <smmintrin.h>
#include <avxintrin.h>
#ifdef __AVX512F__
#include <avx2intrin.h>
#include <avx512fintrin.h>
#endif
#elif defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define V_FN static inline __attribute__((always_inline))

// ---- types ---------------------------------------------------------------------------------------------------------

#if defined(__AVX512F__)
#define VB 64
#elif defined(__AVX__)
#define VB 32
#else
#define VB 16
#endif

#ifdef REAL_DOUBLE
typedef double real;
typedef int64_t v_int;
typedef uint64_t v_uint;
#define VL (VB / 8)
#define V_PICK(f, d) d  // the float or the double of two things
#else
typedef float real;
typedef int32_t v_int;
typedef uint32_t v_uint;
#define VL (VB / 4)
#define V_PICK(f, d) f
#endif

typedef real vec __attribute__((vector_size(VB)));
typedef v_int ivec __attribute__((vector_size(VB)));
typedef v_uint v_uvec __attribute__((vector_size(VB)));
typedef real v_unaligned __attribute__((vector_size(VB), aligned(V_PICK(4, 8)), may_alias));
typedef real v_part __attribute__((vector_size(16)));
typedef real v_part_unaligned __attribute__((vector_size(16), aligned(V_PICK(4, 8)), may_alias));

// The intrinsic of this width and type: V_X(sqrt)(a) is _mm512_sqrt_ps(a), _mm256_sqrt_pd(a), ...
#define V_CAT_(a, b, c) a##b##c
#define V_CAT(a, b, c) V_CAT_(a, b, c)
#if defined(__AVX512F__)
#define V_X(name) V_CAT(_mm512_, name, V_PICK(_ps, _pd))
#elif defined(__AVX__)
#define V_X(name) V_CAT(_mm256_, name, V_PICK(_ps, _pd))
#elif defined(__SSE2__)
#define V_X(name) V_CAT(_mm_, name, V_PICK(_ps, _pd))
#elif defined(__aarch64__)
#define V_NEON(name) V_CAT(name, q_, V_PICK(f32, f64))
#endif

// What one lane at a time computes: out[l] = expression of l. Compilers unroll it, and vectorise it where they can.
#define V_LANES(expression)                             \
    real out[VL] __attribute__((aligned(VB)));          \
    for (int l = 0; l < VL; l++) out[l] = (expression); \
    return v_load(out)

// ---- constants, bits, selection ------------------------------------------------------------------------------------

V_FN vec v_set1(real a) { return a - (vec){0}; }  // not `+`: -0 + 0 is 0, and -0 must stay
V_FN vec v_load(const real *p) { return *(const v_unaligned *)p; }
V_FN void v_store(real *p, vec a) { *(v_unaligned *)p = a; }

#define V_MANTISSA V_PICK(23, 52)  // bits of the mantissa
#define V_SIGN ((v_int)((v_uint)1 << V_PICK(31, 63)))
#define V_ONE V_PICK(0x3f800000, 0x3ff0000000000000)  // bits of 1
#define V_MAGIC V_PICK(0x1.8p23f, 0x1.8p52)           // adding it rounds to an integer, held in the low bits
#define V_INF ((real)INFINITY)

V_FN vec v_where(ivec mask, vec a, vec b) {
#if defined(__AVX__) && !defined(__AVX512F__)
    return (vec)V_X(blendv)(b, a, (vec)mask);
#else
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
#endif
}
V_FN vec v_neg(vec a) { return -a; }
V_FN vec v_abs(vec a) { return (vec)((ivec)a & ~V_SIGN); }
V_FN vec v_copysign(vec a, vec sign) { return (vec)(((ivec)a & ~V_SIGN) | ((ivec)sign & V_SIGN)); }

// max(a, low) and min(a, high) of a constant, one instruction on x86; a NaN stays.
V_FN vec v_at_least(vec a, real low) {
#ifdef V_X
    return V_X(max)(v_set1(low), a);
#else
    return v_where(a < low, v_set1(low), a);
#endif
}
V_FN vec v_at_most(vec a, real high) {
#ifdef V_X
    return V_X(min)(v_set1(high), a);
#else
    return v_where(a > high, v_set1(high), a);
#endif
}

// torch.maximum, torch.minimum (a NaN on either side is the result), torch.relu (NaN stays).
V_FN vec v_max(vec a, vec b) { return v_where((a > b) | (a != a), a, b); }
V_FN vec v_min(vec a, vec b) { return v_where((a < b) | (a != a), a, b); }
V_FN vec v_relu(vec a) { return v_at_least(a, 0); }
// torch.sign: -1, 0 or 1; 0 for both zeros and for NaN.
V_FN vec v_sign(vec a) { return (vec)((((ivec)a & V_SIGN) | V_ONE) & ((a < 0) | (a > 0))); }

// ---- the first n lanes, lanes apart, reductions --------------------------------------------------------------------

#if VL == 16
#define V_EACH(f) {f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)}
#elif VL == 8
#define V_EACH(f) {f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)}
#elif VL == 4
#define V_EACH(f) {f(0), f(1), f(2), f(3)}
#else
#define V_EACH(f) {f(0), f(1)}
#endif

#define V_INDEX(l) l
#define V_INDICES ((ivec)V_EACH(V_INDEX))
V_FN ivec v_first(int n) { return V_INDICES < (v_int)n; }  // all ones in the first n lanes

// Lane l is p[l * step] for l < n, 0 beyond; never reads beyond.
V_FN vec v_gather(const real *p, long step, int n) {
#define V_PICKED(l) ((l) < n ? p[(l) * step] : 0)
    return (vec)V_EACH(V_PICKED);
}

// The first n lanes from memory (0 beyond) and to memory: nothing beyond is touched. n is a constant once inlined.
V_FN vec v_load_n(const real *p, int n) {
    if (n >= VL) return v_load(p);
#if defined(__AVX512F__)
    return V_X(maskz_loadu)((V_PICK(__mmask16, __mmask8))((1u << n) - 1), p);
#elif defined(__AVX__)
    return V_X(maskload)(p, (__m256i)v_first(n));
#else
    return v_gather(p, 1, n);
#endif
}
V_FN void v_store_n(real *p, vec a, int n) {
    if (n >= VL) {
        v_store(p, a);
        return;
    }
#if defined(__AVX512F__)
    V_X(mask_storeu)(p, (V_PICK(__mmask16, __mmask8))((1u << n) - 1), a);
#else
    int l = 0;
    if (VB == 32 && n >= VL / 2) {  // no maskstore: it is slow on AMD
        *(v_part_unaligned *)p = ((union { vec v; v_part part[VB / 16]; }){a}).part[0];
        l = VL / 2;
    }
    for (; l < n; l++) p[l] = a[l];
#endif
}

// Sum of the lanes: quarters of the vector added as a tree, then their lanes.
V_FN real v_sum(vec a) {
#if defined(__AVX512F__)
    return V_X(reduce_add)(a);
#else
    union { vec v; v_part part[VB / 16]; } u = {a};
    v_part s = VB == 32 ? u.part[0] + u.part[VB / 16 - 1] : u.part[0];
    return V_PICK((s[0] + s[2]) + (s[1] + s[3 & (VL - 1)]), s[0] + s[1]);
#endif
}
V_FN vec v_only(vec a, int n, real rest) { return n >= VL ? a : v_where(v_first(n), a, v_set1(rest)); }
V_FN real v_sum_n(vec a, int n) { return v_sum(n >= VL ? a : (vec)((ivec)a & v_first(n))); }
// Lane l is lane l + by, around the end; by is a constant.
V_FN vec v_rotate(vec a, int by) {
#ifdef __clang__
    V_LANES(a[(l + by) & (VL - 1)]);
#else
    return __builtin_shuffle(a, (V_INDICES + (v_int)by) & (VL - 1));
#endif
}
// The lanes of a and b in turn: of their first halves, or (half = 1) of their second; half is a constant.
V_FN vec v_mixed(vec a, vec b, int half) {
#ifdef __clang__
    V_LANES((l & 1 ? b : a)[l / 2 + half * VL / 2]);
#else
    return __builtin_shuffle(a, b, V_INDICES / 2 + (V_INDICES & 1) * VL + (v_int)half * VL / 2);
#endif
}
// Rows become columns: every turn doubles the distance of what lay side by side.
V_FN void v_transpose(vec rows[VL]) {
#pragma GCC unroll 4
    for (int turn = 1; turn < VL; turn *= 2) {
        vec mixed[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) mixed[i] = v_mixed(rows[i / 2], rows[i / 2 + VL / 2], i & 1);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) rows[i] = mixed[i];
    }
}
// Greatest and least of the first n lanes, NaN where one of them is: a tree, the lanes beyond made the first.
V_FN real v_max_n(vec a, int n) {
    a = v_where(v_first(n), a, v_set1(a[0]));
#pragma GCC unroll 4
    for (int by = VL / 2; by; by /= 2) a = v_max(a, v_rotate(a, by));
    return a[0];
}
V_FN real v_min_n(vec a, int n) { return -v_max_n(-a, n); }

// ---- roots and roundings, correctly rounded but for v_rsqrt (two roundings) ----------------------------------------

V_FN vec v_sqrt(vec a) {
#if defined(V_X)
    return V_X(sqrt)(a);
#elif defined(V_NEON)
    return V_NEON(vsqrt)(a);
#else
    V_LANES(V_PICK(sqrtf, sqrt)(a[l]));
#endif
}
V_FN vec v_recip(vec a) { return (real)1 / a; }
V_FN vec v_rsqrt(vec a) { return (real)1 / v_sqrt(a); }

#if defined(__AVX512F__)
#define V_ROUND(a, mode, neon, libm) return V_X(roundscale)(a, mode | _MM_FROUND_NO_EXC)
#elif defined(__SSE4_1__)
#define V_ROUND(a, mode, neon, libm) return V_X(round)(a, mode | _MM_FROUND_NO_EXC)
#elif defined(V_NEON)
#define V_ROUND(a, mode, neon, libm) return V_NEON(neon)(a)
#else
#define V_ROUND(a, mode, neon, libm) V_LANES(V_PICK(libm##f, libm)(a[l]))
#endif
V_FN vec v_floor(vec a) { V_ROUND(a, _MM_FROUND_TO_NEG_INF, vrndm, floor); }
V_FN vec v_ceil(vec a) { V_ROUND(a, _MM_FROUND_TO_POS_INF, vrndp, ceil); }
V_FN vec v_trunc(vec a) { V_ROUND(a, _MM_FROUND_TO_ZERO, vrnd, trunc); }
V_FN vec v_round(vec a) { V_ROUND(a, _MM_FROUND_TO_NEAREST_INT, vrndn, rint); }  // halves to even, as torch

// ---- exponentials --------------------------------------------------------------------------------------------------

// ln 2 in two parts, the first with so few bits that n * V_LN2_HI is exact for every exponent n.
#define V_LN2_HI V_PICK(0x1.62e4p-1f, 0x1.62e42fefa3800p-1)
#define V_LN2_LO V_PICK(1.42860682031e-6f, 5.4979230187083711747e-14)

// c[0] + c[1] x + ... of n constants, Horner.
V_FN vec v_horner(vec x, const real *c, int n) {
    vec y = v_set1(c[n - 1]);
#pragma GCC unroll 16
    for (int i = n - 2; i >= 0; i--) y = y * x + c[i];
    return y;
}

// Minimax of (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2; what is left of e^r - 1 is within 1.4e-8 (1.9e-17) of it.
#ifdef REAL_DOUBLE
static const real V_EXP[] = {0.500000000000000504, 0.166666666666666851, 0.0416666666665778497, 0.00833333333331509873,
                             0.00138888889313087775, 0.000198412699020445801, 2.48015055014999406e-05,
                             2.75572287489569627e-6, 2.7625970015360989e-7, 2.51142446843582108e-8};
#else
static const real V_EXP[] = {0.500000006f, 0.1666654406f, 0.04166628574f, 0.008366488559f, 0.001394626578f};
#endif
#define V_EXP_TERMS V_PICK(5, 10)

// x = n ln 2 + r, |r| <= ln(2) / 2. `shifted` is n + V_MAGIC: its low bits are n as an integer.
typedef struct { vec shifted, n, r; } v_reduced;
V_FN v_reduced v_reduce(vec x) {
    vec shifted = x * V_PICK(0x1.715476p+0f, 0x1.71547652b82fep+0) + V_MAGIC;
    vec n = shifted - V_MAGIC;
    return (v_reduced){shifted, n, (x - n * V_LN2_HI) - n * V_LN2_LO};
}
// 2^n of an n in the low bits, within the normal exponents.
V_FN vec v_power_of_2(ivec n) { return (vec)(((v_uvec)n << V_MANTISSA) + (v_uint)V_ONE); }

// exp: 2^n (1 + r + r^2 P(r)); denormal results are kept, as torch's exp keeps them.
V_FN vec v_exp(vec x) {
    v_reduced a = v_reduce(v_at_most(v_at_least(x, V_PICK(-105, -746)), V_PICK(89, 710)));
    vec y = (v_horner(a.r, V_EXP, V_EXP_TERMS) * a.r + 1) * a.r + 1;
#if defined(__AVX512F__)
    return V_X(scalef)(y, a.n);
#else  // in two steps, n = m + (n - m) with m about n / 2: one would leave the exponents of normal numbers
    ivec m = (ivec)(a.n * (real)0.5 + V_MAGIC);
    return y * v_power_of_2(m) * v_power_of_2((ivec)a.shifted - m);
#endif
}

// r + r^2 P(r), which is e^r - 1: e^x = 2^n (1 + q).
V_FN vec v_expm1_of(v_reduced a) { return v_horner(a.r, V_EXP, V_EXP_TERMS) * (a.r * a.r) + a.r; }

// expm1: 2^n q + (2^n - 1), halved against overflow at n = 128 (1024). Denormals and their like are x itself.
V_FN vec v_expm1(vec x) {
    v_reduced a = v_reduce(v_at_most(v_at_least(x, V_PICK(-20, -40)), V_PICK(89, 710)));
    vec q = v_expm1_of(a), half = v_power_of_2((ivec)a.shifted - 1);
    vec y = (half * q + (half - (real)0.5)) * 2;
    return v_where(v_abs(x) < (real)0x1p-60, x, y);
}

// About 1 / d, to 14 bits at least, of a d that has a normal inverse: AVX-512 has an instruction that costs a fraction
// of a division, the others divide.
V_FN vec v_rough_inverse(vec d) {
#if defined(__AVX512F__) && !defined(REAL_DOUBLE)
    return _mm512_rcp14_ps(d);
#else
    return (real)1 / d;
#endif
}
// 1 / d of such a d, within 0.6 ulp: with AVX-512 one step of Newton.
V_FN vec v_inverse(vec d) {
    vec y = v_rough_inverse(d);
#if defined(__AVX512F__) && !defined(REAL_DOUBLE)
    y = y + y * (1 - d * y);
#endif
    return y;
}

// sigmoid: 1 / (1 + e^-x) with 1 + e^-x = (2^n q + 1) + 2^n, its quarter against overflow; 0 where e^-x overflows and
// denormal before, as torch's.
V_FN vec v_sigmoid(vec x) {
    v_reduced a = v_reduce(v_at_most(v_at_least(-x, V_PICK(-80, -700)), V_PICK(89, 710)));
    vec quarter = v_power_of_2((ivec)a.shifted - 2);
    vec y = v_inverse((quarter * v_expm1_of(a) + (real)0.25) + quarter) * (real)0.25;
    return (vec)((ivec)y & ~(x < V_PICK(-88.7228394f, -709.78271289338397)));
}

// tanh: t = e / (e + 2) with e = expm1(2 |x|), the sign of x; |x| beyond 10 (20) is 1. The quotient is mended by what
// is left of e - 2 t - t e, so that neither it nor e + 2 need be exact.
V_FN vec v_tanh(vec x) {
    v_reduced a = v_reduce(v_at_most(v_abs(x) * 2, V_PICK(20, 40)));
    vec power = v_power_of_2((ivec)a.shifted);
    vec e = power * v_expm1_of(a) + (power - 1);
    vec y = v_rough_inverse(e + 2), t = e * y;
    return v_copysign(t + y * ((e - 2 * t) - t * e), x);
}

// ---- logarithms ----------------------------------------------------------------------------------------------------

// Minimax of (2 atanh(s) - 2 s) / s^3 in z = s^2, within 1.7e-9 (2.6e-18) of z times it, z <= 0.0295.
#ifdef REAL_DOUBLE
static const real V_LOG[] = {0.666666666666673026, 0.399999999994365569, 0.285714287382512489, 0.22222198947752967,
                             0.18183546736680807, 0.15314463821006278, 0.147921074216315377};
#else
static const real V_LOG[] = {0.6666677527f, 0.3997764825f, 0.2986933672f};
#endif
#define V_LOG_TERMS V_PICK(3, 7)

// The exponent k of x = 2^k m, sqrt(1/2) <= m < sqrt(2), of a normal x > 0: as an exponent field (k << V_MANTISSA).
#define V_SQRT_HALF V_PICK(0x3f3504f3, 0x3fe6a09e667f3bcd)
V_FN ivec v_exponent(vec x) {
    return (ivec)((((v_uvec)x + (v_uint)(V_ONE - V_SQRT_HALF)) >> V_MANTISSA << V_MANTISSA) - (v_uint)V_ONE);
}
// That field as a real: its biased exponent in the low bits of V_MAGIC (no conversion: AVX2 has none for int64).
V_FN vec v_exponent_value(ivec k) {
    v_uvec biased = (v_uvec)(k + V_ONE) >> V_MANTISSA;
    return (vec)((ivec)biased + (ivec)v_set1(V_MAGIC)) - (V_MAGIC + V_PICK(127, 1023));
}
// k ln 2 + log(1 + f): f - f^2/2 + s (f^2/2 + R(s^2)) with s = f / (2 + f), R(z) = z P(z).
V_FN vec v_log_of(vec k, vec f) {
    vec s = f * v_inverse(f + 2), z = s * s, half = f * f * (real)0.5;
    vec r = v_horner(z, V_LOG, V_LOG_TERMS) * z;
    return k * V_LN2_HI - ((half - (s * (half + r) + k * V_LN2_LO)) - f);
}

// log: denormals are scaled up first; 0 is -inf, below it NaN.
V_FN vec v_log(vec x) {
    ivec tiny = x < V_PICK(0x1p-126f, 0x1p-1022);
    vec scaled = v_where(tiny, x * V_PICK(0x1p25f, 0x1p54), x);
    ivec k = v_exponent(scaled);
    vec f = (vec)((ivec)scaled - k) - 1;
    vec y = v_log_of(v_exponent_value(k) - (vec)(tiny & (ivec)v_set1(V_PICK(25, 54))), f);
    y = v_where(x < V_INF, y, x);
    y = v_where(x == 0, v_set1(-V_INF), y);
    return v_where(x < 0, v_set1((real)NAN), y);
}

// log1p: k of 1 + x rounded, then f = 2^-k x + (2^-k - 1), in which only the last sum rounds (f is x where k is 0).
V_FN vec v_log1p(vec x) {
    vec u = x + 1;
    ivec k = v_exponent(u);
    ivec scale = (V_ONE - k) & (k < ((v_int)V_PICK(127, 1023) << V_MANTISSA));  // bits of 2^-k, of 0 for a huge k
    vec f = (vec)((ivec)x - k) + ((vec)scale - 1);
    vec y = v_log_of(v_exponent_value(k), f);
    y = v_where(x < V_INF, v_copysign(y, x), x);
    y = v_where(x == -1, v_set1(-V_INF), y);
    return v_where(x < -1, v_set1((real)NAN), y);
}

// ---- lane by lane through libm (within its error, 1 ulp or so in glibc) --------------------------------------------

V_FN vec v_erf(vec a) { V_LANES(V_PICK(erff, erf)(a[l])); }
V_FN vec v_sin(vec a) { V_LANES(V_PICK(sinf, sin)(a[l])); }
V_FN vec v_cos(vec a) { V_LANES(V_PICK(cosf, cos)(a[l])); }
V_FN vec v_atan(vec a) { V_LANES(V_PICK(atanf, atan)(a[l])); }
V_FN vec v_pow(vec a, vec b) { V_LANES(V_PICK(powf, pow)(a[l], b[l])); }

#endif
