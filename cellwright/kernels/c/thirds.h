// Products of float32 on AMX, whose tiles take bfloat16: every number is the sum of three of those, its thirds.
//
// A number has 24 bits and a third 8, so three thirds are the number itself: one is it rounded, two what is left
// rounded, three the rest. Of the nine products of thirds the six largest are summed, in float32; the others are below
// 2^-24 of the whole. (Henry, Tang, Heinecke: Leveraging the bfloat16 Artificial Intelligence Datatype For
// Higher-Precision Computations, 2019, section 3.) Numbers below 2^-103 lose bits; those that are not finite are left
// to the other tiles.
//
// A block is 32 of the numbers that are summed over: of a tile's line, pairs (k + i, k + 16 + i) side by side. For
// every 16 lines, rows or columns, it has a tile of each third, 1 KiB each.
#ifndef CELLWRIGHT_THIRDS_H
#define CELLWRIGHT_THIRDS_H

#include "loops.h"

#if defined(__AMX_BF16__) && defined(__linux__) && VB == 64 && !defined(REAL_DOUBLE)
#define HAS_THIRDS
#include <sys/syscall.h>
#include <unistd.h>

// ---- tiles ----------------------------------------------------------------------------------------------------------

#define T_LOAD(tile, from) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"(64L) : "memory")
#define T_ADD(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define T_ZERO(c) __asm__ volatile("tilezero %%tmm" #c : :)
#define T_START(c, from, step) \
    if (first) T_ZERO(c);      \
    else __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #c : : "r"(from), "r"(step) : "memory")
#define T_END(c, to, step) __asm__ volatile("tilestored %%tmm" #c ", (%0,%1,1)" : : "r"(to), "r"(step) : "memory")

// Tiles 0 to 3 are sums, of up to 16 rows by 16 columns; 4 and 5 the upper and lower rows of what is multiplied, 6 and
// 7 weights; where there are no lower rows, 4 to 6 are its thirds.
static __thread long shaped;  // what tiles have now: rows of both, and upper ones

static void shape_tiles(long rows, long high) {
    if (shaped == rows * THIRDS_ROWS + high) return;
    shaped = rows * THIRDS_ROWS + high;
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    const long low = rows > high ? rows - high : high;
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = (uint8_t)(i >= 6 ? 16 : i & 1 ? low : high);
    if (rows <= high) shape.rows[6] = (uint8_t)high;
    __asm__ volatile("ldtilecfg %0" : : "m"(shape) : "memory");
}
static void release_tiles(void) {
    if (shaped) __asm__ volatile("tilerelease" : :);
    shaped = 0;
}

// On Granite Rapids what stores tiles falls asleep within a microsecond, and then takes 0.3 to store one: as long as
// two blocks of all sums. So a tile is stored in every block, and before rows are split, where nobody looks.
#define STAY_AWAKE T_END(7, awake, 0L);

// ---- splitting ------------------------------------------------------------------------------------------------------

#define TILE_REALS 256  // of a tile of 16 lines of 64 bytes

// Where 16 lines of a block come from: both halves of line i, a lane each `across`; how many lines and lanes there are.
typedef struct {
    const real *from;
    long step, apart, across;
    long lines[2], lanes[2];
} Lines;

static inline vec half_line(const Lines *l, int half, long i) {
    const real *from = l->from + half * l->apart + i * l->step;
    if (i >= l->lines[half]) return v_set1(0);
    if (l->across == 1) return v_load_n(from, (int)l->lanes[half]);
    return v_gather(from, l->across, (int)l->lanes[half]);
}

// What rounds to a bfloat16, which is the upper half of a float32; halves away from zero.
static inline vec rounded(vec a) { return (vec)(((ivec)a + 0x8000) & (v_int)0xffff0000); }
static inline vec paired(vec low, vec high) { return (vec)((ivec)((v_uvec)low >> 16) | (ivec)high); }

// A line of every third; `odd` becomes NaN by what is not finite, or rounds to it.
static inline void split_line(real *to, vec a, vec b, vec *odd) {
    const vec a1 = rounded(a), b1 = rounded(b), a23 = a - a1, b23 = b - b1;
    const vec a2 = rounded(a23), b2 = rounded(b23), a3 = a23 - a2, b3 = b23 - b2;
    *odd += a3, *odd += b3;
    v_store(to, paired(a1, b1)), v_store(to + TILE_REALS, paired(a2, b2)), v_store(to + 2 * TILE_REALS, paired(a3, b3));
}

