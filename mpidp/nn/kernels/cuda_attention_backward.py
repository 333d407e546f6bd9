"""CUDA C++ of causal attention's backward on tensor cores; goes behind `cuda_attention.TILES`.

Two kernels, by queries for dq and by keys for dk and dv: 7 products instead of the 5 that do when dq is added up in
global memory, but every sum is taken in one order. The second computes Sᵀ = k qᵀ, so that Pᵀ and dSᵀ are already what
dv = Pᵀ dO and dk = dSᵀ q multiply from the left. dS = P ∘ (dO vᵀ - δ), δ = Σ_d dO ∘ O a row, which the first kernel
leaves for the second. (Dao 2023, arXiv:2307.08691, algorithm 2.)

Defined from outside, besides what `cuda_attention` wants: DOUT and DQKV, types as OUT and QKV; PART_ROWS of a
tile that are worked on at a time.
"""

QUERIES = r"""
// A block a tile of queries, those with most keys first. scale: log2(e) / sqrt(DEPTH), of dq: 1 / sqrt(DEPTH).
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_queries(const QKV* qkv, const OUT* out, const DOUT* dout, DQKV* dqkv, const float* sums,
                           float* delta, float scale, float dq_scale, int tokens, int heads) {
    const int M = M_TILES, KEYS = TILE_ROWS, PART = PART_ROWS, ROWS = 16 * M * WARPS;
    extern __shared__ Four memory[];
    element *queries = (element*)memory, *gradients = queries + ROWS * ROW;
    element *keys = gradients + ROWS * ROW, *values = keys + 2 * KEYS * ROW;
    const int tiles = (tokens + ROWS - 1) / ROWS;
    const Head head = head_of_block(tiles, tokens, heads);
    const int first = (tiles - 1 - blockIdx.x / (gridDim.x / tiles)) * ROWS, end = min(first + ROWS, tokens);
    const int warp = threadIdx.x / 32 * 16 * M, stride = 3 * head.width;
    const QKV *q = qkv + head.qkv, *k = q + head.width, *v = k + head.width;

    load<ROWS>(queries, q, stride, first, tokens);
    load<ROWS>(gradients, dout + head.out, head.width, first, tokens);
    load<KEYS>(keys, k, stride, 0, tokens);
    load<KEYS>(values, v, stride, 0, tokens);
    float total[M][2], along[M][2], dq[M][DEPTH / 8][4] = {};
    #pragma unroll
    for (int m = 0; m < M; m++)
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first + warp + 16 * m + 8 * half + lane() / 4;
            const long long at = (long long)head.pair * tokens + row;
            float products = 0;
            if (row < tokens)
                for (int d = lane() % 4 * 8; d < DEPTH; d += 32) {
                    float x[8], y[8];
                    read_eight(x, out + head.out + (long long)row * head.width + d);
                    read_eight(y, dout + head.out + (long long)row * head.width + d);
                    #pragma unroll
                    for (int i = 0; i < 8; i++) products += x[i] * y[i];
                }
            along[m][half] = over_four_lanes_sum(products);
            total[m][half] = row < tokens ? sums[at] : FAR;
            if (lane() % 4 == 0 && row < tokens) delta[at] = along[m][half];
        }

    for (int j = 0, stage = 0; j < end; j += KEYS, stage ^= 1) {
        wait_for_copies();
        __syncthreads();  // this tile is there, and all are done with the one before
        if (j + KEYS < end) {
            load<KEYS>(keys + (stage ^ 1) * KEYS * ROW, k, stride, j + KEYS, tokens);
            load<KEYS>(values + (stage ^ 1) * KEYS * ROW, v, stride, j + KEYS, tokens);
        }
        const int row = first + warp;
        #pragma unroll 1
        for (int part = 0; part < KEYS; part += PART) {
            if (j + part > row + 16 * M - 1) break;  // all keys later than the warp's queries
            const int at = stage * KEYS + part;
            float p[M][PART / 8][4] = {}, ds[M][PART / 8][4] = {};
            multiply_rows(p, queries, warp, keys, at);
            if (j + part + PART - 1 > row) hide_later_keys(p, row, j + part);
            multiply_rows(ds, gradients, warp, values, at);
            #pragma unroll
            for (int m = 0; m < M; m++)
                #pragma unroll
                for (int n = 0; n < PART / 8; n++)
                    #pragma unroll
                    for (int i = 0; i < 4; i++)
                        ds[m][n][i] = two_to(p[m][n][i] * scale - total[m][i / 2]) * (ds[m][n][i] - along[m][i / 2]);
            multiply_sums(dq, ds, keys, at);
        }
    }
    #pragma unroll
    for (int m = 0; m < M; m++) total[m][0] = total[m][1] = dq_scale;
    store(dqkv + head.qkv, stride, first + warp, tokens, dq, total, queries + warp * ROW);
}
"""

