// LSTM(3, 5)
#include "sequence.h"

typedef struct {
    Call c;
    real *x;
    real *state0;
    real *dstate0;
    real *state1;
    real *dstate1;
    real *dy;
    real *y;
    real *dx;
    real *d;
    real *kept;
    real *hoisted;
    real *scratch;
    real *w2;
    real *w5;
    real *w8;
    real *w11;
} Args;

// Where the values of one step lie: the first row of each.
typedef struct {
    real *x;
    real *state0_old;
    real *state0_new;
    real *dstate0_old;
    real *dstate0_new;
    real *state1_old;
    real *state1_new;
    real *dstate1_old;
    real *dstate1_new;
    real *dy;
    real *y;
    real *dx;
    real *d;
    real *kept;
    real *hoisted;
    real *scratch;
    real *sums;
    real *w2;
    real *w5;
    real *w8;
    real *w11;
} Memory;

V_FN Memory memory(const Args *arg, long step, Range part) {
    return (Memory){
        .x = arg->x + arg->c.start[step] * 3,
        .state0_old = state_old(&arg->c, &arg->c.state[0], step),
        .state0_new = arg->state0 + state_at(&arg->c, arg->c.state[0].kept, step) * 5,
        .dstate0_old = arg->dstate0 + (step & 1) * arg->c.B * 5,
        .dstate0_new = arg->dstate0 + (~step & 1) * arg->c.B * 5,
        .state1_old = state_old(&arg->c, &arg->c.state[1], step),
        .state1_new = arg->state1 + state_at(&arg->c, arg->c.state[1].kept, step) * 5,
        .dstate1_old = arg->dstate1 + (step & 1) * arg->c.B * 5,
        .dstate1_new = arg->dstate1 + (~step & 1) * arg->c.B * 5,
        .dy = arg->dy + arg->c.start[step] * 5,
        .y = arg->y + arg->c.start[step] * 5,
        .dx = arg->dx + arg->c.start[step] * 3,
        .d = arg->d + held_at(&arg->c, step) * 20,
        .kept = arg->kept + held_at(&arg->c, step) * 0,
        .hoisted = arg->hoisted + held_at(&arg->c, step) * 0,
        .scratch = arg->scratch + part.shift * 0,
        .sums = arg->c.sum + 2 * part.thread * 20,
        .w2 = arg->w2,
        .w5 = arg->w5,
        .w8 = arg->w8,
        .w11 = arg->w11,
    };
}

V_FN void forward_0_at1(const Args *arg, const Memory m, long row, long col, const int lanes, vec *tile,
                long at, Range part, const int keep) {
    (void)arg, (void)col, (void)tile, (void)at, (void)part, (void)keep;
    const vec v3 = tile[0 * GROUP_ROWS + at * 4 + 0];
    const vec v7 = tile[0 * GROUP_ROWS + at * 4 + 1];
    const vec v11 = tile[0 * GROUP_ROWS + at * 4 + 2];
    const vec v15 = tile[0 * GROUP_ROWS + at * 4 + 3];
    const vec v5 = (v3 + v_load_n(m.w2 + 0 + col, lanes));
    // i = sigmoid(x @ W_xi + h[t-1] @ W_hi + b_i)
    const vec i = v_sigmoid(v5);
    const vec v9 = (v7 + v_load_n(m.w5 + 0 + col, lanes));
    // f = sigmoid(x @ W_xf + h[t-1] @ W_hf + b_f)
    const vec f = v_sigmoid(v9);
    const vec v13 = (v11 + v_load_n(m.w8 + 0 + col, lanes));
    // o = sigmoid(x @ W_xo + h[t-1] @ W_ho + b_o)
    const vec o = v_sigmoid(v13);
    const vec v17 = (v15 + v_load_n(m.w11 + 0 + col, lanes));
    // g = tanh(x @ W_xg + h[t-1] @ W_hg + b_g)
    const vec g = v_tanh(v17);
    const vec v19 = (f * v_load_n(m.state1_old + row * 5 + col, lanes));
    const vec v20 = (i * g);
    // c = f * c[t-1] + i * g
    const vec c = (v19 + v20);
    if (keep) v_store_n(m.d + row * 20 + col, i, lanes);
    if (keep) v_store_n(m.d + row * 20 + 5 + col, f, lanes);
    if (keep) v_store_n(m.d + row * 20 + 10 + col, o, lanes);
    if (keep) v_store_n(m.d + row * 20 + 15 + col, g, lanes);
    v_store_n(m.state1_new + row * 5 + col, c, lanes);
    tile[16 * GROUP_ROWS + at * 2 + 0] = o;
    tile[16 * GROUP_ROWS + at * 2 + 1] = c;
}