// Lines that are all there, side by side; where `turned`, they are lanes of the tiles.
static inline __attribute__((always_inline)) void split_whole(real *to, const Lines *l, int turned, vec *odd) {
    vec half[2][VL];
#pragma GCC unroll 2
    for (int h = 0; h < 2 && turned; h++) {
#pragma GCC unroll 16
        for (long i = 0; i < VL; i++) half[h][i] = v_load(l->from + h * l->apart + i * l->step);
        v_transpose(half[h]);
    }
#pragma GCC unroll 16
    for (long i = 0; i < VL; i++) {
        const vec a = turned ? half[0][i] : v_load(l->from + i * l->step);
        const vec b = turned ? half[1][i] : v_load(l->from + l->apart + i * l->step);
        split_line(to + i * VL, a, b, odd);
    }
}

// Others are put together first. Compilers take seconds where all of this is unrolled or inlined.
static __attribute__((noinline)) void split(real *to, const Lines *l, int turned, vec *odd) {
    const long least = min_of(min_of(l->lines[0], l->lines[1]), min_of(l->lanes[0], l->lanes[1]));
    real part[2 * VL * VL] __attribute__((aligned(VB)));
    const Lines whole = {part, VL, VL * VL, 1, {VL, VL}, {VL, VL}};
    if (l->across != 1 || least < VL) {
#pragma GCC unroll 1
        for (long i = 0; i < 2 * VL; i++) v_store(part + i * VL, half_line(l, i >= VL, i % VL));
        l = &whole;
    }
    if (turned) split_whole(to, l, 1, odd);
    else split_whole(to, l, 0, odd);
}

static inline int any_odd(vec odd) { return v_sum(odd) != v_sum(odd); }
static inline long up_to(long n, long most) { return n < 0 ? 0 : min_of(n, most); }

// 16 lines along which the sum goes: halves lie side by side. Or 32 across which it goes: halves lie 16 lines apart.
static inline Lines lines_along(const real *from, long step, long lines, long depth) {
    const long n = min_of(lines, VL);
    return (Lines){from, step, VL, 1, {n, n}, {up_to(depth, VL), up_to(depth - VL, VL)}};
}
static inline Lines lines_across(const real *from, long step, long depth, long across, long lanes) {
    const long n = min_of(lanes, VL);
    return (Lines){from, step, VL * step, across, {up_to(depth, VL), up_to(depth - VL, VL)}, {n, n}};
}

// Rows of the terms of a product, at most 32, which are split a line at a time, block by block: upper ones, then lower.
typedef struct {
    Beside beside;
    const Term *term;             // of the line that comes next
    long first, rows, high;       // rows of it, of which so many are upper ones
    long k, row;                  // of the line: numbers and rows before it
    long apart;                   // from upper tiles to lower ones
    real *to;                     // the block
    vec odd;
} Splitting;

static void split_lines(Beside *beside, long units) {
    Splitting *s = (Splitting *)beside;
    for (; units > 0; units--) {
        const real *from = s->term->a + (s->first + s->row) * s->term->lda + s->k;
        real *to = s->to + s->row * VL + (s->row < s->high ? 0 : s->apart - s->high * VL);
        const int left = (int)(s->term->depth - s->k), near = (int)up_to(left, VL), far = (int)up_to(left - VL, VL);
        if (far == VL) split_line(to, v_load(from), v_load(from + VL), &s->odd);
        else split_line(to, v_load_n(from, near), v_load_n(from + VL, far), &s->odd);
        if (++s->row < s->rows) continue;
        s->row = 0, s->to += THIRDS, s->k += BLOCK_DEPTH;
        if (s->k >= s->term->depth) s->term++, s->k = 0;
    }
}

// ---- products -----------------------------------------------------------------------------------------------------

#define ONE(t) ((t))
#define TWO(t) ((t) + TILE_REALS)
#define THREE(t) ((t) + 2 * TILE_REALS)

#define LOAD_A(third) T_LOAD(4, third(a)); T_LOAD(5, third(a) + apart);
#define LOAD_B(third)           \
    T_LOAD(6, third(w));        \
    if (vecs > 1) T_LOAD(7, third(w) + apart);
