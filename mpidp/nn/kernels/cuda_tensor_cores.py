"""CUDA C++ for products on tensor cores, warp by warp: fragments, how they are read, and the types of their operands.

BF16, FP16 or TF32 is defined: the type of operands. What takes PTX stands first; who compiles for a host brings
functions of the same names (tests/device/cupy/include/ptx.h). Layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16" and
"for mma.m16n8k8". With g = lane / 4 and t = lane % 4, of a product's sum C (16, 8) a lane holds (g, 2t), (g, 2t + 1),
(g + 8, 2t) and (g + 8, 2t + 1). Of operands A (16, 16) and B (16, 8) of 16-bit words it holds pairs along the summed
index: those at 2t and 2t + 8, for rows g and g + 8 of A and column g of B. So two C side by side, packed, are an A.
"""

PTX = r"""
#ifdef __CUDA_ARCH__
__device__ __forceinline__ unsigned shared_address(const void* at) { return (unsigned)__cvta_generic_to_shared(at); }

// Four matrices of 8 x 8 words: lane i says where row i % 8 of matrix i / 8 begins, and gets (g, 2t) and (g, 2t + 1).
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(shared_address(row)) : "memory");
}

// The same matrices transposed: (2t, g), (2t + 1, g).
__device__ __forceinline__ void load_transposed(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(shared_address(row)) : "memory");
}

// 16 bytes to shared memory, zeros unless they are there; not before wait_for_copies.
__device__ __forceinline__ void copy_sixteen(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ __forceinline__ float two_to(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// c += a b
#define MULTIPLY_ADD(name, shape_and_types)                                                                        \
    __device__ __forceinline__ void name(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {        \
        asm("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                       \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                       \
    }
MULTIPLY_ADD(multiply_add_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MULTIPLY_ADD(multiply_add_f16, "m16n8k16.row.col.f32.f16.f16.f32")
MULTIPLY_ADD(multiply_add_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")

// To the nearest: ties to even, and for tf32 away from zero.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ unsigned pack_f16(float low, float high) {
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ unsigned rounded_to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ float from_bf16(unsigned short word) { return __uint_as_float((unsigned)word << 16); }

__device__ __forceinline__ float from_f16(unsigned short word) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(word));
    return x;
}
#endif
"""

FRAGMENTS = r"""
struct alignas(16) Four { unsigned x[4]; };
struct alignas(8) Two { float x[2]; };

#if defined(TF32)
typedef unsigned element;  // of a tile in shared memory
const int STEP = 8;        // of the summed index, a product
#define multiply_add multiply_add_tf32
#else
typedef unsigned short element;
const int STEP = 16;
#ifdef BF16
#define multiply_add multiply_add_bf16
#define pack pack_bf16
#define widened from_bf16
#else
#define multiply_add multiply_add_f16
#define pack pack_f16
#define widened from_f16
#endif
#endif

// Tiles are row after row, ROW elements apart. For 16-bit words ROW = 8 mod 16, so that 8 rows lie in different banks.
const int ROW = DEPTH + 8;

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }

#ifdef TF32
// The summed index is taken in the order 0 2 4 6 1 3 5 7, in A as in B: a lane's two numbers are then neighbours, in
// tiles and in a C that becomes an A.
__device__ __forceinline__ void load_a(unsigned (&a)[4], const element* tile, int row, int column) {
    const element* at = tile + (row + lane() / 4) * ROW + column + 2 * (lane() % 4);
    a[0] = at[0], a[1] = at[8 * ROW], a[2] = at[1], a[3] = at[8 * ROW + 1];
}

__device__ __forceinline__ void load_b(unsigned (&b)[4], const element* tile, int row, int column) {
    const element* at = tile + (row + lane() / 4) * ROW + column + 2 * (lane() % 4);
    b[0] = at[0], b[1] = at[1], b[2] = at[8 * ROW], b[3] = at[8 * ROW + 1];
}

__device__ __forceinline__ void load_b_across(unsigned (&b)[4], const element* tile, int row, int column) {
    const element* at = tile + (row + 2 * (lane() % 4)) * ROW + column + lane() / 4;
    b[0] = at[0], b[1] = at[ROW], b[2] = at[8], b[3] = at[ROW + 8];
}

template <int N>
__device__ __forceinline__ void as_operand(unsigned (&a)[4], const float (&c)[N][4], int column) {
    const float (&x)[4] = c[column / 8];
    a[0] = rounded_to_tf32(x[0]), a[1] = rounded_to_tf32(x[2]);
    a[2] = rounded_to_tf32(x[1]), a[3] = rounded_to_tf32(x[3]);
}
#else
// A: rows [row, row + 16) of a tile, columns [column, column + STEP), which are summed over.
__device__ __forceinline__ void load_a(unsigned (&a)[4], const element* tile, int row, int column) {
    load_matrices(a, tile + (row + lane() % 16) * ROW + column + lane() / 16 * 8);
}

// Two B: their columns are rows [row, row + 16) of a tile, columns [column, column + STEP) are summed over.
__device__ __forceinline__ void load_b(unsigned (&b)[4], const element* tile, int row, int column) {
    load_matrices(b, tile + (row + lane() % 8 + lane() / 16 * 8) * ROW + column + lane() / 8 % 2 * 8);
}

// Two B: columns [column, column + 16) of a tile, rows [row, row + STEP) are summed over.
__device__ __forceinline__ void load_b_across(unsigned (&b)[4], const element* tile, int row, int column) {
    load_transposed(b, tile + (row + lane() % 16) * ROW + column + lane() / 16 * 8);
}

// Columns [column, column + STEP) of sums as an A.
template <int N>
__device__ __forceinline__ void as_operand(unsigned (&a)[4], const float (&c)[N][4], int column) {
    const float (&x)[4] = c[column / 8], (&y)[4] = c[column / 8 + 1];
    a[0] = pack(x[0], x[1]), a[1] = pack(x[2], x[3]), a[2] = pack(y[0], y[1]), a[3] = pack(y[2], y[3]);
}
#endif

// c (16 M, 8 N) += rows of a, from row `row` on, times rows of b, from row `other` on, summed over DEPTH.
template <int M, int N>
__device__ __forceinline__ void multiply_rows(float (&c)[M][N][4], const element* a, int row, const element* b,
                                              int other) {
    #pragma unroll
    for (int k = 0; k < DEPTH; k += STEP) {
        unsigned left[M][4], right[4];
        #pragma unroll
        for (int m = 0; m < M; m++) load_a(left[m], a, row + 16 * m, k);
        #pragma unroll
        for (int n = 0; n < N; n += 2) {
            load_b(right, b, other + 8 * n, k);
            #pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_add(c[m][n], left[m], right[0], right[1]);
                multiply_add(c[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// c (16 M, DEPTH) += p (16 M, 8 K), rounded, times the 8 K rows of b from row `row` on.
template <int M, int K>
__device__ __forceinline__ void multiply_sums(float (&c)[M][DEPTH / 8][4], const float (&p)[M][K][4], const element* b,
                                              int row) {
    #pragma unroll
    for (int k = 0; k < 8 * K; k += STEP) {
        unsigned left[M][4], right[4];
        #pragma unroll
        for (int m = 0; m < M; m++) as_operand(left[m], p[m], k);
        #pragma unroll
        for (int n = 0; n < DEPTH / 8; n += 2) {
            load_b_across(right, b, row + k, 8 * n);
            #pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_add(c[m][n], left[m], right[0], right[1]);
                multiply_add(c[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}
"""
