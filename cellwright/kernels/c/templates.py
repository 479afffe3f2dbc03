"""Templates: the C around the lines of a pass: its columns, its tiles, its rows, and where a step's values lie."""

COLUMNS = """V_FN void {name}(const Args *arg, const Memory m, long row, long col, const int lanes, vec *tile,
                long at, Range part, const int keep) {{
    (void)arg, (void)col, (void)tile, (void)at, (void)part, (void)keep;"""
MEMORY = """// Where the values of one step lie: the first row of each.
typedef struct {{
{fields}}} Memory;

V_FN Memory memory(const Args *arg, long step, Range part) {{
    return (Memory){{
{values}    }};
}}
"""
TILED = """
static void {name}_columns(Beside *beside, long units) {{
    enum {{ W = {width} }};
    Columns *c = (Columns *)beside;
    const Args *arg = c->arg;
    const Memory m = *(const Memory *)c->memory;{earlier}
    const Range part = c->range;
    const long first = c->first, start = c->start, count = c->count;
    const int keep = c->keep;
    vec *tile = c->tile;
    while (units > 0) {{
        const long row = c->row, from = c->unit, to = min_of(from + units, count);
        units -= to - from;
        switch (c->part) {{
{parts}        }}
        c->unit = to < count ? to : 0, c->row += to == count;
        if (c->row == first + c->rows) c->row = first, c->part++;
    }}
}}

static void {name}(const Args *arg, long step, Range part, const int keep) {{
    enum {{ W = {width}, VECTORS = (W + VL - 1) / VL, U = {units} }};
    vec tiles[2][{tile} * GROUP_ROWS];
    const Memory m = memory(arg, step, part);{ahead}
    real *parted = arg->c.parted + part.thread * arg->c.parted_size;
{start}{inputs}    const long most = vecs_of_tile({few}), panels = panels_of(VECTORS, {most}, {team});
    const long from = panels * part.me / part.team, to = panels * (part.me + 1) / part.team;
    const int later = in_thirds(&arg->c);
    const long groups = ceil_div(part.b1 - part.b0, later ? THIRDS_ROWS : GROUP_ROWS);
    const long back = (arg->c.far || later) && (step + arg->c.turn) & 1;
    Columns columns = {{{{{name}_columns}}, arg, &m, {before}, part, keep, {count}}};
    for (long place = from; place < to; place++) {{
        const long panel = panel_at(place, from, to, back), soon = panel_at(min_of(place + 1, to - 1), from, to, back);
        const long start = VECTORS * panel / panels, count = VECTORS * (panel + 1) / panels - start;
        for (long group = 0; group < groups; group++) {{
            const long first = part.b0 + (part.b1 - part.b0) * group / groups;
            const long rows = part.b0 + (part.b1 - part.b0) * (group + 1) / groups - first;
            const long next = group + 1 < groups ? start : VECTORS * soon / panels;
            vec *tile = tiles[later && columns.tile == tiles[0]];
{products}            turn_to(&columns, tile, first, rows, start, count, later);
        }}
    }}
    do_rest(&columns.beside);
}}
"""
EARLIER = """
    const Memory before = *(const Memory *)c->before;"""
AHEAD = """
    const int ahead = goes_ahead(&arg->c, step);
    const Memory before = memory(arg, step - ahead, part);"""
PART = """        case {number}:
            for (long unit = from; unit < to; unit++) {{
                const long col = (start + unit) * VL, at = (row - first) * count + unit;
                if (col + VL <= W) {name}(arg, {memory}, row, col, VL, tile, at, part, keep);
                else {name}(arg, {memory}, row, col, W % VL, tile, at, part, keep);
            }}
            break;
"""
PLAIN = """
static void {name}(const Args *arg, long step, Range part, const int keep) {{
    enum {{ W = {width}, VECTORS = (W + VL - 1) / VL }};
    const Memory m = memory(arg, step, part);
{start}    const long start = VECTORS * part.me / part.team, stop = VECTORS * (part.me + 1) / part.team;
    for (long row = part.b0; row < part.b1; row++) {{
{begins}        for (long col = start * VL; col < stop * VL; col += VL) {{
            if (col + VL <= W) {name}_at(arg, m, row, col, VL, {shared}, 0, part, keep);
            else {name}_at(arg, m, row, col, W % VL, {shared}, 0, part, keep);
        }}
{ends}    }}
}}
"""
SCAN = """// {made} = cumsum({read}), row by row: rows are split over the threads, columns never.
static void {name}(const Args *arg, long step, Range part, const int keep) {{
    (void)keep;
    const Memory m = memory(arg, step, part);
    const long rows = part.b1 - part.b0;
    for (long row = part.b0 + rows * part.me / part.team; row < part.b0 + rows * (part.me + 1) / part.team; row++) {{
        real sum = 0;
        long to = 0;
{lines}    }}
}}
"""
ELEMENTWISE = """
V_FN void {name}_at(const Args *arg, long row, long col, const int lanes) {{
    (void)row, (void)col;
{lines}}}

static void {name}(const Args *arg, long me, long team) {{
    enum {{ W = {width}, VECTORS = (W + VL - 1) / VL }};
    for (long col = VECTORS * me / team * VL; col < VECTORS * (me + 1) / team * VL; col += VL)
        for (long row = 0; row < {rows}; row++) {{
            if (col + VL <= W) {name}_at(arg, row, col, VL);
            else {name}_at(arg, row, col, W % VL);
        }}
}}
"""
