"""CUDA C++ of causal attention by scalar arithmetic: `cuda_attention`'s kernels for any DEPTH, in float or double.

The same algorithm and arguments. A block is 16 x 16 threads; a thread has rows y, y + 16 ... and columns x, x + 16 ...
of a tile of SIZE x SIZE scores, and the same rows and columns of results. So a row belongs to 16 lanes of one warp, and
probabilities go through shared memory to be multiplied without waiting for other warps.

Defined from outside: REAL, DEPTH, SIZE (16, 32 or 64); QKV, OUT, DOUT, DQKV, in which activations are kept: REAL, or
word with BF16 or FP16, which say of which type.
"""

TILES = r"""
typedef unsigned short word;
typedef REAL real;
const int THREADS = 256, OWN = SIZE / 16, COLUMNS = (DEPTH + 15) / 16, WIDE = 16 / sizeof(real);
// Rows are an odd number of 16 bytes long, so that 8 of them lie in different banks.
const int ROW = ((DEPTH + WIDE - 1) / WIDE | 1) * WIDE, SCORES = (SIZE / WIDE | 1) * WIDE;
const real FAR = 1e38f;  // beyond all scores: 2^-FAR is 0

struct alignas(16) Wide { real x[WIDE]; };

__device__ __forceinline__ real read(const real* at) { return *at; }
__device__ __forceinline__ void write(real* at, real x) { *at = x; }
#if defined(BF16)
__device__ __forceinline__ real read(const word* at) { return from_bf16(*at); }
__device__ __forceinline__ void write(word* at, real x) { *at = pack_bf16(x, 0); }
#elif defined(FP16)
__device__ __forceinline__ real read(const word* at) { return from_f16(*at); }
__device__ __forceinline__ void write(word* at, real x) { *at = pack_f16(x, 0); }
#endif

__device__ __forceinline__ int own_row(int i) { return 16 * i + threadIdx.x / 16; }
__device__ __forceinline__ int own_column(int i) { return 16 * i + threadIdx.x % 16; }

// Rows [first, first + SIZE), `stride` apart, to a tile; zeros from row `tokens` and column DEPTH on.
template <class T>
__device__ __forceinline__ void load(real* to, const T* from, int stride, int first, int tokens) {
    for (int at = threadIdx.x; at < SIZE * ROW; at += THREADS) {
        int row = at / ROW, column = at % ROW;
        bool there = first + row < tokens && column < DEPTH;
        to[at] = there ? read(from + (long long)(first + row) * stride + column) : real(0);
    }
}

// c += own rows of a times own columns of bT, both tiles.
__device__ __forceinline__ void multiply_rows(real (&c)[OWN][OWN], const real* a, const real* b) {
    #pragma unroll 4
    for (int d = 0; d < DEPTH; d += WIDE) {
        Wide x[OWN], y[OWN];
        #pragma unroll
        for (int i = 0; i < OWN; i++) {
            x[i] = *(const Wide*)(a + own_row(i) * ROW + d);
            y[i] = *(const Wide*)(b + own_column(i) * ROW + d);
        }
        #pragma unroll
        for (int w = 0; w < WIDE; w++)
            #pragma unroll
            for (int i = 0; i < OWN; i++)
                #pragma unroll
                for (int j = 0; j < OWN; j++) c[i][j] += x[i].x[w] * y[j].x[w];
    }
}

// c += own rows of p, which pass through `scores`, times b.
__device__ __forceinline__ void multiply_sums(real (&c)[OWN][COLUMNS], const real (&p)[OWN][OWN], real* scores,
                                              const real* b) {
    __syncwarp();
    #pragma unroll
    for (int i = 0; i < OWN; i++)
        #pragma unroll
        for (int j = 0; j < OWN; j++) scores[own_row(i) * SCORES + own_column(j)] = p[i][j];
    __syncwarp();
    #pragma unroll 2
    for (int k = 0; k < SIZE; k += WIDE) {
        Wide x[OWN];
        #pragma unroll
        for (int i = 0; i < OWN; i++) x[i] = *(const Wide*)(scores + own_row(i) * SCORES + k);
        #pragma unroll
        for (int w = 0; w < WIDE; w++)
            #pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                real y = b[(k + w) * ROW + min(own_column(j), DEPTH - 1)];
                #pragma unroll
                for (int i = 0; i < OWN; i++) c[i][j] += x[i].x[w] * y;
            }
    }
}

// Own rows and columns of a result times a factor a row, from row `first` on.
template <class T>
__device__ __forceinline__ void store(T* to, int stride, int first, int tokens, const real (&c)[OWN][COLUMNS],
                                      const real (&factor)[OWN]) {
    #pragma unroll
    for (int i = 0; i < OWN; i++)
        #pragma unroll
        for (int j = 0; j < COLUMNS; j++)
            if (first + own_row(i) < tokens && own_column(j) < DEPTH)
                write(to + (long long)(first + own_row(i)) * stride + own_column(j), c[i][j] * factor[i]);
}

__device__ __forceinline__ real over_row_sum(real x) {
    for (int far = 8; far > 0; far /= 2) x += __shfl_xor_sync(0xFFFFFFFF, x, far);
    return x;
}

__device__ __forceinline__ real over_row_max(real x) {
    for (int far = 8; far > 0; far /= 2) {
        real other = __shfl_xor_sync(0xFFFFFFFF, x, far);
        x = other > x ? other : x;
    }
    return x;
}
"""

