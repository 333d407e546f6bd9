"""CUDA C++ of what looks at whole rows or columns: layer norm, cross-entropy, sums over rows. See `cuda_source`."""

SOURCE = r"""
// A warp a row. xhat is what backward needs of x.
template <int N>
__device__ void normalise(const real* x, const real* gain, const real* bias, real eps, narrow* y, narrow* xhat,
                          real* rstd, long long row, long long columns) {
    long long start = row * columns;
    int first = threadIdx.x % 32 * N;
    real sum = 0, squares = 0, v[N], g[N], b[N];
    for (long long j = first; j < columns; j += 32 * N) {
        load<N>(v, x + start + j);
        #pragma unroll
        for (int i = 0; i < N; i++) sum += v[i];
    }
    real mean = warp_sum(sum) / columns;
    for (long long j = first; j < columns; j += 32 * N) {
        load<N>(v, x + start + j);
        #pragma unroll
        for (int i = 0; i < N; i++) squares += (v[i] - mean) * (v[i] - mean);
    }
    real scale = 1 / sqrt(warp_sum(squares) / columns + eps);
    for (long long j = first; j < columns; j += 32 * N) {
        load<N>(v, x + start + j);
        load<N>(g, gain + j);
        load<N>(b, bias + j);
        #pragma unroll
        for (int i = 0; i < N; i++) v[i] = (v[i] - mean) * scale, b[i] += g[i] * v[i];
        store<N>(xhat + start + j, v);
        store<N>(y + start + j, b);
    }
    if (threadIdx.x % 32 == 0) rstd[row] = scale;
}

extern "C" __global__ void layer_norm(const real* x, const real* gain, const real* bias, real eps, narrow* y,
                                      narrow* xhat, real* rstd, long long rows, long long columns) {
    long long row = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / 32;
    if (row >= rows) return;
    if (packed(columns, x, gain, bias, y, xhat)) normalise<8>(x, gain, bias, eps, y, xhat, rstd, row, columns);
    else normalise<1>(x, gain, bias, eps, y, xhat, rstd, row, columns);
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = gain dy, written or added; sums += dy xhat, and `width` behind
// that dy. In sums the columns of a warp's packs are reordered, so that its threads touch different banks.
template <int N>
__device__ void normalise_back(const narrow* dy, const narrow* xhat, real rstd, const real* gain, real* dx, real* sums,
                               int width, bool add, long long start, long long columns) {
    int first = threadIdx.x % 32 * N;
    real sum = 0, along = 0, d[N], h[N], g[N];
    for (long long j = first; j < columns; j += 32 * N) {
        load<N>(d, dy + start + j);
        load<N>(h, xhat + start + j);
        load<N>(g, gain + j);
        #pragma unroll
        for (int i = 0; i < N; i++) {
            sum += g[i] * d[i];
            along += g[i] * d[i] * h[i];
            real* at = sums + (j - first) + i * 32 + threadIdx.x % 32;
            at[0] += d[i] * h[i];
            at[width] += d[i];
        }
    }
    real mean = warp_sum(sum) / columns, mean_along = warp_sum(along) / columns;
    for (long long j = first; j < columns; j += 32 * N) {
        load<N>(d, dy + start + j);
        load<N>(h, xhat + start + j);
        load<N>(g, gain + j);
        #pragma unroll
        for (int i = 0; i < N; i++) d[i] = rstd * (g[i] * d[i] - mean - h[i] * mean_along);
        if (add) {
            load<N>(g, dx + start + j);
            #pragma unroll
            for (int i = 0; i < N; i++) d[i] += g[i];
        }
        store<N>(dx + start + j, d);
    }
}

// Each warp of all blocks takes rows in turns, and has 2 width sums in shared memory (width: columns to a multiple of
// 256), of which each block leaves the totals in parts (blocks, 2, columns).
extern "C" __global__ void layer_norm_backward(const narrow* dy, const narrow* xhat, const real* rstd, const real* gain,
                                               real* dx, real* parts, int add, long long rows, long long columns) {
    extern __shared__ real sums[];
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, width = (columns + 255) / 256 * 256;
    for (int j = threadIdx.x; j < 2 * width * warps; j += blockDim.x) sums[j] = 0;
    __syncthreads();
    real* mine = sums + 2 * width * warp;
    bool fits = packed(columns, dy, xhat, gain, dx);
    for (long long row = (long long)blockIdx.x * warps + warp; row < rows; row += (long long)gridDim.x * warps) {
        if (fits) normalise_back<8>(dy, xhat, rstd[row], gain, dx, mine, width, add, row * columns, columns);
        else normalise_back<1>(dy, xhat, rstd[row], gain, dx, mine, width, add, row * columns, columns);
    }
    __syncthreads();
    for (int j = threadIdx.x; j < 2 * width; j += blockDim.x) {
        int place = j % width, column = fits ? place / 256 * 256 + place % 32 * 8 + place % 256 / 32 : place;
        if (column >= columns) continue;
        real total = 0;
        for (int w = 0; w < warps; w++) total += sums[2 * width * w + j];
        parts[(blockIdx.x * 2 + j / width) * columns + column] = total;
    }
}

// out[j] = the sum of x[:, j], from column `half` on in `other`: a block has 32 columns, its warps take rows in turns.
extern "C" __global__ void add_parts(const real* x, real* out, real* other, long long half, long long rows,
                                     long long columns) {
    __shared__ real sums[32][33];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    long long column = blockIdx.x * 32LL + lane;
    real sum = 0;
    if (column < columns) {
        #pragma unroll 8
        for (long long row = warp; row < rows; row += warps) sum += x[row * columns + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= columns) return;
    for (int w = 1; w < warps; w++) sum += sums[w][lane];
    *(column < half ? out + column : other + column - half) = sum;
}

// parts (gridDim.x / tiles, columns): sums over as many stretches of rows; a warp has 32 N columns.
template <int N>
__device__ void sum_rows(const narrow* x, real* sums, real* parts, int tiles, long long rows, long long columns) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tile = blockIdx.x % tiles, part = blockIdx.x / tiles;
    long long step = gridDim.x / tiles * 8LL, column = (tile * 32LL + lane) * N;
    real total[N] = {}, v[N];
    if (column < columns) {
        #pragma unroll 4
        for (long long row = part * 8LL + warp; row < rows; row += step) {
            load<N>(v, x + row * columns + column);
            #pragma unroll
            for (int i = 0; i < N; i++) total[i] += v[i];
        }
    }
    #pragma unroll
    for (int i = 0; i < N; i++) sums[(warp * N + i) * 32 + lane] = total[i];
    __syncthreads();
    if (warp > 0 || column >= columns) return;
    #pragma unroll
    for (int i = 0; i < N; i++) {
        for (int w = 1; w < 8; w++) total[i] += sums[(w * N + i) * 32 + lane];
        parts[part * columns + column + i] = total[i];
    }
}

extern "C" __global__ void column_sums(const narrow* x, real* parts, int tiles, int packs, long long rows,
                                       long long columns) {
    __shared__ real sums[8 * 8 * 32];
    if (packs) sum_rows<8>(x, sums, parts, tiles, rows, columns);
    else sum_rows<1>(x, sums, parts, tiles, rows, columns);
}

// A block a row: read once for the largest and the sum, and once more, out of the cache, to write the gradient.
template <int N>
__device__ void cross_entropy(narrow* row, int target, real* loss, real scale, int write, long long columns) {
    real largest = number(row[0]), sum = 0, v[N];
    long long whole = columns / N * N;
    for (long long j = threadIdx.x * N; j < whole; j += blockDim.x * N) {
        load<N>(v, row + j);
        real top = largest;
        #pragma unroll
        for (int i = 0; i < N; i++) top = v[i] > top ? v[i] : top;
        sum *= quick_exp(largest - top);
        largest = top;
        #pragma unroll
        for (int i = 0; i < N; i++) sum += quick_exp(v[i] - largest);
    }
    for (long long j = whole + threadIdx.x; j < columns; j += blockDim.x) {
        real x = number(row[j]), top = x > largest ? x : largest;
        sum = sum * quick_exp(largest - top) + quick_exp(x - top);
        largest = top;
    }
    real top = block_max(largest);
    sum = block_sum(sum * quick_exp(largest - top));
    if (threadIdx.x == 0) *loss = log(sum) - (number(row[target]) - top);
    __syncthreads();
    if (!write) return;
    real factor = scale / sum;
    for (long long j = threadIdx.x * N; j < whole; j += blockDim.x * N) {
        load<N>(v, row + j);
        #pragma unroll
        for (int i = 0; i < N; i++) v[i] = factor * quick_exp(v[i] - top) - (j + i == target ? scale : real(0));
        store<N>(row + j, v);
    }
    for (long long j = whole + threadIdx.x; j < columns; j += blockDim.x)
        put(row[j], factor * quick_exp(number(row[j]) - top) - (j == target ? scale : real(0)));
}

// z: rows of `columns` logits, `step` apart.
extern "C" __global__ void softmax_cross_entropy(narrow* z, const int* y, real* losses, real scale, int write,
                                                 long long columns, long long step) {
    narrow* row = z + blockIdx.x * step;
    if (packed(step, z)) cross_entropy<8>(row, y[blockIdx.x], losses + blockIdx.x, scale, write, columns);
    else cross_entropy<1>(row, y[blockIdx.x], losses + blockIdx.x, scale, write, columns);
}
"""
