"""CUDA C++ of what is done element by element, and of embeddings. See `cuda_source`."""

SOURCE = r"""
__device__ __forceinline__ long long thread() { return blockIdx.x * (long long)blockDim.x + threadIdx.x; }
__device__ __forceinline__ long long threads() { return gridDim.x * (long long)blockDim.x; }

// y = x in the type of products.
extern "C" __global__ void round_to_narrow(const real* x, narrow* y, long long count) {
    real v[8];
    long long packs = packed(8, x, y) ? count / 8 : 0;
    for (long long i = thread(); i < packs; i += threads()) {
        load<8>(v, x + 8 * i);
        store<8>(y + 8 * i, v);
    }
    for (long long i = 8 * packs + thread(); i < count; i += threads()) put(y[i], x[i]);
}

// x += y + bias, rows of `columns`; bias may be null. Of two types or of one.
template <int N, class T, class U>
__device__ void add_packs(T* x, const U* y, const real* bias, long long count, long long columns) {
    real v[N], w[N];
    for (long long i = thread() * N; i < count; i += threads() * N) {
        load<N>(w, y + i);
        if (bias) {
            load<N>(v, bias + i % columns);
            #pragma unroll
            for (int k = 0; k < N; k++) w[k] += v[k];
        }
        load<N>(v, x + i);
        #pragma unroll
        for (int k = 0; k < N; k++) v[k] += w[k];
        store<N>(x + i, v);
    }
}

extern "C" __global__ void add(real* x, const narrow* y, const real* bias, long long count, long long columns) {
    if (packed(columns, x, y, bias)) add_packs<8>(x, y, bias, count, columns);
    else add_packs<1>(x, y, bias, count, columns);
}

template <int N>
__device__ void shift(narrow* y, const real* bias, long long count, long long columns) {
    real v[N], b[N];
    for (long long i = thread() * N; i < count; i += threads() * N) {
        load<N>(v, y + i);
        load<N>(b, bias + i % columns);
        #pragma unroll
        for (int k = 0; k < N; k++) v[k] += b[k];
        store<N>(y + i, v);
    }
}

extern "C" __global__ void add_bias(narrow* y, const real* bias, long long count, long long columns) {
    if (packed(columns, y, bias)) shift<8>(y, bias, count, columns);
    else shift<1>(y, bias, count, columns);
}

// u = sqrt(2/pi) (v + 0.044715 v^3), and half (1 + tanh u) = 1 / (1 + exp(-2 u)).
__device__ __forceinline__ real share(real v) {
    const real a = 0.7978845608028654, ab = 0.035677408136300125;
    return quotient(1, 1 + quick_exp(-2 * v * (a + ab * v * v)));
}

__device__ __forceinline__ real slope(real v) {
    const real a = 0.7978845608028654, ab = 0.035677408136300125;
    real s = share(v);
    return s + 2 * v * s * (1 - s) * (a + 3 * ab * v * v);
}

// y = gelu(x + bias); or, backward, y *= the slope there. bias may be null.
template <int N, bool BACK>
__device__ void gelu_packs(const narrow* x, const real* bias, narrow* y, long long count, long long columns) {
    real v[N], w[N];
    for (long long i = thread() * N; i < count; i += threads() * N) {
        load<N>(v, x + i);
        if (bias) {
            load<N>(w, bias + i % columns);
            #pragma unroll
            for (int k = 0; k < N; k++) v[k] += w[k];
        }
        if (BACK) load<N>(w, y + i);
        #pragma unroll
        for (int k = 0; k < N; k++) v[k] = BACK ? w[k] * slope(v[k]) : v[k] * share(v[k]);
        store<N>(y + i, v);
    }
}

extern "C" __global__ void gelu(const narrow* x, const real* bias, narrow* y, long long count, long long columns) {
    if (packed(columns, x, bias, y)) gelu_packs<8, false>(x, bias, y, count, columns);
    else gelu_packs<1, false>(x, bias, y, count, columns);
}

extern "C" __global__ void gelu_backward(const narrow* x, const real* bias, narrow* dy, long long count,
                                         long long columns) {
    if (packed(columns, x, bias, dy)) gelu_packs<8, true>(x, bias, dy, count, columns);
    else gelu_packs<1, true>(x, bias, dy, count, columns);
}

// A warp a token: y = its row of the table, and that of its position.
template <int N>
__device__ void look_up(const real* word, const real* place, real* y, long long columns) {
    real v[N], w[N];
    for (long long j = threadIdx.x % 32 * N; j < columns; j += 32 * N) {
        load<N>(v, word + j);
        load<N>(w, place + j);
        #pragma unroll
        for (int i = 0; i < N; i++) v[i] += w[i];
        store<N>(y + j, v);
    }
}

extern "C" __global__ void embedding(const int* ids, const real* table, const real* positions, real* y,
                                     long long tokens, long long count, long long columns) {
    long long at = thread() / 32;
    if (at >= count) return;
    const real *word = table + ids[at] * columns, *place = positions + at % tokens * columns;
    if (packed(columns, table, positions, y)) look_up<8>(word, place, y + at * columns, columns);
    else look_up<1>(word, place, y + at * columns, columns);
}

// A block a place. The first place of a token adds up the rows of all its places, in their order: nothing is sorted, no
// two blocks write the same row, and the bits are the same whichever is first. ids come out of the cache.
extern "C" __global__ void embedding_gradient(const int* ids, const real* dy, real* grad, long long count,
                                              long long columns) {
    __shared__ int places[1024];
    __shared__ int found[33];  // by the warps before; the last: by all
    long long here = blockIdx.x;
    int id = ids[here], lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, before = 0;
    for (long long i = threadIdx.x; i < here; i += blockDim.x) before |= ids[i] == id;
    if (threadIdx.x == 0) found[32] = 0;
    __syncthreads();
    if (before) found[32] = 1;
    __syncthreads();
    if (found[32]) return;
    real* row = grad + id * columns;
    for (long long from = here; from < count; from += blockDim.x) {
        bool one = from + threadIdx.x < count && ids[from + threadIdx.x] == id;
        unsigned votes = __ballot_sync(0xFFFFFFFFu, one);
        __syncthreads();
        if (lane == 0) found[warp] = __popc(votes);
        __syncthreads();
        int at = 0, all = 0;
        for (int w = 0; w < warps; w++) {
            if (w < warp) at += found[w];
            all += found[w];
        }
        if (one) places[at + __popc(votes & ((1u << lane) - 1))] = int(from + threadIdx.x);
        __syncthreads();
        if (all == 0) continue;
        for (long long j = threadIdx.x; j < columns; j += blockDim.x) {
            real sum = 0;
            #pragma unroll 4
            for (int k = 0; k < all; k++) sum += dy[places[k] * columns + j];
            row[j] += sum;
        }
    }
}

extern "C" __global__ void dropout_mask(const unsigned* multipliers, const unsigned* offsets, unsigned threshold,
                                        real kept, real* mask, long long samples, long long count) {
    for (long long i = thread(); i < samples * count; i += threads()) {
        unsigned x = unsigned(i % count) * multipliers[i / count] + offsets[i / count];
        x = (x ^ (x >> 16)) * 0x7FEB352Du;
        x = (x ^ (x >> 15)) * 0x846CA68Bu;
        x ^= x >> 16;
        mask[i] = x < threshold ? real(0) : kept;
    }
}
"""
