// The part that is the same for every cell: register tiles, packed weights, digests, products over all rows. It is
// compiled once; generated sources reach it through a table.
#include "contract.h"
#include "loops.h"
#include "thirds.h"

// Register tiles: s[row][vector] = sum over all terms and k of a[row][k] * w[k][vector]; every sum is a variable of its
// own. Where rows are more than vectors the weights of one k stay in registers, else the inputs. Two k a turn: with
// one, the turn itself costs up to a third of the speed.

#define EACH1(M) M(0)
#define EACH2(M) EACH1(M) M(1)
#define EACH3(M) EACH2(M) M(2)
#define EACH4(M) EACH3(M) M(3)
#define EACH5(M) EACH4(M) M(4)
#define EACH6(M) EACH5(M) M(5)
#define ROW(r) const real *a##r = term->a + (row + (r)) * lda;
#define START1(r) vec c##r##0 = zero;
#define START2(r) START1(r) vec c##r##1 = zero;
#define START3(r) START2(r) vec c##r##2 = zero;
#define START4(r) START3(r) vec c##r##3 = zero;
#define WEIGHT(v) const vec w##v = v_load(w + (v) * VL);
#define STEP1(r) const vec b##r = v_set1(a##r[k]); c##r##0 += b##r * w0;
#define STEP2(r) STEP1(r) c##r##1 += b##r * w1;
#define STEP3(r) STEP2(r) c##r##2 += b##r * w2;
#define STEP4(r) STEP3(r) c##r##3 += b##r * w3;
#define INPUT(r) const vec b##r = v_set1(a##r[k]);
#define TURN1(v) const vec w##v = v_load(w + (v) * VL); c0##v += b0 * w##v;
#define TURN2(v) TURN1(v) c1##v += b1 * w##v;
#define TURN3(v) TURN2(v) c2##v += b2 * w##v;
#define END1(r) s[(r) * stride] = c##r##0;
#define END2(r) END1(r) s[(r) * stride + 1] = c##r##1;
#define END3(r) END2(r) s[(r) * stride + 2] = c##r##2;
#define END4(r) END3(r) s[(r) * stride + 3] = c##r##3;
#define TILE(NAME, R, N, AHEAD, BODY)                                                            \
    static void NAME##R##x##N(const Term *term, long terms, long row, const real *w, const real *ahead, vec *s, \
                              long stride) {                                                     \
        const vec zero = v_set1(0);                                                              \
        (void)ahead;                                                                             \
        EACH##R(START##N)                                                                        \
        for (const Term *end = term + terms; term < end; term++) {                               \
            const long lda = term->lda, depth = term->depth;                                     \
            EACH##R(ROW)                                                                         \
            _Pragma("GCC unroll 2")                                                              \
            for (long k = 0; k < depth; k++, w += N * VL) { AHEAD BODY }                         \
        }                                                                                        \
        EACH##R(END##N)                                                                          \
    }
#define FETCH __builtin_prefetch(ahead, 0, 2), ahead += VL;
#define BOTH(R, N, BODY) TILE(tile_, R, N, , BODY) TILE(fetching_, R, N, FETCH, BODY)
#define TALL(R, N) BOTH(R, N, EACH##N(WEIGHT) EACH##R(STEP##N))  // its weights in registers
#define WIDE(R, N) BOTH(R, N, EACH##R(INPUT) EACH##N(TURN##R))  // its inputs
#define TALLS(N) TALL(1, N) TALL(2, N) TALL(3, N) TALL(4, N) TALL(5, N) TALL(6, N)
TALLS(1)
TALLS(2)
#if TILE_VECS == 4
TALLS(3)
TALLS(4)
#else
WIDE(1, 3) WIDE(2, 3) WIDE(3, 3)
WIDE(1, 4) WIDE(2, 4) WIDE(3, 4)
#endif
#define FEW(NAME, N) {NAME##1x##N, NAME##2x##N, NAME##3x##N}
#define ALL(NAME, N) {NAME##1x##N, NAME##2x##N, NAME##3x##N, NAME##4x##N, NAME##5x##N, NAME##6x##N}
#if TILE_VECS == 4
#define TABLE(NAME) {ALL(NAME, 1), ALL(NAME, 2), ALL(NAME, 3), ALL(NAME, 4)}
#else
#define TABLE(NAME) {ALL(NAME, 1), ALL(NAME, 2), FEW(NAME, 3), FEW(NAME, 4)}
#endif
static tile_fn *const tiles[2][TILE_MOST_VECS][TILE_ROWS] = {TABLE(tile_), TABLE(fetching_)};

