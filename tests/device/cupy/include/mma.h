// Matrix products by a warp (nvcuda::wmma). The lanes share out the elements in an order of our own, as on a device it is
// nobody's business: element e is x[e / 32] of lane e % 32. Inputs of 16 bits are multiplied exactly and added in float;
// tf32 inputs are cut to 10 bits of fraction.
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace nvcuda {
namespace wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
namespace precision {
struct tf32;
}
enum layout_t { mem_row_major, mem_col_major };

template <class T> struct mpidp_element { typedef T type; };
template <> struct mpidp_element<precision::tf32> { typedef float type; };

template <class Use, int M, int N, int K> struct mpidp_shape;
template <int M, int N, int K> struct mpidp_shape<matrix_a, M, N, K> { enum { rows = M, columns = K }; };
template <int M, int N, int K> struct mpidp_shape<matrix_b, M, N, K> { enum { rows = K, columns = N }; };
template <int M, int N, int K> struct mpidp_shape<accumulator, M, N, K> { enum { rows = M, columns = N }; };

template <class T> struct mpidp_depth { enum { k = 16 }; };
template <> struct mpidp_depth<precision::tf32> { enum { k = 8 }; };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    typedef typename mpidp_element<T>::type Element;
    enum { rows = mpidp_shape<Use, M, N, K>::rows, columns = mpidp_shape<Use, M, N, K>::columns };
    enum { num_elements = rows * columns / 32 };
    static_assert(M * N == 256 && (M == 16 || (K == 16 && (M == 8 || M == 32))), "wmma has no such shape");
    static_assert(std::is_same<Use, accumulator>::value || K == mpidp_depth<T>::k, "wmma has no such depth");
    Element x[num_elements];
};

template <class F> unsigned mpidp_row(int i) { return (32 * i + mpidp_lane()) / F::columns; }
template <class F> unsigned mpidp_column(int i) { return (32 * i + mpidp_lane()) % F::columns; }

inline void mpidp_check(const void *at, unsigned stride, size_t itemsize) {
    if (uintptr_t(at) % 32) mpidp_fail("wmma: the pointer is not aligned to 32 bytes");
    if (stride * itemsize % 16) mpidp_fail("wmma: the stride is not a multiple of 16 bytes");
}

template <class F, class T> void mpidp_load(F &f, const T *at, unsigned stride, bool rows) {
    mpidp_check(at, stride, sizeof(T));
    mpidp_warp(~0u);
    for (int i = 0; i < F::num_elements; i++) {
        unsigned r = mpidp_row<F>(i), c = mpidp_column<F>(i);
        f.x[i] = at[rows ? r * stride + c : c * stride + r];
    }
}
template <class Use, int M, int N, int K, class T, class P>
void load_matrix_sync(fragment<Use, M, N, K, T, row_major> &f, const P *at, unsigned stride) {
    mpidp_load(f, at, stride, true);
}
template <class Use, int M, int N, int K, class T, class P>
void load_matrix_sync(fragment<Use, M, N, K, T, col_major> &f, const P *at, unsigned stride) {
    mpidp_load(f, at, stride, false);
}
template <int M, int N, int K, class T>
void load_matrix_sync(fragment<accumulator, M, N, K, T> &f, const T *at, unsigned stride, layout_t layout) {
    mpidp_load(f, at, stride, layout == mem_row_major);
}
template <int M, int N, int K, class T>
void store_matrix_sync(T *at, const fragment<accumulator, M, N, K, T> &f, unsigned stride, layout_t layout) {
    typedef fragment<accumulator, M, N, K, T> F;
    mpidp_check(at, stride, sizeof(T));
    mpidp_warp(~0u);
    for (int i = 0; i < F::num_elements; i++) {
        unsigned r = mpidp_row<F>(i), c = mpidp_column<F>(i);
        at[layout == mem_row_major ? r * stride + c : c * stride + r] = f.x[i];
    }
}
template <class F, class V> void fill_fragment(F &f, V value) {
    for (int i = 0; i < F::num_elements; i++) f.x[i] = typename F::Element(value);
}

inline float __float_to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    return __uint_as_float((bits + 0x1000) & 0xFFFFE000);
}
template <class T> float mpidp_input(T x) { return x; }
template <> inline float mpidp_input(float x) { return __uint_as_float(__float_as_uint(x) & 0xFFFFE000); }

template <int M, int N, int K, class T, class LA, class LB, class D, class C>
void mma_sync(fragment<accumulator, M, N, K, D> &d, const fragment<matrix_a, M, N, K, T, LA> &a,
              const fragment<matrix_b, M, N, K, T, LB> &b, const fragment<accumulator, M, N, K, C> &c,
              bool saturate = false) {
    typedef fragment<matrix_a, M, N, K, T, LA> A;
    typedef fragment<matrix_b, M, N, K, T, LB> B;
    typedef fragment<accumulator, M, N, K, D> F;
    float *left = (float *)mpidp_warp_memory(), *right = left + M * K;
    for (int i = 0; i < A::num_elements; i++) left[32 * i + mpidp_lane()] = mpidp_input(a.x[i]);
    for (int i = 0; i < B::num_elements; i++) right[32 * i + mpidp_lane()] = mpidp_input(b.x[i]);
    mpidp_warp(~0u);
    for (int i = 0; i < F::num_elements; i++) {
        float sum = c.x[i];
        unsigned row = mpidp_row<F>(i), column = mpidp_column<F>(i);
        for (int k = 0; k < K; k++) sum += left[row * K + k] * right[k * N + column];
        d.x[i] = sum;
    }
    mpidp_warp(~0u);
}
}  // namespace wmma
}  // namespace nvcuda
