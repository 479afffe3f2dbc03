// A call: T steps on the rows of a batch, forward or backward. Where its rows lie, where states begin and end, which
// thread does what, and the products once all steps are done. Rows end in the order of the batch, the last row first:
// step t has the rows start[t] to start[t + 1] of every matrix with rows for all steps.
#ifndef CELLWRIGHT_SEQUENCE_H
#define CELLWRIGHT_SEQUENCE_H

#include <string.h>

#include "loops.h"

enum { INFER, TRAIN, BACKWARD };

// A state of the cell, and the gradient that walks back through it.
typedef struct {
    long width, kept;    // columns; whether it has rows for all steps, B rows before the first step ahead of them
    real *rows;          // those, or two times B rows taken in turn
    real *old;           // null, or apart from them what each step begins with: of all steps, or of the one at hand
    const real *first;   // B rows
    real *last;          // B rows, each as its sequence left it
    real *carry;         // two times B rows
    const real *dlast;   // B rows; null: zeros
    real *dfirst;        // B rows; null: not wanted
} State;

// few: tiles have few rows; far: weights outgrow a core's cache; turn: 1 to go through their panels the other way;
// copies: how often sums are to lie in `bias`.
typedef struct {
    long T, B, job, columns, few, far, turn, rows, packs, pieces, blocks, states, sums, copies, parts, window;
    long thirds, parted_size;           // whether products are to be in thirds; numbers of rows in thirds, of a thread
    long once;                          // whether what is made of weights alone is to be made
    const long *start;                  // T + 1
    const uint8_t *resets;              // null, or for every row whether it begins anew
    int (*thread)(void), (*threads)(void);
    Barrier *barrier;
    const Pack *pack;
    const Piece *piece;                 // what is packed, to see whether it changed
    uint64_t *found, *known;            // their digests: [thread][piece], now and when they were packed
    int *plain;                         // whether they were packed plainly though products were to be in thirds
    real *made;                         // what is made of weights alone
    const Block *block;
    const State *state;
    real *packed;                       // weights, forward's and then in their place backward's
    real *parted;                       // rows in thirds
    real *contract, *reductions, *sum, *bias;
} Call;

// ---- rows -----------------------------------------------------------------------------------------------------------

static inline long rows_at(const Call *c, long t) {
    return t < 0 ? c->B : t < c->T ? c->start[t + 1] - c->start[t] : 0;
}

// Of the states after step t (-1: before the first), the first row.
static inline long state_at(const Call *c, long kept, long t) {
    if (kept) return t < 0 ? 0 : c->B + c->start[t];
    return ((t + 1) & 1) * c->B;
}

// Of what is held for a window of steps at a time, the first row of step t.
static inline long held_at(const Call *c, long t) { return c->start[t] - c->start[t / c->window * c->window]; }

// What step t begins with, the first row.
static inline real *state_old(const Call *c, const State *s, long t) {
    if (s->old) return s->old + (c->job == INFER ? 0 : c->start[t]) * s->width;
    return s->rows + state_at(c, s->kept, t - 1) * s->width;
}

// How many threads the weights of steps were packed for: fewer may come.
static inline long packed_for(const Call *c) { return c->columns ? c->parts : 1; }

// What a thread does in a step of n rows: rows of its own, or columns of all.
static inline Range share(const Call *c, long n, long me, long team) {
    if (c->columns) return (Range){0, n, me, team, 0, me};
    return (Range){n * me / team, n * (me + 1) / team, 0, 1, 0, me};
}

// Of a share of rows those from `from` on: again shared out where all threads have the same rows.
static inline Range rows_from(Range r, long from) {
    const long b0 = from > r.b0 ? from : r.b0, n = r.b1 > b0 ? r.b1 - b0 : 0;
    return (Range){b0 + n * r.me / r.team, b0 + n * (r.me + 1) / r.team, 0, 1, 0, r.thread};
}

static void copy_rows(real *to, const real *from, long width, Range r) {
    if (r.b1 <= r.b0) return;
    const size_t bytes = (size_t)((r.b1 - r.b0) * width) * sizeof(real);
    if (from) memcpy(to + r.b0 * width, from + r.b0 * width, bytes);
    else memset(to + r.b0 * width, 0, bytes);
}

// Threads that do not share columns wait for each other only where rows pass from one to another.
static inline void settle(const Call *c, long t, long next, int team) {
    if (!c->columns && rows_at(c, t) != rows_at(c, next)) barrier(c->barrier, team);
}

// ---- states ---------------------------------------------------------------------------------------------------------

