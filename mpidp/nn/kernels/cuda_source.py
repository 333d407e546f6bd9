"""CUDA C++ of the kernels that CuPy compiles at run time; REAL is float or double.

Each needs nothing but its arguments, so that NVRTC can compile all of them on a machine without a GPU, and none relies
on the number of threads of a block (a power of two, at most 1024), so that a host compiler can run them with one.
Kernels of rows get one block a row.
"""

NAMES = (
    "layer_norm",
    "layer_norm_backward",
    "gelu",
    "softmax_cross_entropy",
    "embedding_gradient",
    "dropout_mask",
    "causal_softmax",
    "causal_softmax_backward",
)

SOURCE = r"""
typedef REAL real;

__device__ real block_sum(real value) {
    __shared__ real parts[1024];
    parts[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
        __syncthreads();
    }
    real total = parts[0];
    __syncthreads();
    return total;
}

__device__ real block_max(real value) {
    __shared__ real parts[1024];
    parts[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && parts[threadIdx.x + half] > parts[threadIdx.x])
            parts[threadIdx.x] = parts[threadIdx.x + half];
        __syncthreads();
    }
    real largest = parts[0];
    __syncthreads();
    return largest;
}

extern "C" __global__ void layer_norm(const real* x, const real* gain, const real* bias, real eps,
                                      real* y, real* xhat, real* rstd, long long columns) {
    long long start = blockIdx.x * columns;
    real sum = 0, squares = 0;
    for (long long j = threadIdx.x; j < columns; j += blockDim.x) sum += x[start + j];
    real mean = block_sum(sum) / columns;
    for (long long j = threadIdx.x; j < columns; j += blockDim.x) {
        real centred = x[start + j] - mean;
        squares += centred * centred;
    }
    real scale = 1 / sqrt(block_sum(squares) / columns + eps);
    for (long long j = threadIdx.x; j < columns; j += blockDim.x) {
        real normal = (x[start + j] - mean) * scale;
        xhat[start + j] = normal;
        y[start + j] = gain[j] * normal + bias[j];
    }
    if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
}

// Also writes product = dy * xhat, whose column sums are dgain.
extern "C" __global__ void layer_norm_backward(const real* dy, const real* xhat, const real* rstd, const real* gain,
                                               real* dx, real* product, long long columns) {
    long long start = blockIdx.x * columns;
    real sum = 0, along = 0;
    for (long long j = threadIdx.x; j < columns; j += blockDim.x) {
        real g = gain[j] * dy[start + j];
        sum += g;
        along += g * xhat[start + j];
        product[start + j] = dy[start + j] * xhat[start + j];
    }
    real mean = block_sum(sum) / columns, mean_along = block_sum(along) / columns;
    for (long long j = threadIdx.x; j < columns; j += blockDim.x)
        dx[start + j] = rstd[blockIdx.x] * (gain[j] * dy[start + j] - mean - xhat[start + j] * mean_along);
}

// slope may be null.
extern "C" __global__ void gelu(const real* x, real* y, real* slope, long long count) {
    const real a = 0.7978845608028654, ab = 0.035677408136300125;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
         i += (long long)gridDim.x * blockDim.x) {
        real v = x[i], square = v * v, half = real(0.5) * (1 + tanh(v * (a + ab * square)));
        y[i] = v * half;
        if (slope) slope[i] = half + 2 * v * half * (1 - half) * (a + 3 * ab * square);
    }
}

extern "C" __global__ void softmax_cross_entropy(real* z, const int* y, real* losses, real scale, int write,
                                                 long long columns) {
    real* row = z + blockIdx.x * columns;
    int target = y[blockIdx.x];
    real largest = row[0], sum = 0;
    for (long long j = threadIdx.x; j < columns; j += blockDim.x)
        if (row[j] > largest) largest = row[j];
    largest = block_max(largest);
    for (long long j = threadIdx.x; j < columns; j += blockDim.x) sum += exp(row[j] - largest);
    sum = block_sum(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = log(sum) - (row[target] - largest);
    __syncthreads();
    if (!write) return;
    for (long long j = threadIdx.x; j < columns; j += blockDim.x)
        row[j] = scale * (exp(row[j] - largest) / sum - (j == target));
}

// found: the ids in ascending order, order: where each stood. The first of a run of equal ids adds the whole run, so
// that sums are taken in one order, whatever the device does first.
extern "C" __global__ void embedding_gradient(const int* found, const long long* order, const real* dy, real* grad,
                                              long long places, long long columns) {
    for (long long i = blockIdx.x; i < places; i += gridDim.x) {
        int id = found[i];
        if (i > 0 && found[i - 1] == id) continue;
        for (long long j = threadIdx.x; j < columns; j += blockDim.x) {
            real sum = 0;
            for (long long k = i; k < places && found[k] == id; k++) sum += dy[order[k] * columns + j];
            grad[id * columns + j] += sum;
        }
    }
}

extern "C" __global__ void dropout_mask(const unsigned* multipliers, const unsigned* offsets, unsigned threshold,
                                        real kept, real* mask, long long samples, long long count) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < samples * count;
         i += (long long)gridDim.x * blockDim.x) {
        unsigned x = unsigned(i % count) * multipliers[i / count] + offsets[i / count];
        x = (x ^ (x >> 16)) * 0x7FEB352Du;
        x = (x ^ (x >> 15)) * 0x846CA68Bu;
        x ^= x >> 16;
        mask[i] = x < threshold ? real(0) : kept;
    }
}

// s (rows, tokens), row r being query r % tokens: p = softmax(scale * s) over the keys up to the query, 0 beyond.
extern "C" __global__ void causal_softmax(real* s, real scale, long long tokens) {
    long long query = blockIdx.x % tokens;
    real* row = s + blockIdx.x * tokens;
    real largest = row[0], sum = 0;
    for (long long j = threadIdx.x; j <= query; j += blockDim.x)
        if (row[j] > largest) largest = row[j];
    largest = block_max(largest);
    for (long long j = threadIdx.x; j <= query; j += blockDim.x) sum += exp(scale * (row[j] - largest));
    real inverse = 1 / block_sum(sum);
    for (long long j = threadIdx.x; j < tokens; j += blockDim.x)
        row[j] = j <= query ? exp(scale * (row[j] - largest)) * inverse : real(0);
}

// ds = scale * p * (dp - sum(p * dp)), written over dp.
extern "C" __global__ void causal_softmax_backward(const real* p, real* dp, real scale, long long tokens) {
    long long start = blockIdx.x * tokens, query = blockIdx.x % tokens;
    real sum = 0;
    for (long long j = threadIdx.x; j <= query; j += blockDim.x) sum += p[start + j] * dp[start + j];
    sum = block_sum(sum);
    for (long long j = threadIdx.x; j < tokens; j += blockDim.x)
        dp[start + j] = j <= query ? scale * p[start + j] * (dp[start + j] - sum) : real(0);
}
"""