#define PACK_DEPTH 32  // rows of a weight, so few that they and their pages stay at hand from panel to panel

// A vector of columns of a panel: where its weights come from, how many columns there are, where they go in what steps.
typedef struct {
    const real *from;
    long lanes;
    real *to;
    long step;
} Lane;

// The weights of columns, from row k to row `end`: those of a column side by side become a lane. Zeros beyond the last.
static void pack_turned(const Pack *job, const Lane *l, long k, long end) {
    const long lanes = l->lanes, column = job->column, row = job->row, step = l->step;
    for (; row == 1 && k + VL <= end; k += VL) {
        vec square[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) square[i] = i < lanes ? v_load(l->from + i * column + k) : v_set1(0);
        v_transpose(square);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) v_store(l->to + (k + i) * step, square[i]);
    }
    for (; k < end; k++)
        for (long i = 0; i < VL; i++) l->to[k * step + i] = i < lanes ? l->from[k * row + i * column] : 0;
}

// The same where columns lie side by side.
static void pack_rows(const Pack *job, const Lane *first, long count, long k, long end) {
    for (; k < end; k++)
        for (const Lane *l = first; l < first + count; l++)
            v_store(l->to + k * l->step, v_load_n(l->from + k * job->row, (int)l->lanes));
}

// Panel p of a weight, from row k to row `end`.
static void pack_panel(const Pack *job, real *packed, long p, long panels, long k, long end) {
    const long vectors = ceil_div(job->width, VL), most = vecs_of_tile(job->few);
    const long start = vectors * p / panels, count = vectors * (p + 1) / panels - start, vecs = count * job->slots;
    real *panel = packed + job->to + start * job->slots * job->total * VL;
    Lane lanes[MOST_UNITS];
    for (long u = 0; u < count; u++) {
        const long v = u * job->slots + job->slot, chunk = v / most * most, n = min_of(most, vecs - chunk);
        const long j = (start + u) * VL;
        real *to = panel + (chunk * job->total + job->before * n + v - chunk) * VL;
        lanes[u] = (Lane){job->from + j * job->column, min_of(VL, job->width - j), to, n * VL};
    }
    if (job->column == 1) pack_rows(job, lanes, count, k, end);
    else
        for (long u = 0; u < count; u++) pack_turned(job, lanes + u, k, end);
}

// Of weights whose columns lie side by side a thread packs whole rows, or the panels that it will read where threads
// share columns.
static void pack(const Pack *job, real *packed, long part, long parts) {
    const long panels = panels_of(ceil_div(job->width, VL), job->units, job->team);
    const int own = job->column != 1 || job->team == parts;
    const long first = own ? panels * part / parts : 0, last = own ? panels * (part + 1) / parts : panels;
    const long start = own ? 0 : job->depth * part / parts, end = own ? job->depth : job->depth * (part + 1) / parts;
    const long most = job->column == 1 ? PACK_DEPTH : job->depth;
    for (long k = start; k < end; k += most)
        for (long p = first; p < last; p++) pack_panel(job, packed, p, panels, k, min_of(k + most, end));
}

static uint64_t digest(const Piece *piece, long part, long parts) {
    enum { LANES = 64 };
    const uint32_t *word = piece->at;
    const long words = piece->bytes / 4, blocks = words / LANES;
    uint32_t sum[LANES] = {0};
    uint64_t all = 0;
    for (long block = blocks * part / parts; block < blocks * (part + 1) / parts; block++)
        for (long l = 0; l < LANES; l++) sum[l] = (sum[l] ^ word[block * LANES + l]) * 0x9E3779B1u;
    for (long l = 0; l < LANES; l++) all = (all ^ sum[l]) * 0x9E3779B97F4A7C15u;
    if (part == parts - 1)
        for (long i = blocks * LANES * 4; i < piece->bytes; i++)
            all = (all ^ ((const uint8_t *)piece->at)[i]) * 0x9E3779B97F4A7C15u;
    return all;
}

const Core *core(void) {
    static Core table = {tiles, pack, digest, contract};
#ifdef HAS_THIRDS
    if (thirds_ready()) {
        table.multiply_fresh = multiply_fresh, table.multiply_thirds = multiply_thirds;
        table.multiply_odd = multiply_odd;
        table.pack_thirds = pack_thirds, table.release_tiles = release_tiles;
    }
#endif
    return &table;
}
