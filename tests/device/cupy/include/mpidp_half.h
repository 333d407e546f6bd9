// Numbers of 16 bits: the bits, and float for every operation, rounded to nearest even.
#pragma once
#include "device_side.h"

inline unsigned short mpidp_to_half(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    if (size > 0x7F800000) return sign | 0x7FFF;           // not a number
    if (size >= 0x477FF000) return sign | 0x7C00;          // rounds to 65536 or more
    if (size < 0x38800000) {                               // below 2^-14: multiples of 2^-24, rounded by the addition
        float shifted = __uint_as_float(size) + 0.5f;
        return sign | (__float_as_uint(shifted) - 0x3F000000);
    }
    unsigned rounded = size + 0xFFF + (size >> 13 & 1);
    return sign | ((rounded - 0x38000000) >> 13);
}
inline float mpidp_from_half(unsigned short h) {
    unsigned sign = (h & 0x8000u) << 16, size = h & 0x7FFFu;
    if (size < 0x400) return __uint_as_float(sign | __float_as_uint(size * 0x1p-24f));
    if (size >= 0x7C00) return __uint_as_float(sign | 0x7F800000 | (size & 0x3FF) << 13);
    return __uint_as_float(sign | (size << 13) + 0x38000000);
}
inline unsigned short mpidp_to_bfloat16(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline float mpidp_from_bfloat16(unsigned short b) { return __uint_as_float(unsigned(b) << 16); }

#define MPIDP_SIXTEEN(T, T2, from, to)                                                          \
    struct T {                                                                                  \
        unsigned short bits;                                                                    \
        T() = default;                                                                          \
        T(float x) : bits(to(x)) {}                                                             \
        T(double x) : bits(to(float(x))) {}                                                     \
        T(int x) : bits(to(float(x))) {}                                                        \
        operator float() const { return from(bits); }                                           \
        T &operator+=(T y) { return *this = T(float(*this) + float(y)); }                       \
        T &operator-=(T y) { return *this = T(float(*this) - float(y)); }                       \
        T &operator*=(T y) { return *this = T(float(*this) * float(y)); }                       \
        T &operator/=(T y) { return *this = T(float(*this) / float(y)); }                       \
    };                                                                                          \
    inline T operator+(T x, T y) { return T(float(x) + float(y)); }                             \
    inline T operator-(T x, T y) { return T(float(x) - float(y)); }                             \
    inline T operator*(T x, T y) { return T(float(x) * float(y)); }                             \
    inline T operator/(T x, T y) { return T(float(x) / float(y)); }                             \
    inline T operator-(T x) { return T(-float(x)); }                                            \
    struct alignas(4) T2 { T x, y; };                                                           \
    inline T __hadd(T x, T y) { return x + y; }                                                 \
    inline T __hsub(T x, T y) { return x - y; }                                                 \
    inline T __hmul(T x, T y) { return x * y; }                                                 \
    inline T __hdiv(T x, T y) { return x / y; }                                                 \
    inline T __hneg(T x) { return -x; }                                                         \
    inline T __hmax(T x, T y) { return float(x) > float(y) ? x : y; }                           \
    inline T __hmin(T x, T y) { return float(x) < float(y) ? x : y; }                           \
    inline T __hfma(T x, T y, T z) { return T(fmaf(x, y, z)); }                                 \
    inline T2 __hadd2(T2 a, T2 b) { return {a.x + b.x, a.y + b.y}; }                            \
    inline T2 __hmul2(T2 a, T2 b) { return {a.x * b.x, a.y * b.y}; }                            \
    inline T2 __hfma2(T2 a, T2 b, T2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
    inline float __low2float(T2 a) { return a.x; }                                              \
    inline float __high2float(T2 a) { return a.y; }
