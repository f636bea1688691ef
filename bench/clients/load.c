/* load.c - a client with work for the card, which lives over many measurements and does as it is told.
 *
 *   load [CARD]    CARD: ordinal of the one it works on, 0 if none is given
 *
 * Reads commands from its input, one per line, and answers each with one line:
 *
 *   stream null|legacy|per-thread|own  where the work goes (null at the start); "own" is one per thread
 *   threads N                          how many host threads launch (1 at the start)
 *   contexts N                         in how many contexts of the card, by turns of the threads (1 at
 *                                      the start, the primary one); at least so many threads are needed
 *   run KIND KERNEL_NS SYNC            begin to launch pieces of work of KERNEL_NS, and wait for the card
 *                                      after so many; SYNC 0: never
 *   stop                               end that, wait until the card has done it; answers the launches
 *   first KERNEL_NS COUNT GAP_US       COUNT times: be idle for about GAP_US, then launch one kernel and
 *                                      wait; answers the nanoseconds that each took beyond the kernel
 *   quit                               so does the end of the input
 *
 * KIND: plain (cuLaunchKernel), ex (cuLaunchKernelEx), cooperative, graph (kernels of 100 us each, at
 * most 100 of them), half (as plain; after each wait the host rests for as long as the kernel takes),
 * memcpy (device to device), memset, stream-ordered (memory is allocated in the
 * stream, filled and freed). What is wrong with a command is answered as "error ...". Kernels are the simulated card's own `spin`; the driver is found by dlopen, so the same
 * program runs bare and as a tenant. */
#define __CUDA_API_VERSION_INTERNAL /* names as exported, with their versions */
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS_MAX 64
#define CONTEXTS_MAX 4
#define QUEUED_NS 10000000u /* work in one batch; two batches are in the queue: enough to keep the card busy */
#define QUEUED_MAX 256u     /* and launches: two batches fit the queue of the simulated driver */
#define GRAPH_KERNEL_NS 100000u
#define GRAPH_KERNELS_MAX 100u
#define LENGTHS_MAX 64u /* different KERNEL_NS in one life */

static void *driver_function(const char *name) {
  static void *driver;
  if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW);
  void *address = driver ? dlsym(driver, name) : NULL;
  if (!address) {
    fprintf(stderr, "load: %s: %s\n", name, dlerror());
    exit(1);
  }
  return address;
}