#define ADD_ALL                     \
    T_ADD(0, 4, 6); T_ADD(1, 5, 6); \
    if (vecs > 1) { T_ADD(2, 4, 7); T_ADD(3, 5, 7); }

// Upper and lower rows by one or two vectors. Sums lie at s: `step` bytes from line to line of a tile, `down` numbers
// from upper rows to lower ones, `right` from a vector to the next.
static inline __attribute__((always_inline)) void two_by(const int vecs, const real *a, const real *w, long apart,
                                                         real *s, long step, long down, long right, int first,
                                                         Beside *beside) {
    real awake[VL] __attribute__((aligned(VB)));
    T_START(0, s, step); T_START(1, s + down, step);
    if (vecs > 1) { T_START(2, s + right, step); T_START(3, s + down + right, step); }
    for (const real *end = a + apart; a < end; a += THIRDS, w += THIRDS) {
        STAY_AWAKE
        LOAD_B(ONE)
        LOAD_A(THREE) ADD_ALL go_on(beside);
        LOAD_A(ONE) ADD_ALL go_on(beside);
        LOAD_A(TWO) ADD_ALL go_on(beside);
        LOAD_B(TWO) ADD_ALL go_on(beside);
        LOAD_A(ONE) ADD_ALL go_on(beside);
        LOAD_B(THREE) ADD_ALL go_on(beside);
    }
    T_END(0, s, step); T_END(1, s + down, step);
    if (vecs > 1) { T_END(2, s + right, step); T_END(3, s + down + right, step); }
}

#define ONE_VECTOR(c)                                                         \
    if (vecs > c) {                                                           \
        const real *b = w + c * apart;                                        \
        T_LOAD(7, ONE(b)); T_ADD(c, 6, 7); T_ADD(c, 4, 7); T_ADD(c, 5, 7);    \
        T_LOAD(7, TWO(b)); T_ADD(c, 5, 7); T_ADD(c, 4, 7);                    \
        T_LOAD(7, THREE(b)); T_ADD(c, 4, 7);                                  \
        go_on(beside);                                                        \
    }

// Upper rows alone by up to four vectors.
static inline __attribute__((always_inline)) void one_by(const int vecs, const real *a, const real *w, long apart,
                                                         real *s, long step, long right, int first,
                                                         Beside *beside) {
    real awake[VL] __attribute__((aligned(VB)));
    T_START(0, s, step);
    if (vecs > 1) { T_START(1, s + right, step); }
    if (vecs > 2) { T_START(2, s + 2 * right, step); }
    if (vecs > 3) { T_START(3, s + 3 * right, step); }
    for (const real *end = a + apart; a < end; a += THIRDS, w += THIRDS) {
        STAY_AWAKE
        T_LOAD(4, ONE(a)); T_LOAD(5, TWO(a)); T_LOAD(6, THREE(a));
        ONE_VECTOR(0) ONE_VECTOR(1) ONE_VECTOR(2) ONE_VECTOR(3)
    }
    T_END(0, s, step);
    if (vecs > 1) { T_END(1, s + right, step); }
    if (vecs > 2) { T_END(2, s + 2 * right, step); }
    if (vecs > 3) { T_END(3, s + 3 * right, step); }
}

// A group of rows by vectors, whose tiles lie one after the other; sums, `line` numbers from row to row, are written if
// `first`, else added to. (Four numbers in one struct would be read at once: only after all tiles are stored.)
static void multiply_group(long rows, long high, long vecs, const real *a, const real *w, long blocks, real *s,
                           long line, long down, long right, int first, Beside *beside) {
    const long apart = blocks * THIRDS, step = line * (long)sizeof(real);
    for (long v = 0; v < vecs; v += rows > high ? 2 : 4, s += (rows > high ? 2 : 4) * right) {
        const real *b = w + v * apart;
        const long n = vecs - v;
        if (rows > high && n > 1) two_by(2, a, b, apart, s, step, down, right, first, beside);
        else if (rows > high) two_by(1, a, b, apart, s, step, down, right, first, beside);
        else if (n > 3) one_by(4, a, b, apart, s, step, right, first, beside);
        else if (n > 2) one_by(3, a, b, apart, s, step, right, first, beside);
        else if (n > 1) one_by(2, a, b, apart, s, step, right, first, beside);
        else one_by(1, a, b, apart, s, step, right, first, beside);
    }
}

