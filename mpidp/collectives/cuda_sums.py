"""CUDA C++ of sums of vectors: every input is read once, they are added in order, the sum goes to every output.

It needs no CuPy, so that it can be compiled on a machine without a GPU. See `cupy_sums`.
"""

LOADS = 8  # of a thread that are on their way together

# Vectors begin at the same place within 16 bytes: first the elements up to a boundary and those behind the last pack.
SOURCE = r"""
typedef REAL real;
struct alignas(16) Pack { real part[16 / sizeof(real)]; };

extern "C" __global__ void add_vectors(PARAMETERS, long long head, long long packs, long long tail) {
    const real* from[FROM] = {INPUTS};
    real* to[TO] = {OUTPUTS};
    const long long each = 16 / sizeof(real);
    const long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    const long long stride = gridDim.x * (long long)blockDim.x;
    for (long long i = first; i < head + tail; i += stride) {
        long long j = i < head ? i : i + packs * each;
        real sum = from[0][j];
        for (int k = 1; k < FROM; k++) sum += from[k][j];
        for (int k = 0; k < TO; k++) to[k][j] = sum;
    }
    for (long long i = first; i < packs; i += AT_ONCE * stride) {
        Pack loaded[AT_ONCE][FROM];
        #pragma unroll
        for (int a = 0; a < AT_ONCE; a++)
            if (i + a * stride < packs) {
                #pragma unroll
                for (int k = 0; k < FROM; k++)
                    loaded[a][k] = reinterpret_cast<const Pack*>(from[k] + head)[i + a * stride];
            }
        #pragma unroll
        for (int a = 0; a < AT_ONCE; a++)
            if (i + a * stride < packs) {
                Pack sum = loaded[a][0];
                #pragma unroll
                for (int k = 1; k < FROM; k++)
                    #pragma unroll
                    for (int p = 0; p < 16 / (int)sizeof(real); p++) sum.part[p] += loaded[a][k].part[p];
                #pragma unroll
                for (int k = 0; k < TO; k++) reinterpret_cast<Pack*>(to[k] + head)[i + a * stride] = sum;
            }
    }
}
"""
REALS = {"float32": "float", "float64": "double"}


def source(sources: int, targets: int) -> str:
    """The kernel for so many inputs and outputs."""
    inputs, outputs = (
        [f"{letter}{k}" for k in range(count)] for letter, count in (("s", sources), ("t", targets))
    )
    parameters = [*(f"const real* {name}" for name in inputs), *(f"real* {name}" for name in outputs)]
    text = SOURCE
    for name, words in (("PARAMETERS", parameters), ("INPUTS", inputs), ("OUTPUTS", outputs)):
        text = text.replace(name, ", ".join(words))
    return f"#define FROM {sources}\n#define TO {targets}\n#define AT_ONCE {max(1, LOADS // sources)}\n{text}"
