// LeakyRNN(3, 5)
#include "sequence.h"

typedef struct {
    Call c;
    real *x;
    real *state0;
    real *dstate0;
    real *dy;
    real *y;
    real *dx;
    real *d;
    real *kept;
    real *hoisted;
    real *scratch;
    real *w2;
    real *w3;
    real *w5;
    real *w6;
} Args;

// Where the values of one step lie: the first row of each.
typedef struct {
    real *x;
    real *state0_old;
    real *state0_new;
    real *dstate0_old;
    real *dstate0_new;
    real *dy;
    real *y;
    real *dx;
    real *d;
    real *kept;
    real *hoisted;
    real *scratch;
    real *sums;
    real *w2;
    real *w3;
    real *w5;
    real *w6;
} Memory;

V_FN Memory memory(const Args *arg, long step, Range part) {
    return (Memory){
        .x = arg->x + arg->c.start[step] * 3,
        .state0_old = state_old(&arg->c, &arg->c.state[0], step),
        .state0_new = arg->state0 + state_at(&arg->c, arg->c.state[0].kept, step) * 5,
        .dstate0_old = arg->dstate0 + (step & 1) * arg->c.B * 5,
        .dstate0_new = arg->dstate0 + (~step & 1) * arg->c.B * 5,
        .dy = arg->dy + arg->c.start[step] * 5,
        .y = arg->y + arg->c.start[step] * 5,
        .dx = arg->dx + arg->c.start[step] * 3,
        .d = arg->d + held_at(&arg->c, step) * 5,
        .kept = arg->kept + held_at(&arg->c, step) * 0,
        .hoisted = arg->hoisted + held_at(&arg->c, step) * 0,
        .scratch = arg->scratch + part.shift * 5,
        .sums = arg->c.sum + 2 * part.thread * 15,
        .w2 = arg->w2,
        .w3 = arg->w3,
        .w5 = arg->w5,
        .w6 = arg->w6,
    };
}

V_FN void forward_0_at(const Args *arg, const Memory m, long row, long col, const int lanes, vec *tile,
                long at, Range part, const int keep) {
    (void)arg, (void)col, (void)tile, (void)at, (void)part, (void)keep;
    const vec v4 = tile[0 * GROUP_ROWS + at * 1 + 0];
    const vec v3 = (v_load_n(m.w6 + 0 + col, lanes) * v_load_n(m.state0_old + row * 5 + col, lanes));
    const vec v6 = (v4 + v_load_n(m.w2 + 0 + col, lanes));
    const vec v7 = v_tanh(v6);
    const vec v9 = (v_load_n(m.w5 + 0 + col, lanes) * v7);
    // h = w6 * h[t-1] + w5 * tanh(x @ W_xh + h[t-1] @ W_hh + b_h)
    const vec h = (v3 + v9);
    if (keep) v_store_n(m.d + row * 5 + col, v7, lanes);
    v_store_n(m.state0_new + row * 5 + col, h, lanes);
}

static void forward_0_columns(Beside *beside, long units) {
    enum { W = 5 };
    Columns *c = (Columns *)beside;
    const Args *arg = c->arg;
    const Memory m = *(const Memory *)c->memory;
    const Range part = c->range;
    const long first = c->first, start = c->start, count = c->count;
    const int keep = c->keep;
    vec *tile = c->tile;
    while (units > 0) {
        const long row = c->row, from = c->unit, to = min_of(from + units, count);
        units -= to - from;
        switch (c->part) {
        case 0:
            for (long unit = from; unit < to; unit++) {
                const long col = (start + unit) * VL, at = (row - first) * count + unit;
                if (col + VL <= W) forward_0_at(arg, m, row, col, VL, tile, at, part, keep);
                else forward_0_at(arg, m, row, col, W % VL, tile, at, part, keep);
            }
            break;
        }
        c->unit = to < count ? to : 0, c->row += to == count;
        if (c->row == first + c->rows) c->row = first, c->part++;
    }
}