// Sequences that end with step t leave their states.
static void leave(const Call *c, long t, Range r) {
    const Range gone = rows_from(r, rows_at(c, t + 1));
    if (gone.b1 > gone.b0)
        for (const State *s = c->state; s < c->state + c->states; s++)
            copy_rows(s->last, s->rows + state_at(c, s->kept, t) * s->width, s->width, gone);
}

static void enter(const Call *c, long me, long team) {
    const Range r = rows_from(share(c, c->B, me, team), 0);
    for (const State *s = c->state; s < c->state + c->states; s++) copy_rows(s->rows, s->first, s->width, r);
    if (c->columns) barrier(c->barrier, team);
    leave(c, -1, share(c, c->B, me, team));
    settle(c, -1, 0, team);
}

// Where sequences end or begin anew, what a step begins with is no longer what the one before left.
static void begin(const Call *c, long t, Range r, int team) {
    if (!c->state->old) return;
    const Range mine = rows_from(r, 0);
    const uint8_t *resets = c->resets ? c->resets + c->start[t] : 0;
    for (const State *s = c->state; s < c->state + c->states; s++) {
        real *to = state_old(c, s, t);
        copy_rows(to, s->rows + state_at(c, s->kept, t - 1) * s->width, s->width, mine);
        for (long row = mine.b0; resets && row < mine.b1; row++)
            if (resets[row]) copy_rows(to, 0, s->width, (Range){row, row + 1, 0, 1, 0, 0});
    }
    if (c->columns) barrier(c->barrier, team);
}

// Backward, whether step t and the one before it have the same rows: none come, go or begin anew.
static inline int goes_on(const Call *c, long t) { return t > 0 && rows_at(c, t) == rows_at(c, t - 1) && !c->resets; }

// The same, and every thread the same columns in both: all came that weights were packed for.
static inline int goes_on_with_columns(const Call *c, long t, long team) { return goes_on(c, t) && team == c->parts; }

// Backward, no gradient goes beyond the step with which a row began anew.
static void begin_back(const Call *c, long t, Range r, int team) {
    if (!c->resets) return;
    const Range mine = rows_from(r, 0);
    for (long row = mine.b0; row < mine.b1; row++)
        if (c->resets[c->start[t] + row])
            for (const State *s = c->state; s < c->state + c->states; s++)
                copy_rows(s->carry + (~t & 1) * c->B * s->width, 0, s->width, (Range){row, row + 1, 0, 1, 0, 0});
    if (c->columns) barrier(c->barrier, team);
}

// Backward, the gradients of what sequences left with step t come in.
static void enter_back(const Call *c, long t, Range r, int team) {
    const long next = rows_at(c, t + 1);
    if (next == rows_at(c, t)) return;
    const Range come = rows_from(r, next);
    for (const State *s = c->state; s < c->state + c->states; s++)
        copy_rows(s->carry + (t & 1) * c->B * s->width, s->dlast, s->width, come);
    if (c->columns) barrier(c->barrier, team);
}

static void leave_back(const Call *c, long me, long team) {
    const long first = rows_at(c, 0);
    const Range r = rows_from(share(c, first, me, team), 0);
    const Range rest = rows_from((Range){0, c->B, me, team, 0, me}, first);
    for (const State *s = c->state; s < c->state + c->states; s++)
        if (s->dfirst) {
            copy_rows(s->dfirst, s->carry + c->B * s->width, s->width, r);
            copy_rows(s->dfirst, s->dlast, s->width, rest);
        }
}

// ---- weights --------------------------------------------------------------------------------------------------------

// Whether products are in thirds.
static inline int in_thirds(const Call *c) { return c->thirds && !*c->plain; }

// Vectors of a panel: fewer where threads share columns, for beside what they do with the last one nothing multiplies.
static inline long units_of(const Call *c, long units) {
    return c->columns && in_thirds(c) ? min_of(units, SHARED_UNITS) : units;
}

// A product of a pass; `parted` is where its rows go where it is in thirds, and moves on.
static inline Inputs inputs(const Call *c, Range part, const Term *terms, long count, long slots, long plain,
                            long thirds, real **parted) {
    Inputs in = {.terms = terms, .count = count, .slots = slots, .w = c->packed + (in_thirds(c) ? thirds : plain)};
    for (long k = 0; k < count; k++) in.total += terms[k].depth, in.blocks += ceil_div(terms[k].depth, BLOCK_DEPTH);
    if (!in_thirds(c)) return in;
    in.parted = *parted;
    *parted += ceil_div(part.b1 - part.b0, THIRDS_ROWS) * 2 * in.blocks * THIRDS;
    return in;
}

