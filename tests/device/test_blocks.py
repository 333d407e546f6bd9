"""The stand-in's raw kernels: blocks of threads that wait for one another, and what is wrong with them is said."""

import numpy as np
import pytest

SUM = """
extern "C" __global__ void block_sum(const float* x, float* out) {
    __shared__ float parts[256];
    parts[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
        BARRIER
    }
    if (threadIdx.x == 0) out[blockIdx.x] = parts[0];
}
"""


def numbers(cupy, *shape, dtype="f4", seed=0):
    return cupy.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def run(cupy, body, block, *arguments, grid=(1,), shared_mem=0, head="", **options):
    """`body` as a kernel over arrays a, b, ... of float32."""
    names = ", ".join(f"float* {chr(97 + i)}" for i in range(len(arguments)))
    source = f'{head}\nextern "C" __global__ void kernel({names}) {{\n{body}\n}}'
    function = cupy.RawModule(code=source, **options).get_function("kernel")
    function(grid, block, arguments, shared_mem=shared_mem)


def test_threads_of_a_block_share_memory_and_wait_for_one_another(cupy):
    x, out = numbers(cupy, 5, 256), cupy.zeros(5, "f4")
    sum_ = cupy.RawModule(code=SUM.replace("BARRIER", "__syncthreads();")).get_function("block_sum")
    sum_((5,), (256,), (x, out))
    np.testing.assert_allclose(out.get(), x.get().sum(1), rtol=1e-4, atol=1e-5)


def test_a_missing_barrier_is_found(cupy):
    sum_ = cupy.RawModule(code=SUM.replace("BARRIER", "")).get_function("block_sum")
    with pytest.raises(RuntimeError, match="depends on which thread is first"):
        sum_((5,), (256,), (numbers(cupy, 5, 256), cupy.zeros(5, "f4")))


def test_three_dimensions_of_blocks_and_threads(cupy):
    out = cupy.zeros((2, 3, 4, 2, 3, 5), "f4")
    body = """
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    a[block * 30 + thread] = 100 * block + thread;
    """
    run(cupy, body, (5, 3, 2), out, grid=(4, 3, 2))
    expected = 100 * np.arange(24)[:, None] + np.arange(30)
    assert (out.get().reshape(24, 30) == expected).all()