static void forward_0(const Args *arg, long step, Range part, const int keep) {
    enum { W = 5, VECTORS = (W + VL - 1) / VL, U = 4 };
    vec tiles[2][4 * GROUP_ROWS];
    const Memory m = memory(arg, step, part);
    real *parted = arg->c.parted + part.thread * arg->c.parted_size;
    const Term terms0[] = {{m.x + 0 * 3, 3, 3}, {m.state0_old + 0 * 5, 5, 5}};
    Inputs in0 = inputs(&arg->c, part, terms0, 2, 1, 0, 0, &parted);
    const long most = vecs_of_tile(arg->c.few), panels = panels_of(VECTORS, units_of(&arg->c, U), packed_for(&arg->c));
    const long from = panels * part.me / part.team, to = panels * (part.me + 1) / part.team;
    const int later = in_thirds(&arg->c);
    const long groups = ceil_div(part.b1 - part.b0, later ? THIRDS_ROWS : GROUP_ROWS);
    const long back = (arg->c.far || later) && (step + arg->c.turn) & 1;
    Columns columns = {{forward_0_columns}, arg, &m, 0, part, keep, 1};
    for (long place = from; place < to; place++) {
        const long panel = panel_at(place, from, to, back), soon = panel_at(min_of(place + 1, to - 1), from, to, back);
        const long start = VECTORS * panel / panels, count = VECTORS * (panel + 1) / panels - start;
        for (long group = 0; group < groups; group++) {
            const long first = part.b0 + (part.b1 - part.b0) * group / groups;
            const long rows = part.b0 + (part.b1 - part.b0) * (group + 1) / groups - first;
            const long next = group + 1 < groups ? start : VECTORS * soon / panels;
            vec *tile = tiles[later && columns.tile == tiles[0]];
            for (long row = first; row < first + rows; row++)
                for (long col = start * VL; col < (start + count) * VL; col += VL) {
                    __builtin_prefetch(m.state0_old + row * 5 + col);
                }
            columns.beside.points = points(&in0, rows, count);
            product(&in0, group, place == from, first, rows, start, count, most, tile + 0 * GROUP_ROWS,
                    arg->c.far ? weights_from(&in0, next) : 0, &columns.beside);
            turn_to(&columns, tile, first, rows, start, count, later);
        }
    }
    do_rest(&columns.beside);
}

V_FN void backward_0_at(const Args *arg, const Memory m, long row, long col, const int lanes, vec *tile,
                long at, Range part, const int keep) {
    (void)arg, (void)col, (void)tile, (void)at, (void)part, (void)keep;
    const vec v12 = v_load_n(m.dstate0_old + row * 5 + col, lanes);
    const vec v14 = (v12 + v_load_n(m.dy + row * 5 + col, lanes));
    const vec v15 = (v14 * v_load_n(m.w5 + 0 + col, lanes));
    const vec v16 = (v14 * v_load_n(m.d + row * 5 + col, lanes));
    const vec v17 = (v_load_n(m.d + row * 5 + col, lanes) * v_load_n(m.d + row * 5 + col, lanes));
    const vec v19 = (v_set1((real)1.0) - v17);
    const vec v20 = (v15 * v19);
    const vec v23 = (v14 * v_load_n(m.w6 + 0 + col, lanes));
    const vec v24 = (v14 * v_load_n(m.state0_old + row * 5 + col, lanes));
    v_store_n(m.sums + 0 + col, v_load_n(m.sums + 0 + col, lanes) + v16, lanes);
    v_store_n(m.d + row * 5 + col, v20, lanes);
    v_store_n(m.sums + 5 + col, v_load_n(m.sums + 5 + col, lanes) + v20, lanes);
    v_store_n(m.scratch + row * 5 + col, v23, lanes);
    v_store_n(m.sums + 10 + col, v_load_n(m.sums + 10 + col, lanes) + v24, lanes);
}

static void backward_0(const Args *arg, long step, Range part, const int keep) {
    enum { W = 5, VECTORS = (W + VL - 1) / VL };
    const Memory m = memory(arg, step, part);
    const long start = VECTORS * part.me / part.team, stop = VECTORS * (part.me + 1) / part.team;
    for (long row = part.b0; row < part.b1; row++) {
        for (long col = start * VL; col < stop * VL; col += VL) {
            if (col + VL <= W) backward_0_at(arg, m, row, col, VL, 0, 0, part, keep);
            else backward_0_at(arg, m, row, col, W % VL, 0, 0, part, keep);
        }
    }
}

