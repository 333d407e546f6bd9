// What CUDA C++ has beyond C++, for a kernel that the host's compiler compiles.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

// Vectors

#define MPIDP_VECTORS(name, T)                                                              \
    struct name##1 { T x; };                                                                \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                      \
    struct name##3 { T x, y, z; };                                                          \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };      \
    inline name##1 make_##name##1(T x) { return {x}; }                                      \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                              \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                      \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
MPIDP_VECTORS(char, signed char)
MPIDP_VECTORS(uchar, unsigned char)
MPIDP_VECTORS(short, short)
MPIDP_VECTORS(ushort, unsigned short)
MPIDP_VECTORS(int, int)
MPIDP_VECTORS(uint, unsigned)
MPIDP_VECTORS(longlong, long long)
MPIDP_VECTORS(ulonglong, unsigned long long)
MPIDP_VECTORS(float, float)
MPIDP_VECTORS(double, double)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Where a thread is, and what it waits for: blocks.cpp

const size_t MPIDP_SHARED = 227 << 10;
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
extern char mpidp_dynamic_shared[];
const int warpSize = 32;

extern "C" {
void mpidp_barrier(int line);
void mpidp_warp(unsigned mask);
unsigned mpidp_lane();
char *mpidp_warp_memory();
void mpidp_fail(const char *text);
}

#define __syncthreads() mpidp_barrier(__LINE__)
inline void __syncwarp(unsigned mask = ~0u) { mpidp_warp(mask); }

// Exchange in a warp: all lanes of the mask lay their value down, then each takes one up.
template <class T> T mpidp_exchange(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) <= 16, "a shuffle moves at most 16 bytes here");
    char *slots = mpidp_warp_memory();
    memcpy(slots + 16 * mpidp_lane(), &value, sizeof(T));
    mpidp_warp(mask);
    if (!(mask >> from & 1)) mpidp_fail("a lane reads one that is not in the mask");
    memcpy(&value, slots + 16 * from, sizeof(T));
    mpidp_warp(mask);
    return value;
}
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    unsigned first = mpidp_lane() / width * width;
    return mpidp_exchange(mask, value, first + unsigned(from) % width);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    unsigned lane = mpidp_lane(), other = lane ^ bits;
    return mpidp_exchange(mask, value, other / width <= lane / width ? other : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    unsigned lane = mpidp_lane(), end = (lane / width + 1) * width;
    return mpidp_exchange(mask, value, lane + by < end ? lane + by : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    unsigned lane = mpidp_lane(), first = lane / width * width;
    return mpidp_exchange(mask, value, lane >= first + by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    char *slots = mpidp_warp_memory();
    unsigned votes = 0;
    slots[16 * mpidp_lane()] = predicate != 0;
    mpidp_warp(mask);
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && slots[16 * lane] == 1) votes |= 1u << lane;
    mpidp_warp(mask);
    return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

// Atomics, also between processes that share memory

template <class T, class F> T mpidp_atomic(T *at, F change) {
    T old = *at, fresh;
    do fresh = change(old);
    while (!__atomic_compare_exchange(at, &old, &fresh, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}
template <class T> T atomicAdd(T *at, T value) { return mpidp_atomic(at, [=](T old) { return T(old + value); }); }
template <class T> T atomicSub(T *at, T value) { return mpidp_atomic(at, [=](T old) { return T(old - value); }); }
template <class T> T atomicExch(T *at, T value) { return mpidp_atomic(at, [=](T) { return value; }); }
template <class T> T atomicMax(T *at, T value) { return mpidp_atomic(at, [=](T o) { return o < value ? value : o; }); }
template <class T> T atomicMin(T *at, T value) { return mpidp_atomic(at, [=](T o) { return value < o ? value : o; }); }
template <class T> T atomicOr(T *at, T value) { return mpidp_atomic(at, [=](T old) { return T(old | value); }); }
template <class T> T atomicAnd(T *at, T value) { return mpidp_atomic(at, [=](T old) { return T(old & value); }); }
template <class T> T atomicCAS(T *at, T compare, T value) {
    return mpidp_atomic(at, [=](T old) { return old == compare ? value : old; });
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }

// Arithmetic

template <class A, class B> typename std::common_type<A, B>::type max(A a, B b) { return a > b ? a : b; }
template <class A, class B> typename std::common_type<A, B>::type min(A a, B b) { return a < b ? a : b; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
template <class To, class From> To mpidp_bits(From x) {
    To y;
    static_assert(sizeof x == sizeof y, "");
    memcpy(&y, &x, sizeof y);
    return y;
}
inline int __float_as_int(float x) { return mpidp_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return mpidp_bits<unsigned>(x); }
inline float __int_as_float(int x) { return mpidp_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return mpidp_bits<float>(x); }
inline long long __double_as_longlong(double x) { return mpidp_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return mpidp_bits<double>(x); }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned long long)x * y >> 32; }
template <class T> T __ldg(const T *at) { return *at; }

// Keywords

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static __attribute__((section("cuda_shared")))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))

// A kernel's call with arguments that lie behind pointers, and how many bytes each has

template <class... A> struct mpidp_kernel {
    template <int... I> struct order {};
    template <int N, int... I> struct count : count<N - 1, N - 1, I...> {};
    template <int... I> struct count<0, I...> { typedef order<I...> type; };
    template <int... I> static void call(void (*kernel)(A...), void **values, order<I...>) {
        kernel(*(A *)values[I]...);
    }
    static void run(void (*kernel)(A...), void **values) {
        call(kernel, values, typename count<sizeof...(A)>::type());
    }
    static const int *sizes() {
        static const int found[] = {int(sizeof(A))..., 0};
        return found;
    }
};
template <class... A> mpidp_kernel<A...> mpidp_of(void (*)(A...)) { return {}; }
#define MPIDP_EXPORT extern "C" __attribute__((visibility("default")))
#define MPIDP_KERNEL(name)                                                                                    \
    MPIDP_EXPORT void mpidp_run_##name(void **values) { mpidp_of(name).run(name, values); }                   \
    MPIDP_EXPORT const int *mpidp_sizes_##name() { return mpidp_of(name).sizes(); }

#include "ptx.h"