KEYS = r"""
// A block a tile of keys, those with most queries first. scale: log2(e) / sqrt(DEPTH), of dk: 1 / sqrt(DEPTH).
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_keys(const QKV* qkv, const DOUT* dout, DQKV* dqkv, const float* sums, const float* delta,
                        float scale, float dk_scale, int tokens, int heads) {
    const int M = M_TILES, QUERIES = TILE_ROWS, PART = PART_ROWS, ROWS = 16 * M * WARPS;
    extern __shared__ Four memory[];
    element *keys = (element*)memory, *values = keys + ROWS * ROW;
    element *queries = values + ROWS * ROW, *gradients = queries + 2 * QUERIES * ROW;
    float *totals = (float*)(gradients + 2 * QUERIES * ROW), *alongs = totals + 2 * QUERIES;
    const int tiles = (tokens + ROWS - 1) / ROWS;
    const Head head = head_of_block(tiles, tokens, heads);
    const int first = blockIdx.x / (gridDim.x / tiles) * ROWS, start = first / QUERIES * QUERIES;
    const int warp = threadIdx.x / 32 * 16 * M, stride = 3 * head.width;
    const QKV *q = qkv + head.qkv, *k = q + head.width, *v = k + head.width;
    const DOUT* g = dout + head.out;
    const long long rows = (long long)head.pair * tokens;

    load<ROWS>(keys, k, stride, first, tokens);
    load<ROWS>(values, v, stride, first, tokens);
    float dk[M][DEPTH / 8][4] = {}, dv[M][DEPTH / 8][4] = {};

    for (int i = start - QUERIES, stage = 1; i < tokens; i += QUERIES, stage ^= 1) {
        wait_for_copies();
        __syncthreads();  // this tile is there, and all are done with the one before
        const int next = i + QUERIES;
        if (next < tokens) {
            load<QUERIES>(queries + (stage ^ 1) * QUERIES * ROW, q, stride, next, tokens);
            load<QUERIES>(gradients + (stage ^ 1) * QUERIES * ROW, g, head.width, next, tokens);
            for (int r = threadIdx.x; r < QUERIES; r += THREADS) {
                totals[(stage ^ 1) * QUERIES + r] = next + r < tokens ? sums[rows + next + r] : FAR;
                alongs[(stage ^ 1) * QUERIES + r] = next + r < tokens ? delta[rows + next + r] : 0;
            }
        }
        if (i < start) continue;
        const int key = first + warp;
        #pragma unroll 1
        for (int part = 0; part < QUERIES; part += PART) {
            const int query = i + part, at = stage * QUERIES + part;
            if (query + PART - 1 < key) continue;  // all queries earlier than the warp's keys
            float p[M][PART / 8][4] = {}, ds[M][PART / 8][4] = {};
            multiply_rows(p, keys, warp, queries, at);
            multiply_rows(ds, values, warp, gradients, at);
            const bool crossing = query < key + 16 * M - 1;
            #pragma unroll
            for (int n = 0; n < PART / 8; n++)
                #pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int column = 8 * n + 2 * (lane() % 4) + c;
                    const float total = totals[at + column], along = alongs[at + column];
                    #pragma unroll
                    for (int m = 0; m < M; m++)
                        #pragma unroll
                        for (int half = 0; half < 2; half++) {
                            float &x = p[m][n][2 * half + c];
                            bool later = crossing && key + 16 * m + 8 * half + lane() / 4 > query + column;
                            x = later ? 0 : two_to(x * scale - total);
                            ds[m][n][2 * half + c] = x * (ds[m][n][2 * half + c] - along);
                        }
                }
            multiply_sums(dv, p, gradients, at);
            multiply_sums(dk, ds, queries, at);
        }
    }
    float factor[M][2];
    #pragma unroll
    for (int m = 0; m < M; m++) factor[m][0] = factor[m][1] = dk_scale;
    store(dqkv + head.qkv + head.width, stride, first + warp, tokens, dk, factor, keys + warp * ROW);
    #pragma unroll
    for (int m = 0; m < M; m++) factor[m][0] = factor[m][1] = 1;
    store(dqkv + head.qkv + 2 * head.width, stride, first + warp, tokens, dv, factor, values + warp * ROW);
}
"""