@pytest.mark.parametrize(
    "call, expected",
    [
        ("__shfl_xor_sync(~0u, v, 5)", lambda i: i ^ 5),
        ("__shfl_down_sync(~0u, v, 3)", lambda i: i + 3 if i % 32 < 29 else i),
        ("__shfl_up_sync(~0u, v, 3)", lambda i: i - 3 if i % 32 >= 3 else i),
        ("__shfl_sync(~0u, v, 7)", lambda i: i // 32 * 32 + 7),
        ("__shfl_xor_sync(~0u, v, 4, 8)", lambda i: i ^ 4),
        ("__shfl_down_sync(~0u, v, 6, 8)", lambda i: i + 6 if i % 8 < 2 else i),
        ("float(__ballot_sync(~0u, threadIdx.x % 3 == 0) % 4096)", lambda i: sum(
            1 << k for k in range(12) if (i // 32 * 32 + k) % 3 == 0)),
    ],
)  # fmt: skip
def test_shuffles(cupy, call, expected):
    out = cupy.zeros(96, "f4")
    run(cupy, f"float v = threadIdx.x; a[threadIdx.x] = {call};", (96,), out)
    assert out.get().tolist() == [expected(i) for i in range(96)]


def test_dynamic_shared_memory_and_its_end(cupy):
    body = """
    extern __shared__ float s[];
    s[threadIdx.x OFF] = a[threadIdx.x];
    __syncthreads();
    b[threadIdx.x] = s[31 - threadIdx.x OFF];
    """
    x, out = numbers(cupy, 32), cupy.zeros(32, "f4")
    run(cupy, body.replace("OFF", ""), (32,), x, out, shared_mem=128)
    assert (out.get() == x.get()[::-1]).all()
    with pytest.raises(RuntimeError, match="behind the 128 bytes of shared memory"):
        run(cupy, body.replace("OFF", "+ 1"), (32,), x, out, shared_mem=128)
    with pytest.raises(RuntimeError, match="max_dynamic_shared_size_bytes"):
        run(cupy, body.replace("OFF", ""), (32,), x, out, shared_mem=50_000)


def test_shared_memory_is_garbage_when_a_block_begins(cupy):
    out = cupy.zeros(4, "f4")
    run(
        cupy,
        "__shared__ float s; a[2 * blockIdx.x] = s; s = 1; a[2 * blockIdx.x + 1] = s;",
        (1,),
        out,
        grid=(2,),
    )
    np.testing.assert_array_equal(out.get(), [np.nan, 1, np.nan, 1])


def test_atomics_add_up(cupy):
    out = cupy.zeros(2, "f4")
    run(cupy, "atomicAdd(&a[threadIdx.x % 2], 0.25f);", (64,), out, grid=(10,))
    assert out.get().tolist() == [80, 80]


@pytest.mark.parametrize(
    "body, message",
    [
        ("if (threadIdx.x < 3) return; __syncthreads();", "29 of 32 threads wait"),
        ("if (threadIdx.x < 3) __syncthreads();\nelse\n__syncthreads();", "for some threads, in line"),
        ("if (threadIdx.x < 3) a[0] = __shfl_xor_sync(~0u, 1.0f, 1);", "has returned"),
        ("if (threadIdx.x < 3) __syncwarp(); else __syncthreads();", "lanes that do not come|wait at __sync"),
        ("a[threadIdx.x] = __shfl_down_sync(0xFFFF, 1.0f, 1);", "not in the mask"),
        ("a[0] = threadIdx.x;", "which thread is first"),
    ],
)  # fmt: skip
def test_what_hangs_or_races_on_a_device_is_an_error(cupy, body, message):
    for _ in range(2):  # a failure leaves nothing behind
        with pytest.raises(RuntimeError, match=message):
            run(cupy, body, (32,), cupy.zeros(64, "f4"))


def test_arguments_are_held_to_the_kernels_parameters(cupy):
    source = """
    extern "C" __global__ void fill(float* x, float value, long long n) {
        for (int i = 0; i < n; i++) x[i] = value;
    }
    """
    fill = cupy.RawModule(code=source).get_function("fill")
    x = cupy.zeros(3, "f4")
    fill((1,), (1,), (x, np.float32(2), np.int64(3)))
    assert x.get().tolist() == [2, 2, 2]
    for wrong in ((x, np.float64(2), np.int64(3)), (x, np.float32(2), np.int32(3)), (x, np.float32(2))):
        with pytest.raises(TypeError, match="takes arguments of"):
            fill((1,), (1,), wrong)
    with pytest.raises(TypeError, match="need a type"):
        fill((1,), (1,), (x, 2.0, np.int64(3)))
    with pytest.raises(TypeError, match="host array"):
        fill((1,), (1,), (np.zeros(3, "f4"), np.float32(2), np.int64(3)))
    with pytest.raises(TypeError, match="contiguous"):
        fill((1,), (1,), (cupy.zeros(6, "f4")[::2], np.float32(2), np.int64(3)))
    with pytest.raises(RuntimeError, match="2048"):
        fill((1,), (2048,), (x, np.float32(2), np.int64(3)))
    with pytest.raises(RuntimeError, match="named symbol not found"):
        cupy.RawModule(code=source).get_function("fil")


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_numbers_of_16_bits_round_as_they_should(cupy, kind):
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [(rng.normal(size=4096) * 2.0 ** rng.integers(-30, 20, 4096)), [0, -0.0, 65519, 65520, 1e-8, np.inf]]
    )
    x = np.resize(x, 4128).astype("f4")
    header, there, back = {
        "float16": ("cuda_fp16.h", "__float2half_rn", "__half2float"),
        "bfloat16": ("cuda_bf16.h", "__float2bfloat16_rn", "__bfloat162float"),
    }[kind]
    a, b = cupy.asarray(x), cupy.zeros(x.size, "f4")
    body = f"int i = blockIdx.x * 32 + threadIdx.x; b[i] = {back}({there}(a[i]));"
    run(cupy, body, (32,), a, b, grid=(129,), head=f"#include <{header}>")
    if kind == "float16":
        with np.errstate(over="ignore"):
            expected = x.astype(np.float16).astype("f4")
    else:
        expected = x.astype(pytest.importorskip("ml_dtypes").bfloat16).astype("f4")
    assert (b.get() == expected).all()


@pytest.mark.parametrize("kind, depth", [("__half", 16), ("__nv_bfloat16", 16), ("wmma::precision::tf32", 8)])
def test_matrix_products_by_warps(cupy, kind, depth):
    """Two tiles of 16 x 16 by two warps, over 3 steps; the second operand is given by columns."""
    element = "float" if "tf32" in kind else kind
    body = f"""
    using namespace nvcuda;
    __shared__ __align__(32) {element} left[32 * {3 * depth}], right[16 * {3 * depth}];
    for (int i = threadIdx.x; i < 32 * {3 * depth}; i += blockDim.x) left[i] = {element}(a[i]);
    for (int i = threadIdx.x; i < 16 * {3 * depth}; i += blockDim.x) right[i] = {element}(b[i]);
    __syncthreads();
    int warp = threadIdx.x / 32;
    wmma::fragment<wmma::matrix_a, 16, 16, {depth}, {kind}, wmma::row_major> x;
    wmma::fragment<wmma::matrix_b, 16, 16, {depth}, {kind}, wmma::col_major> y;
    wmma::fragment<wmma::accumulator, 16, 16, {depth}, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    for (int k = 0; k < 3; k++) {{
        wmma::load_matrix_sync(x, left + warp * 16 * {3 * depth} + k * {depth}, {3 * depth});
        wmma::load_matrix_sync(y, right + k * {depth}, {3 * depth});
        wmma::mma_sync(sum, x, y, sum);
    }}
    for (int i = 0; i < sum.num_elements; i++) sum.x[i] *= 2;
    wmma::store_matrix_sync(c + warp * 256, sum, 16, wmma::mem_row_major);
    """
    a, b = (
        np.random.default_rng(s).integers(-8, 9, (n, 3 * depth)).astype("f4") for s, n in ((0, 32), (1, 16))
    )
    out = cupy.zeros((32, 16), "f4")
    arrays = cupy.asarray(a), cupy.asarray(b), out
    run(cupy, body, (64,), *arrays, head="#include <mma.h>")
    assert (out.get() == 2 * a @ b.T).all()
    with pytest.raises(RuntimeError, match="not aligned to 32 bytes"):
        run(cupy, body.replace("c + warp", "c + 1 + warp"), (64,), *arrays, head="#include <mma.h>")


def test_vectors_and_templates(cupy):
    head = """
    template <class T> __device__ T turned(T value) {
        __shared__ T place[32];
        place[threadIdx.x] = value;
        __syncthreads();
        return place[31 - threadIdx.x];
    }
    """
    body = """
    float4 four = ((const float4*)a)[threadIdx.x];
    b[threadIdx.x] = turned(four.x + four.w) + turned(int(threadIdx.x)) + max(1, 2u) + min(1.5f, 2.0f);
    """
    x, out = numbers(cupy, 32, 4), cupy.zeros(32, "f4")
    run(cupy, body, (32,), x, out, head=head)
    host = x.get()
    np.testing.assert_allclose(
        out.get(), (host[:, 0] + host[:, 3])[::-1] + 31 - np.arange(32) + 3.5, rtol=1e-6
    )