FORWARD = r"""
extern "C" __global__ void __launch_bounds__(THREADS)
attention(const QKV* qkv, OUT* out, real* sums, real scale, int tokens, int heads) {
    extern __shared__ Wide memory[];
    real *queries = (real*)memory, *keys = queries + SIZE * ROW, *values = keys + SIZE * ROW;
    real* scores = values + SIZE * ROW;
    const int tiles = (tokens + SIZE - 1) / SIZE;
    const Head head = head_of_block(tiles, tokens, heads);
    const int first = (tiles - 1 - blockIdx.x / (gridDim.x / tiles)) * SIZE, stride = 3 * head.width;
    const QKV *q = qkv + head.qkv, *k = q + head.width, *v = k + head.width;

    load(queries, q, stride, first, tokens);
    real o[OWN][COLUMNS] = {}, largest[OWN], sum[OWN] = {};
    for (int i = 0; i < OWN; i++) largest[i] = -FAR;
    for (int first_key = 0; first_key < min(first + SIZE, tokens); first_key += SIZE) {
        __syncthreads();  // all are done with the tile before
        load(keys, k, stride, first_key, tokens);
        load(values, v, stride, first_key, tokens);
        __syncthreads();
        real s[OWN][OWN] = {};
        multiply_rows(s, queries, keys);
        #pragma unroll
        for (int i = 0; i < OWN; i++) {
            real top = largest[i];
            #pragma unroll
            for (int j = 0; j < OWN; j++) {
                if (first_key + own_column(j) > first + own_row(i)) s[i][j] = -FAR;
                top = s[i][j] > top ? s[i][j] : top;
            }
            top = over_row_max(top);
            real factor = exp2((largest[i] - top) * scale);
            largest[i] = top;
            sum[i] *= factor;
            #pragma unroll
            for (int j = 0; j < COLUMNS; j++) o[i][j] *= factor;
            #pragma unroll
            for (int j = 0; j < OWN; j++) {
                s[i][j] = exp2((s[i][j] - top) * scale);
                sum[i] += s[i][j];
            }
        }
        multiply_sums(o, s, scores, values);
    }
    real inverse[OWN];
    #pragma unroll
    for (int i = 0; i < OWN; i++) {
        real total = over_row_sum(sum[i]);
        int row = first + own_row(i);
        inverse[i] = 1 / total;
        if (own_column(0) == 0 && row < tokens)
            sums[(long long)head.pair * tokens + row] = largest[i] * scale + log2(total);
    }
    store(out + head.out, head.width, first, tokens, o, inverse);
}
"""