V_FN void backward_1_at(const Args *arg, const Memory m, long row, long col, const int lanes, vec *tile,
                long at, Range part, const int keep) {
    (void)arg, (void)col, (void)tile, (void)at, (void)part, (void)keep;
    const vec v21 = tile[0 * GROUP_ROWS + at * 1 + 0];
    const vec v25 = (v21 + v_load_n(m.scratch + row * 5 + col, lanes));
    v_store_n(m.dstate0_new + row * 5 + col, v25, lanes);
}

static void backward_1_columns(Beside *beside, long units) {
    enum { W = 5 };
    Columns *c = (Columns *)beside;
    const Args *arg = c->arg;
    const Memory m = *(const Memory *)c->memory;
    const Memory before = *(const Memory *)c->before;
    const Range part = c->range;
    const long first = c->first, start = c->start, count = c->count;
    const int keep = c->keep;
    vec *tile = c->tile;
    while (units > 0) {
        const long row = c->row, from = c->unit, to = min_of(from + units, count);
        units -= to - from;
        switch (c->part) {
        case 0:
            for (long unit = from; unit < to; unit++) {
                const long col = (start + unit) * VL, at = (row - first) * count + unit;
                if (col + VL <= W) backward_1_at(arg, m, row, col, VL, tile, at, part, keep);
                else backward_1_at(arg, m, row, col, W % VL, tile, at, part, keep);
            }
            break;
        case 1:
            for (long unit = from; unit < to; unit++) {
                const long col = (start + unit) * VL, at = (row - first) * count + unit;
                if (col + VL <= W) backward_0_at(arg, before, row, col, VL, tile, at, part, keep);
                else backward_0_at(arg, before, row, col, W % VL, tile, at, part, keep);
            }
            break;
        }
        c->unit = to < count ? to : 0, c->row += to == count;
        if (c->row == first + c->rows) c->row = first, c->part++;
    }
}

static void backward_1(const Args *arg, long step, Range part, const int keep) {
    enum { W = 5, VECTORS = (W + VL - 1) / VL, U = 4 };
    vec tiles[2][4 * GROUP_ROWS];
    const Memory m = memory(arg, step, part);
    const int ahead = goes_ahead(&arg->c, step);
    const Memory before = memory(arg, step - ahead, part);
    real *parted = arg->c.parted + part.thread * arg->c.parted_size;
    const Term terms0[] = {{m.d + 0 * 5, 5, 5}};
    Inputs in0 = inputs(&arg->c, part, terms0, 1, 1, 0, 0, &parted);
    const long most = vecs_of_tile(arg->c.few), panels = panels_of(VECTORS, units_of(&arg->c, U), packed_for(&arg->c));
    const long from = panels * part.me / part.team, to = panels * (part.me + 1) / part.team;
    const int later = in_thirds(&arg->c);
    const long groups = ceil_div(part.b1 - part.b0, later ? THIRDS_ROWS : GROUP_ROWS);
    const long back = (arg->c.far || later) && (step + arg->c.turn) & 1;
    Columns columns = {{backward_1_columns}, arg, &m, &before, part, keep, 1 + ahead};
    for (long place = from; place < to; place++) {
        const long panel = panel_at(place, from, to, back), soon = panel_at(min_of(place + 1, to - 1), from, to, back);
        const long start = VECTORS * panel / panels, count = VECTORS * (panel + 1) / panels - start;
        for (long group = 0; group < groups; group++) {
            const long first = part.b0 + (part.b1 - part.b0) * group / groups;
            const long rows = part.b0 + (part.b1 - part.b0) * (group + 1) / groups - first;
            const long next = group + 1 < groups ? start : VECTORS * soon / panels;
            vec *tile = tiles[later && columns.tile == tiles[0]];
            columns.beside.points = points(&in0, rows, count);
            product(&in0, group, place == from, first, rows, start, count, most, tile + 0 * GROUP_ROWS,
                    arg->c.far ? weights_from(&in0, next) : 0, &columns.beside);
            turn_to(&columns, tile, first, rows, start, count, later);
        }
    }
    do_rest(&columns.beside);
}

