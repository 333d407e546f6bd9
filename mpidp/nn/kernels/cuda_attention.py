"""CUDA C++ of causal attention on tensor cores, without the T x T matrix (Dao 2023, arXiv:2307.08691).

O = softmax(scale · q kᵀ) v a head; q, k, v and their gradients are used where they lie: thirds of (B, T, 3 H DEPTH).
A warp owns 16 M rows of a tile, and all that it computes stays in its registers. Probabilities are 2^(S - L) with S in
units of log 2 and L the log₂ of a row's sum, kept from forward (B, H, T).

Defined from outside: DEPTH, a multiple of 16; QKV and OUT, the types in which activations are kept, float or word (16
bits of the products' own type); WARPS of a block; M_TILES = M; TILE_ROWS of a passing tile, of which two are held.
"""

HEAD = r"""
// Which head of which sample (pair = sample * heads + head), and where its thirds begin.
struct Head { int pair, width; long long qkv, out; };

__device__ __forceinline__ Head head_of_block(int tiles, int tokens, int heads) {
    const int pair = blockIdx.x % (gridDim.x / tiles), width = heads * DEPTH, column = pair % heads * DEPTH;
    const long long row = (long long)(pair / heads) * tokens;
    return Head{pair, width, row * 3 * width + column, row * width + column};
}
"""

TILES = r"""
typedef unsigned short word;
const int THREADS = 32 * WARPS;
const float FAR = 1e38f;  // beyond all scores: 2^-FAR is 0

__device__ __forceinline__ void read_eight(float (&x)[8], const float* from) {
    struct alignas(16) Numbers { float x[4]; } low = ((const Numbers*)from)[0], high = ((const Numbers*)from)[1];
    #pragma unroll
    for (int i = 0; i < 4; i++) x[i] = low.x[i], x[4 + i] = high.x[i];
}

__device__ __forceinline__ void load_eight(element* to, const float* from, bool there) {
    float x[8] = {};
    if (there) read_eight(x, from);
#ifdef TF32
    Four low, high;
    #pragma unroll
    for (int i = 0; i < 4; i++) low.x[i] = rounded_to_tf32(x[i]), high.x[i] = rounded_to_tf32(x[4 + i]);
    ((Four*)to)[0] = low, ((Four*)to)[1] = high;
#else
    Four words;
    #pragma unroll
    for (int i = 0; i < 4; i++) words.x[i] = pack(x[2 * i], x[2 * i + 1]);
    *(Four*)to = words;
#endif
}

#ifndef TF32
__device__ __forceinline__ void read_eight(float (&x)[8], const word* from) {
    Four words = *(const Four*)from;
    #pragma unroll
    for (int i = 0; i < 8; i++) x[i] = widened(words.x[i / 2] >> 16 * (i % 2));
}

__device__ __forceinline__ void load_eight(element* to, const word* from, bool there) { copy_sixteen(to, from, there); }
#endif

// Rows [first, first + ROWS), `stride` apart, to a tile; zeros from row `tokens` on.
template <int ROWS, class T>
__device__ __forceinline__ void load(element* to, const T* from, int stride, int first, int tokens) {
    const int count = ROWS * (DEPTH / 8);
    #pragma unroll
    for (int i = 0; i < (count + THREADS - 1) / THREADS; i++) {
        int at = i * THREADS + threadIdx.x, row = at / (DEPTH / 8), column = at % (DEPTH / 8) * 8;
        bool there = first + row < tokens;
        if (count % THREADS == 0 || at < count)
            load_eight(to + row * ROW + column, from + (long long)(there ? first + row : 0) * stride + column, there);
    }
}

// The warp's rows of a result times a factor each, from row `first` on; `spare`: its rows of a tile that is done with.
template <int M>
__device__ __forceinline__ void store(float* to, int stride, int first, int tokens, const float (&x)[M][DEPTH / 8][4],
                                      const float (&factor)[M][2], element* spare) {
    #pragma unroll
    for (int m = 0; m < M; m++)
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first + 16 * m + 8 * half + lane() / 4;
            float* start = to + (long long)row * stride + 2 * (lane() % 4);
            if (row < tokens)
                #pragma unroll
                for (int n = 0; n < DEPTH / 8; n++) {
                    const float *pair = x[m][n] + 2 * half, times = factor[m][half];
                    *(Two*)(start + 8 * n) = Two{{pair[0] * times, pair[1] * times}};
                }
        }
}

#ifndef TF32
// Through `spare`, so that a row's words go out 16 bytes at a time.
template <int M>
__device__ __forceinline__ void store(word* to, int stride, int first, int tokens, const float (&x)[M][DEPTH / 8][4],
                                      const float (&factor)[M][2], element* spare) {
    __syncwarp();
    #pragma unroll
    for (int m = 0; m < M; m++)
        #pragma unroll
        for (int half = 0; half < 2; half++)
            #pragma unroll
            for (int n = 0; n < DEPTH / 8; n++)
                *(unsigned*)(spare + (16 * m + 8 * half + lane() / 4) * ROW + 8 * n + 2 * (lane() % 4)) =
                    pack(x[m][n][2 * half] * factor[m][half], x[m][n][2 * half + 1] * factor[m][half]);
    __syncwarp();
    #pragma unroll
    for (int at = lane(); at < 16 * M * (DEPTH / 8); at += 32) {
        const int row = at / (DEPTH / 8), column = at % (DEPTH / 8) * 8;
        if (first + row < tokens)
            *(Four*)(to + (long long)(first + row) * stride + column) = *(const Four*)(spare + row * ROW + column);
    }
}
#endif

__device__ __forceinline__ float over_four_lanes_sum(float x) {
    x += __shfl_xor_sync(0xFFFFFFFF, x, 1);
    return x + __shfl_xor_sync(0xFFFFFFFF, x, 2);
}

__device__ __forceinline__ float over_four_lanes_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 2));
}

// c: scores of queries from `query` on and keys from `key` on, a column a key.
template <int M, int N>
__device__ __forceinline__ void hide_later_keys(float (&c)[M][N][4], int query, int key) {
    #pragma unroll
    for (int m = 0; m < M; m++)
        #pragma unroll
        for (int n = 0; n < N; n++)
            #pragma unroll
            for (int i = 0; i < 4; i++)
                if (key + 8 * n + 2 * (lane() % 4) + i % 2 > query + 16 * m + i / 2 * 8 + lane() / 4) c[m][n][i] = -FAR;
}

"""

