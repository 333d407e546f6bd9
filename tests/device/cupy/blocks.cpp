// Thread blocks on the host. Each CUDA thread is a fiber, with a stack of its own, and runs until it must wait for
// others: at a barrier of the block, or where the lanes of a warp exchange something. Blocks run one after another.
// A barrier that not every thread reaches, or that threads reach at different lines, is an error here; on a device it
// hangs, or does not. Shared memory is garbage when a block begins.
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <sys/mman.h>
#include <ucontext.h>

#include "device_side.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
alignas(1024) char mpidp_dynamic_shared[MPIDP_SHARED + 4096];

extern char __start_cuda_shared[] __attribute__((weak)), __stop_cuda_shared[] __attribute__((weak));

namespace {
enum State { READY, AT_BARRIER, IN_WARP, RETURNED, FAILED };

struct Fiber {
    ucontext_t first;
    jmp_buf at;
    size_t number;
    bool fresh = true;
    State state;
    unsigned mask, lane, warp;
    int line;
    uint3 index;
};

// Stacks lie one behind the other, a few lines of the cache more than a power of two apart: else the tops of all of them,
// which are all that is used, would share the same few places of the cache.
const size_t STACK = (128 << 10) + 13 * 64, MOST = 1024, WARP_MEMORY = 32 << 10;
std::deque<Fiber> fibers;
Fiber *current;
jmp_buf scheduler;
void (*body)(void **);
void **arguments;
char message[400];
bool failed;
alignas(64) char warp_memory[32][WARP_MEMORY];

__attribute__((noinline)) void pause(State state) {
    current->state = state;
    if (!_setjmp(current->at)) _longjmp(scheduler, 1);
    asm volatile("" ::: "memory");
}

void live() {
    for (;;) {
        body(arguments);
        pause(RETURNED);
    }
}

__attribute__((noinline)) void go_on(Fiber &fiber) {
    current = &fiber;
    threadIdx = fiber.index;
    if (_setjmp(scheduler)) return;
    if (!fiber.fresh) _longjmp(fiber.at, 1);
    fiber.fresh = false;
    setcontext(&fiber.first);
}

void prepare(Fiber &fiber) {
    static char *stacks = (char *)mmap(nullptr, MOST * STACK, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = stacks + fiber.number * STACK;
    fiber.first.uc_stack.ss_size = STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, live, 0);
    fiber.fresh = true;
}

void fail(const char *format, ...) {
    if (failed) return;
    failed = true;
    int used = snprintf(message, sizeof message, "block (%u, %u, %u): ", blockIdx.x, blockIdx.y, blockIdx.z);
    va_list list;
    va_start(list, format);
    vsnprintf(message + used, sizeof message - used, format, list);
    va_end(list);
}

// Let go the lanes of each warp that all wait for the same exchange; whether there were any.
bool release_warps(unsigned count) {
    bool any = false;
    for (unsigned start = 0; start < count; start += 32) {
        unsigned size = count - start < 32 ? count - start : 32, released = 0;
        for (unsigned lane = 0; lane < size; lane++) {
            Fiber &fiber = fibers[start + lane];
            if (fiber.state != IN_WARP || released >> lane & 1) continue;
            bool all = true;
            for (unsigned other = 0; other < size; other++) {
                if (!(fiber.mask >> other & 1)) continue;
                Fiber &theirs = fibers[start + other];
                if (theirs.state == RETURNED)
                    fail("lane %u waits in its warp for lane %u, which has returned", lane, other);
                all = all && theirs.state == IN_WARP && theirs.mask == fiber.mask;
            }
            if (all) released |= fiber.mask;
        }
        for (unsigned lane = 0; lane < size; lane++)
            if (released >> lane & 1) fibers[start + lane].state = READY;
        any = any || released;
    }
    return any;
}

// Let go all threads, where all are at the barrier; whether they were.
bool release_block(unsigned count) {
    unsigned waiting = 0, line = 0;
    for (unsigned i = 0; i < count; i++) {
        if (fibers[i].state != AT_BARRIER) continue;
        if (waiting++ == 0) line = fibers[i].line;
        if (fibers[i].line != int(line))
            fail("__syncthreads in line %u for some threads, in line %d for others", line, fibers[i].line);
    }
    if (waiting == 0) return false;
    if (waiting < count)
        fail("%u of %u threads wait at __syncthreads in line %u; the others returned, or wait in a warp", waiting, count, line);
    for (unsigned i = 0; i < count; i++) fibers[i].state = READY;
    return true;
}

void run_block(unsigned count, size_t shared, bool reversed) {
    if (__start_cuda_shared) memset(__start_cuda_shared, 0xFF, __stop_cuda_shared - __start_cuda_shared);
    memset(mpidp_dynamic_shared, 0xFF, shared + 4096);
    for (unsigned i = 0; i < count; i++) fibers[i].state = READY;
    do {
        for (unsigned i = 0; i < count && !failed; i++) {
            Fiber &fiber = fibers[reversed ? count - 1 - i : i];
            if (fiber.state == READY) go_on(fiber);
        }
    } while (!failed && (release_warps(count) || release_block(count)) && !failed);
    for (unsigned i = 0; i < count; i++)
        if (!failed && fibers[i].state != RETURNED) fail("thread %u waits in its warp for lanes that do not come", i);
    for (unsigned i = 0; i < 4096; i++)
        if (mpidp_dynamic_shared[shared + i] != char(0xFF) && !failed)
            fail("written %u bytes behind the %zu bytes of shared memory of the launch", i, shared);
}
}  // namespace

extern "C" {
void mpidp_barrier(int line) {
    current->line = line;
    pause(AT_BARRIER);
}

void mpidp_warp(unsigned mask) {
    if (!(mask >> current->lane & 1)) mpidp_fail("a lane that is not in the mask of its own warp operation");
    current->mask = mask;
    pause(IN_WARP);
}

unsigned mpidp_lane() { return current->lane; }

char *mpidp_warp_memory() { return warp_memory[current->warp]; }

void mpidp_fail(const char *text) {
    fail("%s", text);
    pause(FAILED);
}

// Null, or what went wrong.
__attribute__((visibility("default"))) const char *mpidp_launch(void (*thunk)(void **), void **values,
                                                                const unsigned *grid, const unsigned *block,
                                                                size_t shared, int reversed) {
    unsigned count = block[0] * block[1] * block[2];
    body = thunk, arguments = values, failed = false;
    gridDim = dim3{grid[0], grid[1], grid[2]};
    blockDim = dim3{block[0], block[1], block[2]};
    while (fibers.size() < count) {
        fibers.emplace_back();
        fibers.back().number = fibers.size() - 1;
        prepare(fibers.back());
    }
    for (unsigned i = 0; i < count; i++) {
        Fiber &fiber = fibers[i];
        fiber.lane = i % 32, fiber.warp = i / 32;
        fiber.index = uint3{i % block[0], i / block[0] % block[1], i / block[0] / block[1]};
    }
    unsigned long long blocks = (unsigned long long)grid[0] * grid[1] * grid[2];
    for (unsigned long long b = 0; b < blocks && !failed; b++) {
        unsigned long long i = reversed ? blocks - 1 - b : b;
        blockIdx = uint3{unsigned(i % grid[0]), unsigned(i / grid[0] % grid[1]), unsigned(i / grid[0] / grid[1])};
        run_block(count, shared, reversed);
    }
    if (!failed) return nullptr;
    for (Fiber &fiber : fibers) prepare(fiber);  // those that wait for ever begin anew
    return message;
}
}