// ---- columns --------------------------------------------------------------------------------------------------------

// What a pass does with the columns of some rows in a panel, once their products are there. A unit is a vector of a row
// in one part of it; the last part may be the first pass of the step before.
typedef struct {
    Beside beside;  // first: `more` is given that
    const void *arg, *memory, *before;
    Range range;
    int keep;
    long parts;
    vec *tile;
    long first, rows, start, count;  // rows, and vectors of columns
    long part, row, unit;            // what comes next
} Columns;

// Their products are there: from now on they go beside the next products, or at once where tiles do not take those.
static inline void turn_to(Columns *c, vec *tile, long first, long rows, long start, long count, int later) {
    do_rest(&c->beside);
    c->tile = tile, c->first = c->row = first, c->rows = rows, c->start = start, c->count = count;
    c->part = c->unit = 0;
    start_beside(&c->beside, rows * count * c->parts);
    if (!later) do_rest(&c->beside);
}

// Backward, whether a step's last pass does the first one of the step before with the columns that it is at.
static inline int goes_ahead(const Call *c, long t) { return in_thirds(c) && goes_on(c, t); }

// Whether what is to be packed changed since it was: every thread sees the same.
static int stale(const Call *c, long me, long team) {
    const size_t bytes = (size_t)(team * c->pieces) * sizeof(uint64_t);
    for (long k = 0; k < c->pieces; k++) c->found[me * c->pieces + k] = core.digest(c->piece + k, me, team);
    barrier(c->barrier, team);
    const int changed = memcmp(c->found, c->known, bytes) != 0;
    barrier(c->barrier, team);
    if (changed && me == 0) memcpy(c->known, c->found, bytes);
    return changed;
}

static void pack_weights(const Call *c, long me, long team) {
    if (c->job == INFER && !stale(c, me, team)) return;
    if (c->thirds) {
        if (me == 0) *c->plain = 0;
        barrier(c->barrier, team);
        int odd = 0;
        for (long k = 0; k < c->packs; k++) odd |= core.pack_thirds(c->pack + k, c->packed, me, team);
        if (odd) __atomic_store_n(c->plain, 1, __ATOMIC_RELAXED);
        barrier(c->barrier, team);
        if (in_thirds(c)) return;
    }
    for (long k = 0; k < c->packs; k++) core.pack(c->pack + k, c->packed, me, team);
    barrier(c->barrier, team);
}

// ---- sums -----------------------------------------------------------------------------------------------------------

// Sums over rows and steps are kept in two stages, so that few numbers are ever added to a large one.
static void flush(const Call *c, long thread) {
    real *fine = c->sum + 2 * thread * c->sums, *coarse = fine + c->sums;
    for (long j = 0; j < c->sums; j++) coarse[j] += fine[j], fine[j] = 0;
}

static void finish(const Call *c, long me, long team) {
    barrier(c->barrier, team);
    for (long j = c->sums * me / team; j < c->sums * (me + 1) / team; j++) {
        real total = 0;
        for (long k = 0; k < team; k++) total += c->sum[(2 * k + 1) * c->sums + j];
        for (long k = 0; k < c->copies; k++) c->bias[k * c->sums + j] = total;
    }
    core.contract(c->block, c->blocks, c->start[c->T], c->contract, c->barrier, me, team);
}

// Of numbers one after the other.
static inline real total_of(const real *from, long count) {
    vec sum = v_set1(0);
    long k = 0;
    for (; k + VL <= count; k += VL) sum += v_load(from + k);
    real total = v_sum(sum);
    for (; k < count; k++) total += from[k];
    return total;
}

// A value of a row that all columns go into: what the threads found, put together.
static inline real total_sum(const Call *c, long number, long row, long parts) {
    real total = 0;
    for (long k = 0; k < parts; k++) total = add_of(total, c->reductions[(number * c->parts + k) * c->rows + row]);
    return total;
}
static inline real total_max(const Call *c, long number, long row, long parts) {
    real total = -INFINITY;
    for (long k = 0; k < parts; k++) total = max_of(total, c->reductions[(number * c->parts + k) * c->rows + row]);
    return total;
}
static inline real total_min(const Call *c, long number, long row, long parts) {
    real total = INFINITY;
    for (long k = 0; k < parts; k++) total = least_of(total, c->reductions[(number * c->parts + k) * c->rows + row]);
    return total;
}

#endif