V_FN void after_0_at(const Args *arg, const Memory m, long row, long col, const int lanes, vec *tile,
                long at, Range part, const int keep) {
    (void)arg, (void)col, (void)tile, (void)at, (void)part, (void)keep;
    const vec v22 = tile[0 * GROUP_ROWS + at * 1 + 0];
    const vec v27 = v22;
    v_store_n(m.dx + row * 3 + col, v27, lanes);
}

static void after_0_columns(Beside *beside, long units) {
    enum { W = 3 };
    Columns *c = (Columns *)beside;
    const Args *arg = c->arg;
    const Memory m = *(const Memory *)c->memory;
    const Range part = c->range;
    const long first = c->first, start = c->start, count = c->count;
    const int keep = c->keep;
    vec *tile = c->tile;
    while (units > 0) {
        const long row = c->row, from = c->unit, to = min_of(from + units, count);
        units -= to - from;
        switch (c->part) {
        case 0:
            for (long unit = from; unit < to; unit++) {
                const long col = (start + unit) * VL, at = (row - first) * count + unit;
                if (col + VL <= W) after_0_at(arg, m, row, col, VL, tile, at, part, keep);
                else after_0_at(arg, m, row, col, W % VL, tile, at, part, keep);
            }
            break;
        }
        c->unit = to < count ? to : 0, c->row += to == count;
        if (c->row == first + c->rows) c->row = first, c->part++;
    }
}

static void after_0(const Args *arg, long step, Range part, const int keep) {
    enum { W = 3, VECTORS = (W + VL - 1) / VL, U = 4 };
    vec tiles[2][4 * GROUP_ROWS];
    const Memory m = memory(arg, step, part);
    real *parted = arg->c.parted + part.thread * arg->c.parted_size;
    const Term terms0[] = {{m.d + 0 * 5, 5, 5}};
    Inputs in0 = inputs(&arg->c, part, terms0, 1, 1, 80, 768, &parted);
    const long most = vecs_of_tile(0), panels = panels_of(VECTORS, U, 1);
    const long from = panels * part.me / part.team, to = panels * (part.me + 1) / part.team;
    const int later = in_thirds(&arg->c);
    const long groups = ceil_div(part.b1 - part.b0, later ? THIRDS_ROWS : GROUP_ROWS);
    const long back = (arg->c.far || later) && (step + arg->c.turn) & 1;
    Columns columns = {{after_0_columns}, arg, &m, 0, part, keep, 1};
    for (long place = from; place < to; place++) {
        const long panel = panel_at(place, from, to, back), soon = panel_at(min_of(place + 1, to - 1), from, to, back);
        const long start = VECTORS * panel / panels, count = VECTORS * (panel + 1) / panels - start;
        for (long group = 0; group < groups; group++) {
            const long first = part.b0 + (part.b1 - part.b0) * group / groups;
            const long rows = part.b0 + (part.b1 - part.b0) * (group + 1) / groups - first;
            const long next = group + 1 < groups ? start : VECTORS * soon / panels;
            vec *tile = tiles[later && columns.tile == tiles[0]];
            columns.beside.points = points(&in0, rows, count);
            product(&in0, group, place == from, first, rows, start, count, most, tile + 0 * GROUP_ROWS,
                    arg->c.far ? weights_from(&in0, next) : 0, &columns.beside);
            turn_to(&columns, tile, first, rows, start, count, later);
        }
    }
    do_rest(&columns.beside);
}


V_FN void once_0_at(const Args *arg, long row, long col, const int lanes) {
    (void)row, (void)col;
    const vec v0 = v_load_n(arg->w3 + col, lanes);
    const vec v1 = v_sigmoid(v0);
    // value_5 = sigmoid(b_a)
    v_store_n(arg->c.made + 0 + row * 5 + col, v1, lanes);
    const vec v3 = (v_set1((real)1.0) - v1);
    // value_6 = (1 - sigmoid(b_a))
    v_store_n(arg->c.made + 16 + row * 5 + col, v3, lanes);
}