FORWARD = r"""
// A block a tile of queries, those with most keys first. scale: log2(e) / sqrt(DEPTH).
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention(const QKV* qkv, OUT* out, float* sums, float scale, int tokens, int heads) {
    const int M = M_TILES, KEYS = TILE_ROWS, ROWS = 16 * M * WARPS;
    extern __shared__ Four memory[];
    element *queries = (element*)memory, *keys = queries + ROWS * ROW, *values = keys + 2 * KEYS * ROW;
    const int tiles = (tokens + ROWS - 1) / ROWS;
    const Head head = head_of_block(tiles, tokens, heads);
    const int first = (tiles - 1 - blockIdx.x / (gridDim.x / tiles)) * ROWS, end = min(first + ROWS, tokens);
    const int warp = threadIdx.x / 32 * 16 * M, stride = 3 * head.width;
    const QKV *q = qkv + head.qkv, *k = q + head.width, *v = k + head.width;

    load<ROWS>(queries, q, stride, first, tokens);
    load<KEYS>(keys, k, stride, 0, tokens);
    load<KEYS>(values, v, stride, 0, tokens);
    float o[M][DEPTH / 8][4] = {}, largest[M][2], sum[M][2] = {};
    #pragma unroll
    for (int m = 0; m < M; m++) largest[m][0] = largest[m][1] = -FAR;

    for (int j = 0, stage = 0; j < end; j += KEYS, stage ^= 1) {
        wait_for_copies();
        __syncthreads();  // this tile is there, and all are done with the one before
        if (j + KEYS < end) {
            load<KEYS>(keys + (stage ^ 1) * KEYS * ROW, k, stride, j + KEYS, tokens);
            load<KEYS>(values + (stage ^ 1) * KEYS * ROW, v, stride, j + KEYS, tokens);
        }
        const int row = first + warp;
        if (j > row + 16 * M - 1) continue;  // all keys later than the warp's queries
        float s[M][KEYS / 8][4] = {};
        multiply_rows(s, queries, warp, keys + stage * KEYS * ROW, 0);
        if (j + KEYS - 1 > row) hide_later_keys(s, row, j);
        #pragma unroll
        for (int m = 0; m < M; m++)
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                float top = largest[m][half], shift, factor;
                #pragma unroll
                for (int n = 0; n < KEYS / 8; n++) top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
                top = over_four_lanes_max(top);
                factor = two_to((largest[m][half] - top) * scale);
                largest[m][half] = top;
                shift = top * scale;
                sum[m][half] *= factor;
                #pragma unroll
                for (int n = 0; n < DEPTH / 8; n++) o[m][n][2 * half] *= factor, o[m][n][2 * half + 1] *= factor;
                #pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
                    #pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        s[m][n][i] = two_to(s[m][n][i] * scale - shift);
                        sum[m][half] += s[m][n][i];
                    }
            }
        multiply_sums(o, s, values + stage * KEYS * ROW, 0);
    }
    float inverse[M][2];
    #pragma unroll
    for (int m = 0; m < M; m++)
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = over_four_lanes_sum(sum[m][half]);
            int row = first + warp + 16 * m + 8 * half + lane() / 4;
            inverse[m][half] = 1 / total;
            if (lane() % 4 == 0 && row < tokens)
                sums[(long long)head.pair * tokens + row] = largest[m][half] * scale + log2f(total);
        }
    store(out + head.out, head.width, first + warp, tokens, o, inverse, queries + warp * ROW);
}
"""
