"""CUDA C++ of the kernels that CuPy compiles at run time, and what all of them share.

REAL is float or double, the type of arithmetic. NARROW is the type in which layers hand each other what goes from one
product to the next: REAL itself, or `bfloat16` or `half`, 16 bits each; then FAST is defined, and what is about to be
rounded to 16 bits may be computed with the device's own approximations. The sources need nothing but their arguments,
no header either, so that NVRTC can compile them on a machine without a GPU.

Rows are worked on by warps of 32 threads, or by blocks where they are long, in packs of 8 elements, which are one or
two loads of 16 bytes each; where rows do not begin at such places, in packs of 1. Sums are made in an order that
depends on shapes alone, so that a run repeated has the same bits.
"""

from mpidp.nn.kernels import cuda_elements, cuda_rows

HEAD = r"""
typedef REAL real;
struct bfloat16 { unsigned short bits; };
struct half { unsigned short bits; };
typedef NARROW narrow;

#ifdef FAST
__device__ __forceinline__ real quick_exp(real x) { return __expf(x); }
__device__ __forceinline__ real quotient(real x, real y) { return __fdividef(x, y); }
#else
__device__ __forceinline__ real quick_exp(real x) { return exp(x); }
__device__ __forceinline__ real quotient(real x, real y) { return x / y; }
#endif

__device__ __forceinline__ real number(real x) { return x; }
__device__ __forceinline__ real number(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ void put(real& to, real x) { to = x; }

#ifdef __CUDA_ARCH__
__device__ __forceinline__ real number(half x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ void put(half& to, real x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"((float)x)); }
__device__ __forceinline__ void put(bfloat16& to, real x) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"((float)x));
}
#else  // a host's compiler, to which the same numbers are not known: by their bits
__device__ real number(half x) {
    unsigned sign = (x.bits & 0x8000u) << 16, size = x.bits & 0x7FFF;
    if (size >= 0x7C00) return __uint_as_float(sign | 0x7F800000 | size << 13);
    return __uint_as_float(sign | size << 13) * 5.192296858534828e33f;  // 2^112
}
__device__ void put(half& to, real x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    if (size > 0x7F800000) size = 0x7FFF;
    else if (size >= 0x477FF000) size = 0x7C00;
    else if (size < 0x38800000) size = __float_as_uint(__uint_as_float(size) + 0.5f) - 0x3F000000;
    else size = (size + 0xFFF + (size >> 13 & 1) - 0x38000000) >> 13;
    to.bits = sign | size;
}
__device__ void put(bfloat16& to, real x) {
    unsigned bits = __float_as_uint(x);
    to.bits = (bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
#endif

// N elements at once.
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack { T x[N]; };

template <int N, class T> __device__ __forceinline__ void load(real (&to)[N], const T* from) {
    Pack<T, N> pack = *(const Pack<T, N>*)from;
    #pragma unroll
    for (int i = 0; i < N; i++) to[i] = number(pack.x[i]);
}

template <int N, class T> __device__ __forceinline__ void store(T* to, const real (&from)[N]) {
    Pack<T, N> pack;
    #pragma unroll
    for (int i = 0; i < N; i++) put(pack.x[i], from[i]);
    *(Pack<T, N>*)to = pack;
}

// Whether packs of 8 begin at multiples of 16 bytes, for rows of so many elements.
__device__ __forceinline__ bool packed(long long columns, const void* a, const void* b = 0, const void* c = 0,
                                       const void* d = 0, const void* e = 0) {
    return columns % 8 == 0 && !(((size_t)a | (size_t)b | (size_t)c | (size_t)d | (size_t)e) % 16);
}

__device__ __forceinline__ real warp_sum(real x) {
    #pragma unroll
    for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, other);
    return x;
}

__device__ __forceinline__ real warp_max(real x) {
    #pragma unroll
    for (int other = 16; other > 0; other /= 2) {
        real y = __shfl_xor_sync(0xFFFFFFFFu, x, other);
        x = y > x ? y : x;
    }
    return x;
}

__shared__ real of_warps[32];

__device__ real block_sum(real x) {  // of a block of whole warps; every thread gets it
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? of_warps[threadIdx.x % 32] : real(0));
    __syncthreads();
    return x;
}

__device__ real block_max(real x) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warp_max(of_warps[threadIdx.x % 32 < blockDim.x / 32 ? threadIdx.x % 32 : 0]);
    __syncthreads();
    return x;
}
"""

SOURCE = HEAD + cuda_rows.SOURCE + cuda_elements.SOURCE


def definitions(real: str, narrow: str | None = None) -> tuple[str, ...]:
    """The compiler's options for arithmetic in `real`, and what goes between products in `narrow` (None: the same)."""
    return (f"-DREAL={real}", f"-DNARROW={narrow or real}", *(("-DFAST",) if narrow else ()))


VARIANTS = {
    (real, narrow): definitions(real, narrow)
    for real, narrow in (("float", None), ("double", None), ("float", "bfloat16"), ("float", "half"))
}
"""Of each of these a module is compiled when it is first needed."""