static void once_0(const Args *arg, long me, long team) {
    enum { W = 5, VECTORS = (W + VL - 1) / VL };
    for (long col = VECTORS * me / team * VL; col < VECTORS * (me + 1) / team * VL; col += VL)
        for (long row = 0; row < 1; row++) {
            if (col + VL <= W) once_0_at(arg, row, col, VL);
            else once_0_at(arg, row, col, W % VL);
        }
}

static void once(const Args *arg, long me, long team) {
    once_0(arg, me, team);
}

V_FN void once_after_0_at(const Args *arg, long row, long col, const int lanes) {
    (void)row, (void)col;
    const vec v0 = v_load_n(arg->c.packed + 48 + col, lanes);
    const vec v1 = v_load_n(arg->c.packed + 58 + col, lanes);
    const vec v2 = (-v1);
    const vec v3 = (v0 + v2);
    const vec v4 = v_load_n(arg->c.made + 0 + col, lanes);
    const vec v6 = (v_set1((real)1.0) - v4);
    const vec v7 = (v4 * v6);
    const vec v8 = (v3 * v7);
    // db_a = (sum_0 + -sum_2) * value_5 * (1 - value_5)
    v_store_n(arg->c.packed + 64 + row * 5 + col, v8, lanes);
}

static void once_after_0(const Args *arg, long me, long team) {
    enum { W = 5, VECTORS = (W + VL - 1) / VL };
    for (long col = VECTORS * me / team * VL; col < VECTORS * (me + 1) / team * VL; col += VL)
        for (long row = 0; row < 1; row++) {
            if (col + VL <= W) once_after_0_at(arg, row, col, VL);
            else once_after_0_at(arg, row, col, W % VL);
        }
}

static void once_after(const Args *arg, long me, long team) {
    once_after_0(arg, me, team);
}

// After the time loop: all rows of the steps from t until `end`, a chunk at a time.
static void after(const Args *a, long t, long end, long me, long team, const int keep) {
    const long all = a->c.start[end] - a->c.start[t], last = all * (me + 1) / team;
    for (long b = all * me / team; b < last; b += CHUNK) {
        const Range r = {b, min_of(b + CHUNK, last), 0, 1, me * CHUNK - b, me};
        after_0(a, t, r, keep); flush(&a->c, me);
    }
}

// Threads take rows of their own and wait for nobody, or share columns with a barrier after every pass.
static void forward(const Args *a, long me, long team, const int keep) {
    const Call *c = &a->c;
    enter(c, me, team);
    for (long t = 0; t < c->T; t++) {
        const Range r = share(c, rows_at(c, t), me, team);
        begin(c, t, r, team);
        forward_0(a, t, r, keep); if (c->columns) barrier(c->barrier, team);
        leave(c, t, r);
        settle(c, t, t + 1, team);
    }
}

static void backward(const Args *a, long me, long team, const int keep) {
    const Call *c = &a->c;
    memset(c->sum + 2 * me * c->sums, 0, 2 * c->sums * sizeof(real));
    for (long t = c->T - 1; t >= 0; t--) {
        const Range r = share(c, rows_at(c, t), me, team);
        enter_back(c, t, r, team);
        if (t + 1 == c->T || !goes_ahead(c, t + 1)) backward_0(a, t, r, keep); if (c->columns) barrier(c->barrier, team); backward_1(a, t, r, keep); if (c->columns && !goes_on_with_columns(c, t, team)) barrier(c->barrier, team);
        if ((t & 31) == 0) flush(c, me);
        begin_back(c, t, r, team);
        settle(c, t, t - 1, team);
    }
    leave_back(c, me, team);
    barrier(c->barrier, team);
    after(a, 0, c->T, me, team, keep);
    finish(c, me, team);
    barrier(c->barrier, team);
    once_after(a, me, team);
}

void run(const Args *a) {
    const Call *c = &a->c;
    const int team = c->threads ? c->threads() : 1, me = c->thread ? c->thread() : 0;
    if (c->once && c->job != BACKWARD) {
        once(a, me, team);
        barrier(c->barrier, team);
    }
    if (c->packs) pack_weights(c, me, team);
    if (c->job == INFER) forward(a, me, team, 0);
    if (c->job == TRAIN) forward(a, me, team, 1);
    if (c->job == BACKWARD) backward(a, me, team, 1);
    if (c->thirds) core.release_tiles();
}