static void multiply_thirds(long rows, long vecs, const real *a, const real *w, long blocks, vec *s, Beside *beside) {
    const long high = high_rows(rows), line = vecs * VL;
    shape_tiles(rows, high);
    multiply_group(rows, high, vecs, a, w, blocks, (real *)s, line, high * line, VL, 1, beside);
}

// The same of rows that are still to be split, into `a`: a block beside the products of the one before it, unless
// something else is beside them. Returns whether they are not all finite.
static int multiply_fresh(const Term *terms, long first, long rows, long vecs, real *a, const real *w, long blocks,
                          vec *s, Beside *beside) {
    const long high = high_rows(rows), idle = !beside || !beside->left;
    const long before = idle ? 1 : blocks;
    Splitting split = {.term = terms, .first = first, .rows = rows, .high = high, .apart = blocks * THIRDS, .to = a};
    split.beside.more = split_lines, split.odd = v_set1(0);
    split_lines(&split.beside, rows * before);
    split.beside.points = (rows > high ? 6 : min_of(vecs, 4)) * (blocks - before);  // of the first vectors
    start_beside(&split.beside, rows * (blocks - before));
    multiply_thirds(rows, vecs, a, w, blocks, s, idle ? &split.beside : beside);
    return any_odd(split.odd);
}

// The same where the rows are not all finite: plain sums, of weights put together again.
static void multiply_odd(const Term *terms, long count, long first, long rows, long vecs, const real *w, long blocks,
                         vec *s) {
    for (long row = first; row < first + rows; row++)
        for (long v = 0; v < vecs; v++, s++) {
            const ivec *block = (const ivec *)(w + v * blocks * THIRDS);
            *s = v_set1(0);
            for (const Term *term = terms; term < terms + count; term++)
                for (long k = 0; k < term->depth; k++) {
                    const ivec *pair = block + k % VL;
                    const int up = k & VL ? 0 : 16;
                    const vec one = (vec)(pair[0] >> (16 - up) << 16), two = (vec)(pair[16] >> (16 - up) << 16);
                    *s += term->a[row * term->lda + k] * (one + two + (vec)(pair[32] >> (16 - up) << 16));
                    if (k % BLOCK_DEPTH == BLOCK_DEPTH - 1 || k == term->depth - 1) block += THIRDS / VL;
                }
        }
}

// ---- packing --------------------------------------------------------------------------------------------------------

// 32 rows, from row k, of 16 columns of a weight.
static void pack_block(const Pack *job, real *packed, long u, long k, vec *odd) {
    const int turned = job->row == 1;
    const long lanes = job->width - u * VL, block = (u * job->slots + job->slot) * job->blocks + job->blocks_before;
    const real *from = job->from + k * job->row + u * VL * job->column;
    const Lines lines = turned ? lines_along(from, job->column, lanes, job->depth - k)
                               : lines_across(from, job->row, job->depth - k, job->column, lanes);
    split(packed + job->thirds_to + (block + k / BLOCK_DEPTH) * THIRDS, &lines, turned, odd);
}

// In the order in which the weights lie. Returns whether one is not finite, or too large.
static int pack_thirds(const Pack *job, real *packed, long part, long parts) {
    const long vectors = ceil_div(job->width, VL), blocks = ceil_div(job->depth, BLOCK_DEPTH);
    const int turned = job->row == 1;
    const long outer = turned ? vectors : blocks, inner = turned ? blocks : vectors;
    vec odd = v_set1(0);
    for (long i = outer * part / parts; i < outer * (part + 1) / parts; i++)
        for (long j = 0; j < inner; j++) pack_block(job, packed, turned ? i : j, (turned ? j : i) * BLOCK_DEPTH, &odd);
    return any_odd(odd);
}

// Whether this process may use the tiles: Linux wants to be asked, once.
static int thirds_ready(void) {
    static int answer;  // 1: yes, 2: no
    if (!answer) answer = syscall(SYS_arch_prctl, 0x1023L, 18L) == 0 ? 1 : 2;
    return answer == 1;
}

#endif  // HAS_THIRDS
#endif