QUERIES = r"""
extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_queries(const QKV* qkv, const OUT* out, const DOUT* dout, DQKV* dqkv, const real* sums, real* delta,
                           real scale, real dq_scale, int tokens, int heads) {
    extern __shared__ Wide memory[];
    real *queries = (real*)memory, *gradients = queries + SIZE * ROW, *keys = gradients + SIZE * ROW;
    real *values = keys + SIZE * ROW, *scores = values + SIZE * ROW;
    const int tiles = (tokens + SIZE - 1) / SIZE;
    const Head head = head_of_block(tiles, tokens, heads);
    const int first = (tiles - 1 - blockIdx.x / (gridDim.x / tiles)) * SIZE, stride = 3 * head.width;
    const QKV *q = qkv + head.qkv, *k = q + head.width, *v = k + head.width;

    load(queries, q, stride, first, tokens);
    load(gradients, dout + head.out, head.width, first, tokens);
    real total[OWN], along[OWN], factor[OWN], dq[OWN][COLUMNS] = {};
    #pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = first + own_row(i);
        const long long at = (long long)head.pair * tokens + row, start = head.out + (long long)row * head.width;
        real products = 0;
        if (row < tokens)
            for (int d = own_column(0); d < DEPTH; d += 16) products += read(out + start + d) * read(dout + start + d);
        along[i] = over_row_sum(products);
        total[i] = row < tokens ? sums[at] : FAR;
        factor[i] = dq_scale;
        if (own_column(0) == 0 && row < tokens) delta[at] = along[i];
    }
    for (int first_key = 0; first_key < min(first + SIZE, tokens); first_key += SIZE) {
        __syncthreads();  // all are done with the tile before
        load(keys, k, stride, first_key, tokens);
        load(values, v, stride, first_key, tokens);
        __syncthreads();
        real p[OWN][OWN] = {}, ds[OWN][OWN] = {};
        multiply_rows(p, queries, keys);
        multiply_rows(ds, gradients, values);
        #pragma unroll
        for (int i = 0; i < OWN; i++)
            #pragma unroll
            for (int j = 0; j < OWN; j++) {
                bool later = first_key + own_column(j) > first + own_row(i);
                ds[i][j] = later ? 0 : exp2(p[i][j] * scale - total[i]) * (ds[i][j] - along[i]);
            }
        multiply_sums(dq, ds, scores, keys);
    }
    store(dqkv + head.qkv, stride, first, tokens, dq, factor);
}
"""

KEYS = r"""
extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_keys(const QKV* qkv, const DOUT* dout, DQKV* dqkv, const real* sums, const real* delta, real scale,
                        real dk_scale, int tokens, int heads) {
    extern __shared__ Wide memory[];
    real *queries = (real*)memory, *gradients = queries + SIZE * ROW, *keys = gradients + SIZE * ROW;
    real *values = keys + SIZE * ROW, *scores = values + SIZE * ROW;
    const int tiles = (tokens + SIZE - 1) / SIZE;
    const Head head = head_of_block(tiles, tokens, heads);
    const int first = blockIdx.x / (gridDim.x / tiles) * SIZE, stride = 3 * head.width;
    const QKV *q = qkv + head.qkv, *k = q + head.width, *v = k + head.width;
    const long long rows = (long long)head.pair * tokens;

    load(keys, k, stride, first, tokens);
    load(values, v, stride, first, tokens);
    real dk[OWN][COLUMNS] = {}, dv[OWN][COLUMNS] = {}, factor[OWN];
    for (int first_query = first; first_query < tokens; first_query += SIZE) {
        __syncthreads();  // all are done with the tile before
        load(queries, q, stride, first_query, tokens);
        load(gradients, dout + head.out, head.width, first_query, tokens);
        __syncthreads();
        real p[OWN][OWN] = {}, ds[OWN][OWN] = {};  // a row a key
        multiply_rows(p, keys, queries);
        multiply_rows(ds, values, gradients);
        #pragma unroll
        for (int j = 0; j < OWN; j++) {
            const int query = first_query + own_column(j);
            const real total = query < tokens ? sums[rows + query] : FAR;
            const real along = query < tokens ? delta[rows + query] : 0;
            #pragma unroll
            for (int i = 0; i < OWN; i++) {
                p[i][j] = first + own_row(i) > query ? 0 : exp2(p[i][j] * scale - total);
                ds[i][j] = p[i][j] * (ds[i][j] - along);
            }
        }
        multiply_sums(dv, p, scores, gradients);
        multiply_sums(dk, ds, scores, queries);
    }
    for (int i = 0; i < OWN; i++) factor[i] = dk_scale;
    store(dqkv + head.qkv + head.width, stride, first, tokens, dk, factor);
    for (int i = 0; i < OWN; i++) factor[i] = 1;
    store(dqkv + head.qkv + 2 * head.width, stride, first, tokens, dv, factor);
}
"""