/* Calls a driver function, looked up once per place; ends the program unless it succeeds. */
#define DO(name, ...)                                                           \
  do {                                                                          \
    static _Atomic(void *) found_;                                              \
    void *address_ = atomic_load_explicit(&found_, memory_order_acquire);       \
    if (!address_) {                                                            \
      address_ = driver_function(#name);                                        \
      atomic_store_explicit(&found_, address_, memory_order_release);           \
    }                                                                           \
    CUresult result_ = ((__typeof__(&name))address_)(__VA_ARGS__);              \
    if (result_ != CUDA_SUCCESS) {                                              \
      fprintf(stderr, "load: %s answered %d\n", #name, (int)result_);           \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)

/* Each length is a function and graphs of its own, kept to the end: in a program too a function takes
 * about as long each time, and who learns from one run what the next will take finds it so here. */
struct length {
  uint64_t kernel_ns;
  CUfunction spin[CONTEXTS_MAX];
  CUgraphExec graph[CONTEXTS_MAX][THREADS_MAX]; /* one per host thread */
};

struct work;
struct launcher { /* one host thread's */
  const struct work *work;
  unsigned thread, context; /* numbers */
  CUstream stream;
  CUdeviceptr memory[2];
};

struct kind {
  const char *name;
  void (*prepare)(struct launcher *launcher);
  void (*launch)(const struct launcher *launcher);
  bool rests; /* the host, after each wait */
};

struct work { /* constant while it runs */
  const struct kind *kind;
  struct length *length;
  uint64_t sync; /* wait after so many launches; 0: never */
  size_t bytes; /* of a copy or a fill */
};

enum where { STREAM_NULL, STREAM_LEGACY, STREAM_PER_THREAD, STREAM_OWN };
static const char *const where_names[] = {"null", "legacy", "per-thread", "own"};

static CUdevice device;
static CUcontext contexts[CONTEXTS_MAX]; /* made when first needed */
static struct length lengths[LENGTHS_MAX];
static uint64_t memory_bytes_per_s;
static enum where where = STREAM_NULL;
static unsigned thread_count = 1, context_count = 1;
static unsigned running; /* threads of the load that runs; 0: none */
static pthread_t threads[THREADS_MAX];
static struct work work;
static _Atomic(bool) stopping;
static _Atomic(uint64_t) launches;

/* ---- kinds of work ---- */

static void nothing_to_prepare(struct launcher *launcher) { (void)launcher; }

static void launch_plain(const struct launcher *launcher) {
  struct length *length = launcher->work->length;
  void *arguments[] = {&length->kernel_ns};
  DO(cuLaunchKernel, length->spin[launcher->context], 1, 1, 1, 1, 1, 1, 0, launcher->stream, arguments, NULL);
}

static void launch_ex(const struct launcher *launcher) {
  struct length *length = launcher->work->length;
  void *arguments[] = {&length->kernel_ns};
  CUlaunchConfig config = {.gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 1, .blockDimY = 1,
                           .blockDimZ = 1, .hStream = launcher->stream};
  DO(cuLaunchKernelEx, &config, length->spin[launcher->context], arguments, NULL);
}

static void launch_cooperative(const struct launcher *launcher) {
  struct length *length = launcher->work->length;
  void *arguments[] = {&length->kernel_ns};
  CUfunction spin = length->spin[launcher->context];
  DO(cuLaunchCooperativeKernel, spin, 1, 1, 1, 1, 1, 1, 0, launcher->stream, arguments);
}

static void prepare_graph(struct launcher *launcher) {
  struct length *length = launcher->work->length;
  CUstream stream;
  CUgraph graph;
  CUgraphExec *exec = &length->graph[launcher->context][launcher->thread];
  if (*exec) return;
  uint64_t kernels = length->kernel_ns / GRAPH_KERNEL_NS;
  if (kernels < 1) kernels = 1;
  if (kernels > GRAPH_KERNELS_MAX) kernels = GRAPH_KERNELS_MAX;
  uint64_t length_ns = length->kernel_ns / kernels;
  void *arguments[] = {&length_ns};
  DO(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
  DO(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  for (uint64_t i = 0; i < kernels; i++)
    DO(cuLaunchKernel, length->spin[launcher->context], 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
  DO(cuStreamEndCapture, stream, &graph);
  DO(cuGraphInstantiateWithFlags, exec, graph, 0);
  DO(cuGraphDestroy, graph);
  DO(cuStreamDestroy_v2, stream);
}

static void launch_graph(const struct launcher *launcher) {
  DO(cuGraphLaunch, launcher->work->length->graph[launcher->context][launcher->thread], launcher->stream);
}

static void prepare_memory(struct launcher *launcher) {
  for (unsigned i = 0; i < 2; i++) DO(cuMemAlloc_v2, &launcher->memory[i], launcher->work->bytes);
}

static void launch_memcpy(const struct launcher *launcher) {
  /* It reads and writes each byte. */
  DO(cuMemcpyDtoDAsync_v2, launcher->memory[1], launcher->memory[0], launcher->work->bytes / 2, launcher->stream);
}

static void launch_memset(const struct launcher *launcher) {
  DO(cuMemsetD8Async, launcher->memory[0], 0, launcher->work->bytes, launcher->stream);
}

static void launch_stream_ordered(const struct launcher *launcher) {
  CUdeviceptr memory;
  DO(cuMemAllocAsync, &memory, launcher->work->bytes, launcher->stream);
  DO(cuMemsetD8Async, memory, 0, launcher->work->bytes, launcher->stream);
  DO(cuMemFreeAsync, memory, launcher->stream);
}

static const struct kind kinds[] = {
    {"plain", nothing_to_prepare, launch_plain, false},
    {"ex", nothing_to_prepare, launch_ex, false},
    {"cooperative", nothing_to_prepare, launch_cooperative, false},
    {"graph", prepare_graph, launch_graph, false},
    {"memcpy", prepare_memory, launch_memcpy, false},
    {"memset", prepare_memory, launch_memset, false},
    {"stream-ordered", nothing_to_prepare, launch_stream_ordered, false},
    {"half", nothing_to_prepare, launch_plain, true},
};

/* ---- the loop of a host thread ---- */

static CUstream make_stream(void) {
  CUstream own;
  switch (where) {
    case STREAM_NULL: return NULL;
    case STREAM_LEGACY: return CU_STREAM_LEGACY;
    case STREAM_PER_THREAD: return CU_STREAM_PER_THREAD;
    default: DO(cuStreamCreate, &own, CU_STREAM_NON_BLOCKING); return own;
  }
}

static void release(struct launcher *launcher) {
  for (unsigned i = 0; i < 2; i++) {
    if (launcher->memory[i]) DO(cuMemFree_v2, launcher->memory[i]);
  }
  if (where == STREAM_OWN) DO(cuStreamDestroy_v2, launcher->stream);
}

static void rest(uint64_t length_ns) {
  struct timespec pause = {(time_t)(length_ns / 1000000000u), (long)(length_ns % 1000000000u)};
  nanosleep(&pause, NULL);
}

static void launch_with_syncs(const struct launcher *launcher) {
  while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
    for (uint64_t i = 0; i < launcher->work->sync && !atomic_load_explicit(&stopping, memory_order_relaxed); i++) {
      launcher->work->kind->launch(launcher);
      atomic_fetch_add_explicit(&launches, 1, memory_order_relaxed);
    }
    DO(cuStreamSynchronize, launcher->stream);
    if (launcher->work->kind->rests) rest(launcher->work->length->kernel_ns);
  }
}

/* Two batches by turns: while one runs the other is filled, so the card never waits for the host, and
 * what is queued at the end is soon done. */
static void launch_batches(const struct launcher *launcher) {
  CUevent done[2];
  uint64_t batch = QUEUED_NS / launcher->work->length->kernel_ns;
  if (batch < 1) batch = 1;
  if (batch > QUEUED_MAX) batch = QUEUED_MAX;
  for (unsigned i = 0; i < 2; i++) DO(cuEventCreate, &done[i], CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC);
  for (uint64_t n = 0; !atomic_load_explicit(&stopping, memory_order_relaxed); n++) {
    if (n >= 2) DO(cuEventSynchronize, done[n % 2]);
    for (uint64_t i = 0; i < batch && !atomic_load_explicit(&stopping, memory_order_relaxed); i++) {
      launcher->work->kind->launch(launcher);
      atomic_fetch_add_explicit(&launches, 1, memory_order_relaxed);
    }
    DO(cuEventRecord, done[n % 2], launcher->stream);
  }
  DO(cuStreamSynchronize, launcher->stream);
  for (unsigned i = 0; i < 2; i++) DO(cuEventDestroy_v2, done[i]);
}

static void *launch_until_stopped(void *thread) {
  struct launcher launcher = {.work = &work, .thread = (unsigned)(uintptr_t)thread};
  launcher.context = launcher.thread % context_count;
  DO(cuCtxSetCurrent, contexts[launcher.context]);
  launcher.stream = make_stream();
  work.kind->prepare(&launcher);
  (work.sync ? launch_with_syncs : launch_batches)(&launcher);
  release(&launcher);
  return NULL;
}

/* ---- commands ---- */

static void say(const char *text) {
  puts(text);
  fflush(stdout);
}

static void set_stream(const char *name) {
  for (unsigned i = 0; i < sizeof where_names / sizeof *where_names; i++) {
    if (strcmp(name, where_names[i]) != 0) continue;
    where = (enum where)i;
    say("ok");
    return;
  }
  say("error no such stream");
}

static void make_contexts(void) {
  for (unsigned i = 1; i < context_count; i++) {
    if (!contexts[i]) DO(cuCtxCreate_v2, &contexts[i], 0, device); /* and makes it current */
  }
  DO(cuCtxSetCurrent, contexts[0]);
}

static const struct kind *find_kind(const char *name) {
  for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(name, kinds[i].name) == 0) return &kinds[i];
  }
  return NULL;
}

/* A function belongs to its context. */
static void load_functions(struct length *length) {
  for (unsigned i = 0; i < context_count; i++) {
    CUmodule module;
    if (length->spin[i]) continue;
    DO(cuCtxSetCurrent, contexts[i]);
    DO(cuModuleLoadData, &module, "cgpu-sim-module 1\nspin\n");
    DO(cuModuleGetFunction, &length->spin[i], module, "spin");
  }
  DO(cuCtxSetCurrent, contexts[0]);
}

/* Null: one too many, or none at all. */
static struct length *find_length(uint64_t kernel_ns) {
  struct length *length = lengths;
  if (kernel_ns == 0) return NULL;
  while (length < lengths + LENGTHS_MAX && length->kernel_ns && length->kernel_ns != kernel_ns) length++;
  if (length == lengths + LENGTHS_MAX) return NULL;
  length->kernel_ns = kernel_ns;
  load_functions(length);
  return length;
}

static void begin(const char *name, uint64_t kernel_ns, uint64_t sync) {
  const struct kind *kind = find_kind(name);
  struct length *length = find_length(kernel_ns);
  if (!kind || !length) {
    say(kind ? "error a length of nothing, or one too many" : "error no such kind");
    return;
  }
  work = (struct work){kind, length, sync, (size_t)((double)memory_bytes_per_s * (double)kernel_ns / 1e9)};
  if (work.bytes < 2) work.bytes = 2;
  atomic_store(&stopping, false);
  atomic_store(&launches, 0);
  for (running = 0; running < thread_count; running++) {
    if (pthread_create(&threads[running], NULL, launch_until_stopped, (void *)(uintptr_t)running) != 0) exit(1);
  }
  say("ok");
}

static void stop(void) {
  atomic_store(&stopping, true);
  while (running > 0) pthread_join(threads[--running], NULL);
  printf("%llu\n", (unsigned long long)atomic_load(&launches));
  fflush(stdout);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Half to one and a half times the gap, so that it keeps step with nothing. */
static void be_idle(uint64_t gap_us) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  uint64_t pause_ns = gap_us * 500 + (uint64_t)((double)gap_us * 1000 * (state / 4294967296.0));
  rest(pause_ns);
}

static void measure_first(uint64_t kernel_ns, unsigned count, uint64_t gap_us) {
  if (!find_length(kernel_ns)) {
    say("error a length of nothing, or one too many");
    return;
  }
  const struct work one = {&kinds[0], find_length(kernel_ns), 1, 0};
  struct launcher launcher = {.work = &one, .stream = make_stream()};
  for (unsigned i = 0; i < count; i++) {
    be_idle(gap_us);
    uint64_t began_ns = now_ns();
    launch_plain(&launcher);
    DO(cuStreamSynchronize, launcher.stream);
    printf("%s%lld", i ? " " : "", (long long)(now_ns() - began_ns - kernel_ns));
  }
  say("");
  release(&launcher);
}

/* False: the end. */
static bool obey(const char *line) {
  char word[16], name[16];
  unsigned long long a, b, c;
  if (sscanf(line, "%15s", word) != 1 || strcmp(word, "quit") == 0) return false;
  if (strcmp(word, "stop") == 0) {
    stop();
  } else if (running > 0) {
    say("error a load runs: stop it first");
  } else if (sscanf(line, "stream %15s", name) == 1) {
    set_stream(name);
  } else if (sscanf(line, "threads %llu", &a) == 1 && a >= 1 && a <= THREADS_MAX) {
    thread_count = (unsigned)a;
    say("ok");
  } else if (sscanf(line, "contexts %llu", &a) == 1 && a >= 1 && a <= CONTEXTS_MAX) {
    context_count = (unsigned)a;
    make_contexts();
    say("ok");
  } else if (sscanf(line, "run %15s %llu %llu", name, &a, &b) == 3) {
    begin(name, a, b);
  } else if (sscanf(line, "first %llu %llu %llu", &a, &b, &c) == 3) {
    measure_first(a, (unsigned)b, c);
  } else {
    say("error not understood");
  }
  return true;
}

static void open_card(int ordinal) {
  int clock_khz, width_bits;
  DO(cuInit, 0);
  DO(cuDeviceGet, &device, ordinal);
  DO(cuDevicePrimaryCtxRetain, &contexts[0], device);
  DO(cuCtxSetCurrent, contexts[0]);
  DO(cuDeviceGetAttribute, &clock_khz, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, device);
  DO(cuDeviceGetAttribute, &width_bits, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, device);
  memory_bytes_per_s = 2000ull * (uint64_t)clock_khz * (uint64_t)width_bits / 8; /* double data rate */
}

int main(int count, char **words) {
  char line[128];
  open_card(count > 1 ? atoi(words[1]) : 0);
  say("ready");
  while (fgets(line, sizeof line, stdin) && obey(line)) continue;
  if (running > 0) stop();
  return 0;
}
