// What kernels do by PTX (mpidp/nn/kernels/cuda_tensor_cores.py), with the fragments' layouts of the PTX ISA.
#pragma once
#include <vector>

#include "mpidp_half.h"

// Asynchronous copies are made as late as may be, when they are waited for: who reads before finds garbage.
struct mpidp_copy { void *to; const void *from; bool there; };
inline std::vector<mpidp_copy> mpidp_copies[1024];

inline void copy_sixteen(void *to, const void *from, bool there) {
    if (uintptr_t(to) % 16 || uintptr_t(from) % 16) mpidp_fail("cp.async: an address is not a multiple of 16");
    mpidp_copies[threadIdx.x].push_back({to, from, there});
}
inline void wait_for_copies() {
    for (mpidp_copy copy : mpidp_copies[threadIdx.x])
        if (copy.there) memcpy(copy.to, copy.from, 16);
        else memset(copy.to, 0, 16);
    mpidp_copies[threadIdx.x].clear();
}

inline const char *mpidp_row_of(unsigned lane) {
    const char *at;
    memcpy(&at, mpidp_warp_memory() + 8 * lane, 8);
    return at;
}
inline void mpidp_give_row(const void *at) {
    if (uintptr_t(at) % 16) mpidp_fail("ldmatrix: an address is not a multiple of 16");
    memcpy(mpidp_warp_memory() + 8 * mpidp_lane(), &at, 8);
    mpidp_warp(~0u);
}
inline unsigned short mpidp_word(const char *row, unsigned i) {
    unsigned short word;
    memcpy(&word, row + 2 * i, 2);
    return word;
}
inline void load_matrices(unsigned (&to)[4], const void *row) {
    unsigned g = mpidp_lane() / 4, t = mpidp_lane() % 4;
    mpidp_give_row(row);
    for (int m = 0; m < 4; m++) memcpy(&to[m], mpidp_row_of(8 * m + g) + 4 * t, 4);
    mpidp_warp(~0u);
}
inline void load_transposed(unsigned (&to)[4], const void *row) {
    unsigned g = mpidp_lane() / 4, t = mpidp_lane() % 4;
    mpidp_give_row(row);
    for (int m = 0; m < 4; m++)
        to[m] = mpidp_word(mpidp_row_of(8 * m + 2 * t), g) | mpidp_word(mpidp_row_of(8 * m + 2 * t + 1), g) << 16;
    mpidp_warp(~0u);
}

inline float two_to(float x) { return exp2f(x); }
inline float from_bf16(unsigned short word) { return mpidp_from_bfloat16(word); }
inline float from_f16(unsigned short word) { return mpidp_from_half(word); }
inline unsigned pack_bf16(float low, float high) { return mpidp_to_bfloat16(low) | unsigned(mpidp_to_bfloat16(high)) << 16; }
inline unsigned pack_f16(float low, float high) { return mpidp_to_half(low) | unsigned(mpidp_to_half(high)) << 16; }
inline unsigned rounded_to_tf32(float x) { return (__float_as_uint(x) + 0x1000) & 0xFFFFE000; }

// A warp's operands lie side by side, `words` of 16 or 32 bits of A and then of B a lane, in the registers' order. In A
// register r holds row g + 8 (r % 2), and of the summed index the places of t in half r / 2; in B register r is half r.
template <int PACKED, class Value> void mpidp_multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Value value) {
    unsigned lane = mpidp_lane(), g = lane / 4, t = lane % 4, (*all)[6] = (unsigned(*)[6])mpidp_warp_memory();
    memcpy(all[lane], a, 16);
    all[lane][4] = b0, all[lane][5] = b1;
    mpidp_warp(~0u);
    for (int i = 0; i < 4; i++) {
        float sum = c[i];
        for (int half = 0; half < 2; half++)
            for (int other = 0; other < 4; other++)
                for (int part = 0; part < PACKED; part++) {
                    unsigned left = all[4 * g + other][2 * half + i / 2], right = all[4 * (2 * t + i % 2) + other][4 + half];
                    sum += value(left, part) * value(right, part);
                }
        c[i] = sum;
    }
    mpidp_warp(~0u);
}
inline void multiply_add_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    mpidp_multiply_add<2>(c, a, b0, b1, [](unsigned x, int part) { return from_bf16(x >> 16 * part); });
}
inline void multiply_add_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    mpidp_multiply_add<2>(c, a, b0, b1, [](unsigned x, int part) { return from_f16(x >> 16 * part); });
}
inline void multiply_add_tf32(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    mpidp_multiply_add<1>(c, a, b0, b1, [](unsigned x, int) { return __uint_as_float(x & 0xFFFFE000); });
}