V_FN void forward_0_at2(const Args *arg, const Memory m, long row, long col, const int lanes, vec *tile,
                long at, Range part, const int keep) {
    (void)arg, (void)col, (void)tile, (void)at, (void)part, (void)keep;
    const vec o = tile[16 * GROUP_ROWS + at * 2 + 0];
    const vec c = tile[16 * GROUP_ROWS + at * 2 + 1];
    const vec v22 = v_tanh(c);
    // h = o * tanh(c)
    const vec h = (o * v22);
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
                if (col + VL <= W) forward_0_at1(arg, m, row, col, VL, tile, at, part, keep);
                else forward_0_at1(arg, m, row, col, W % VL, tile, at, part, keep);
            }
            break;
        case 1:
            for (long unit = from; unit < to; unit++) {
                const long col = (start + unit) * VL, at = (row - first) * count + unit;
                if (col + VL <= W) forward_0_at2(arg, m, row, col, VL, tile, at, part, keep);
                else forward_0_at2(arg, m, row, col, W % VL, tile, at, part, keep);
            }
            break;
        }
        c->unit = to < count ? to : 0, c->row += to == count;
        if (c->row == first + c->rows) c->row = first, c->part++;
    }
}

static void forward_0(const Args *arg, long step, Range part, const int keep) {
    enum { W = 5, VECTORS = (W + VL - 1) / VL, U = 4 };
    vec tiles[2][24 * GROUP_ROWS];
    const Memory m = memory(arg, step, part);
    real *parted = arg->c.parted + part.thread * arg->c.parted_size;
    const Term terms0[] = {{m.x + 0 * 3, 3, 3}, {m.state0_old + 0 * 5, 5, 5}};
    Inputs in0 = inputs(&arg->c, part, terms0, 2, 4, 0, 0, &parted);
    const long most = vecs_of_tile(arg->c.few), panels = panels_of(VECTORS, units_of(&arg->c, U), packed_for(&arg->c));
    const long from = panels * part.me / part.team, to = panels * (part.me + 1) / part.team;
    const int later = in_thirds(&arg->c);
    const long groups = ceil_div(part.b1 - part.b0, later ? THIRDS_ROWS : GROUP_ROWS);
    const long back = (arg->c.far || later) && (step + arg->c.turn) & 1;
    Columns columns = {{forward_0_columns}, arg, &m, 0, part, keep, 2};
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
                    __builtin_prefetch(m.state1_old + row * 5 + col);
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
    const vec v22 = v_tanh(v_load_n(m.state1_new + row * 5 + col, lanes));
    const vec v25 = v_load_n(m.dstate0_old + row * 5 + col, lanes);
    const vec v27 = v_load_n(m.dstate1_old + row * 5 + col, lanes);
    const vec v29 = (v25 + v_load_n(m.dy + row * 5 + col, lanes));
    const vec v30 = (v29 * v_load_n(m.d + row * 20 + 10 + col, lanes));
    const vec v31 = (v29 * v22);
    const vec v32 = (v22 * v22);
    const vec v34 = (v_set1((real)1.0) - v32);
    const vec v35 = (v30 * v34);
    const vec v36 = (v27 + v35);
    const vec v37 = (v36 * v_load_n(m.d + row * 20 + col, lanes));
    const vec v38 = (v36 * v_load_n(m.d + row * 20 + 15 + col, lanes));
    const vec v39 = (v36 * v_load_n(m.d + row * 20 + 5 + col, lanes));
    const vec v40 = (v36 * v_load_n(m.state1_old + row * 5 + col, lanes));
    const vec v41 = (v_load_n(m.d + row * 20 + 15 + col, lanes) * v_load_n(m.d + row * 20 + 15 + col, lanes));
    const vec v42 = (v_set1((real)1.0) - v41);
    const vec v43 = (v37 * v42);
    const vec v44 = (v_set1((real)1.0) - v_load_n(m.d + row * 20 + 10 + col, lanes));
    const vec v45 = (v_load_n(m.d + row * 20 + 10 + col, lanes) * v44);
    const vec v46 = (v31 * v45);
    const vec v47 = (v_set1((real)1.0) - v_load_n(m.d + row * 20 + 5 + col, lanes));
    const vec v48 = (v_load_n(m.d + row * 20 + 5 + col, lanes) * v47);
    const vec v49 = (v40 * v48);
    const vec v50 = (v_set1((real)1.0) - v_load_n(m.d + row * 20 + col, lanes));
    const vec v51 = (v_load_n(m.d + row * 20 + col, lanes) * v50);
    const vec v52 = (v38 * v51);
    v_store_n(m.dstate1_new + row * 5 + col, v39, lanes);
    v_store_n(m.d + row * 20 + col, v43, lanes);
    v_store_n(m.sums + 0 + col, v_load_n(m.sums + 0 + col, lanes) + v43, lanes);
    v_store_n(m.d + row * 20 + 5 + col, v46, lanes);
    v_store_n(m.sums + 5 + col, v_load_n(m.sums + 5 + col, lanes) + v46, lanes);
    v_store_n(m.d + row * 20 + 10 + col, v49, lanes);
    v_store_n(m.sums + 10 + col, v_load_n(m.sums + 10 + col, lanes) + v49, lanes);
    v_store_n(m.d + row * 20 + 15 + col, v52, lanes);
    v_store_n(m.sums + 15 + col, v_load_n(m.sums + 15 + col, lanes) + v52, lanes);
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
    const vec v53 = tile[0 * GROUP_ROWS + at * 1 + 0];
    const vec v56 = v53;
    v_store_n(m.dstate0_new + row * 5 + col, v56, lanes);
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
    const Term terms0[] = {{m.d + 0 * 20, 20, 5}, {m.d + 0 * 20 + 5, 20, 5}, {m.d + 0 * 20 + 10, 20, 5}, {m.d + 0 * 20 + 15, 20, 5}};
    Inputs in0 = inputs(&arg->c, part, terms0, 4, 1, 0, 0, &parted);
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
    const vec v54 = tile[0 * GROUP_ROWS + at * 1 + 0];
    const vec v57 = v54;
    v_store_n(m.dx + row * 3 + col, v57, lanes);
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
    const Term terms0[] = {{m.d + 0 * 20, 20, 5}, {m.d + 0 * 20 + 5, 20, 5}, {m.d + 0 * 20 + 10, 20, 5}, {m.d + 0 * 20 + 15, 20, 5}};
    Inputs in0 = inputs(&arg->c, part, terms0, 4, 1, 320, 3072, &parted);
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
}

void run(const Args *a) {
    const Call *c = &a->c;
    const int team = c->threads ? c->threads() : 1, me = c->thread ? c->thread() : 0;
    if (c->packs) pack_weights(c, me, team);
    if (c->job == INFER) forward(a, me, team, 0);
    if (c->job == TRAIN) forward(a, me, team, 1);
    if (c->job == BACKWARD) backward(a, me, team, 1);
    if (c->thirds) core.release_tiles();
}
