// The machine of shim.h: fibers, their barriers, launches, and memory that ends at a page that cannot be touched.

#include "shim.h"

#include <csignal>
#include <cstdio>
#include <string>
#include <unordered_map>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace shim {

dim3 block_index, block_size, grid_size;
Thread *current;

namespace {

constexpr size_t STACK = 64 << 10;
constexpr int MOST_THREADS = 1024;

struct Kernel {
    int threads;
    void *function;
    Entry call;
    const size_t *sizes;
    size_t count;
};

std::unordered_map<std::string, Kernel> &kernels() {
    static std::unordered_map<std::string, Kernel> all;
    return all;
}

Thread threads[MOST_THREADS];
Warp warps[MOST_THREADS / 32];
unsigned char *stacks;
int count;
// How often threads of the block have come to a barrier.
unsigned arrivals;
// 1: from the first to the last thread; -1: the other way round.
int direction = 1;
const Kernel *running;
const char *running_name;
void **running_arguments;
std::string message;
unsigned char *shared;
size_t shared_size;

#ifdef __x86_64__
void *main_stack_pointer;
extern "C" void shim_switch(void **save, void *load);
asm(R"(
.text
.globl shim_switch
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");
#else
ucontext_t main_context, contexts[MOST_THREADS];
#endif

// Runs `next`; comes back when something runs this thread again.
void switch_to(Thread *next) {
    Thread *self = current;
    current = next;
#ifdef __x86_64__
    shim_switch(&self->stack_pointer, next->stack_pointer);
#else
    swapcontext(&contexts[self->number], &contexts[next->number]);
#endif
}

[[noreturn]] void leave() {
#ifdef __x86_64__
    void *nowhere;
    shim_switch(&nowhere, main_stack_pointer);
#else
    setcontext(&main_context);
#endif
    abort();
}

// A thread of first..end, from `from` on, that has reached fewer of what `steps` counts than `than`.
template <class Steps>
Thread *behind(int first, int end, int from, unsigned than, Steps steps) {
    int length = end - first;
    for (int i = 1; i < length; i++) {
        int at = first + (from - first + length + direction * i) % length;
        Thread *t = &threads[at];
        if (!t->done && steps(*t) < than) return t;
    }
    return nullptr;
}

void body() {
    running->call(running->function, running_arguments);
    current->done = true;
    int n = current->number;
    for (int i = 1; i < count; i++) {
        Thread *t = &threads[((n + direction * i) % count + count) % count];
        if (!t->done) switch_to(t);
    }
    leave();
}

void prepare(Thread &t) {
    unsigned char *top = stacks + (t.number + 1) * STACK;
#ifdef __x86_64__
    void **at = reinterpret_cast<void **>(top) - 2;
    *at = reinterpret_cast<void *>(body);
    at -= 6;
    memset(at, 0, 6 * sizeof *at);
    t.stack_pointer = at;
#else
    getcontext(&contexts[t.number]);
    contexts[t.number].uc_stack.ss_sp = top - STACK;
    contexts[t.number].uc_stack.ss_size = STACK;
    contexts[t.number].uc_link = nullptr;
    makecontext(&contexts[t.number], body, 0);
#endif
}

void run_block() {
    for (int i = 0; i < count; i++) {
        Thread &t = threads[i];
        unsigned x = block_size.x, y = block_size.y;
        t = Thread{nullptr, {i % x, i / x % y, i / (x * y)}, unsigned(i), 0, 0, false, false};
        prepare(t);
    }
    arrivals = 0;
    for (int i = 0; i < count / 32; i++) warps[i].arrivals = 0;
    if (shared_size) memset(shared, 0xff, shared_size);
    current = &threads[direction > 0 ? 0 : count - 1];
#ifdef __x86_64__
    shim_switch(&main_stack_pointer, current->stack_pointer);
#else
    swapcontext(&main_context, &contexts[current->number]);
#endif
}

size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }

// What a kernel touched that it must not: which one, and where.
void on_fault(int signal, siginfo_t *info, void *) {
    char text[256];
    const Thread none{};
    const Thread &t = current ? *current : none;
    int n = snprintf(text, sizeof text, "\ncuda shim: signal %d at %p in %s, block %u %u %u, thread %u\n", signal,
                     info->si_addr, running_name ? running_name : "no kernel", block_index.x, block_index.y,
                     block_index.z, t.number);
    if (write(2, text, size_t(n)) < 0) {}
    _exit(134);
}

void catch_faults() {
    static bool done = false;
    if (done) return;
    done = true;
    static unsigned char room[64 << 10];
    stack_t stack{};
    stack.ss_sp = room;
    stack.ss_size = sizeof room;
    sigaltstack(&stack, nullptr);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigaction(signal, &action, nullptr);
}

// Memory whose end is a page that cannot be touched: the address of `bytes` bytes, aligned to 16.
unsigned char *guarded(size_t bytes) {
    size_t size = (bytes + page() - 1) / page() * page();
    auto all = static_cast<unsigned char *>(
        mmap(nullptr, size + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (all == MAP_FAILED) abort();
    mprotect(all + size, page(), PROT_NONE);
    return all + size - (bytes + 15) / 16 * 16;
}

void release(unsigned char *at, size_t bytes) {
    size_t size = (bytes + page() - 1) / page() * page();
    munmap(at + (bytes + 15) / 16 * 16 - size, size + page());
}

}  // namespace

void fail(const char *what, int line) {
    const Thread &t = *current;
    message = std::string(running_name) + ": line " + std::to_string(line) + ": " + what + " (thread " +
              std::to_string(t.number) + " of block " + std::to_string(block_index.x) + " " +
              std::to_string(block_index.y) + " " + std::to_string(block_index.z) + ")";
    leave();
}

unsigned char *dynamic_shared() { return shared; }

uint32_t *show() { return warps[current->number / 32].words[current->warp_steps & 1][current->number % 32]; }

uint32_t (*meet(int operation, int line))[12] {
    Thread *self = current;
    int first = self->number / 32 * 32, parity = self->warp_steps & 1;
    Warp &warp = warps[self->number / 32];
    warp.places[parity][self->number % 32] = operation << 20 | line;
    unsigned step = ++self->warp_steps;
    warp.arrivals++;
    auto steps = [](const Thread &t) { return t.warp_steps; };
    // Once all are there, nobody looks for those that are not.
    while (warp.arrivals < step * 32) {
        Thread *next = behind(first, first + 32, self->number, step, steps);
        if (!next) fail("a lane has ended before an instruction of its warp", line);
        if (next->at_barrier && arrivals < next->barriers * unsigned(count))
            fail("a lane is at a barrier where others are at an instruction of the warp", line);
        switch_to(next);
    }
    if (warp.places[parity][0] != (operation << 20 | line)) fail("lanes of a warp are at different places", line);
    return warp.words[parity];
}

void barrier(int line) {
    Thread *self = current;
    unsigned step = ++self->barriers;
    self->at_barrier = true;
    auto steps = [](const Thread &t) { return t.barriers; };
    arrivals++;
    while (arrivals < step * unsigned(count)) {
        Thread *next = behind(0, count, self->number, step, steps);
        if (!next) fail("a thread has ended before a barrier of its block", line);
        switch_to(next);
    }
    self->at_barrier = false;
}

void Register::add(const char *name, int threads, void *function, Entry call, const size_t *sizes, size_t count) {
    kernels()[name] = Kernel{threads, function, call, sizes, count};
}

}  // namespace shim

using namespace shim;

// Runs a kernel. `order` is 1 or -1, the order of threads. Null, or what was wrong.
extern "C" const char *shim_launch(const char *name, const unsigned *grid, const unsigned *block, size_t shared_bytes,
                                   void **arguments, const size_t *sizes, size_t n, int order) {
    catch_faults();
    message.clear();
    auto found = kernels().find(name);
    if (found == kernels().end()) return (message = std::string("there is no kernel ") + name).c_str();
    running = &found->second;
    running_name = found->first.c_str();
    running_arguments = arguments;
    direction = order;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    count = int(block[0] * block[1] * block[2]);
    if (count % 32 || count == 0 || count > running->threads)
        return (message = std::string(name) + ": a block of " + std::to_string(count) + " threads").c_str();
    if (n != running->count)
        return (message = std::string(name) + " takes " + std::to_string(running->count) + " arguments").c_str();
    for (size_t i = 0; i < n; i++)
        if (sizes[i] != running->sizes[i])
            return (message = std::string(name) + ": argument " + std::to_string(i) + " has " +
                              std::to_string(running->sizes[i]) + " bytes").c_str();
    if (!stacks) stacks = static_cast<unsigned char *>(mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    shared_size = shared_bytes;
    shared = shared_bytes ? guarded(shared_bytes) : nullptr;
    for (unsigned z = 0; z < grid[2] && message.empty(); z++)
        for (unsigned y = 0; y < grid[1] && message.empty(); y++)
            for (unsigned x = 0; x < grid[0] && message.empty(); x++) {
                block_index = {x, y, z};
                run_block();
            }
    if (shared) release(shared, shared_bytes);
    current = nullptr;
    return message.empty() ? nullptr : message.c_str();
}

extern "C" void *shim_allocate(size_t bytes) { return guarded(bytes ? bytes : 1); }
extern "C" void shim_release(void *at, size_t bytes) { release(static_cast<unsigned char *>(at), bytes ? bytes : 1); }
