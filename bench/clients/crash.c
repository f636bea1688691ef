/* crash.c - processes that are made to be killed, and those beside them that must not notice.
 *
 *   crash breed                    starts the others, so that a tenant has many processes at little cost: reads lines
 *                                  "PROGRAM ARGUMENTS...", starts each as a child of its own and answers its pid; its
 *                                  children end with it. It never calls the driver itself.
 *   crash churn BOOK PAUSE_US PTX [grow]
 *                                  allocates, frees, launches and waits for ever, resting so long after each call;
 *                                  grow: takes more and more of the host's memory too
 *   crash scribble FILE PATTERN    writes to FILE for ever: random, zeros, ones, huge (counts that no card has; the rest
 *                                  stays as it is), spread (every slot is taken by nobody) or less (nothing is charged)
 *
 * BOOK is a file with a struct book, in which a process tells what it does at every instant; PTX one with the kernel
 * cgpu_spin. The driver is found by dlopen, so the same program runs bare and as a tenant. */
#define _GNU_SOURCE
#define __CUDA_API_VERSION_INTERNAL /* names as exported, with their versions */
#include <cuda.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "region.h"

#define MIB (1ull << 20)
#define BLOCKS 8
#define KERNEL_NS 20000u
#define LAUNCHES 8 /* between two waits for the card */
#define WORDS_MAX 8
#define BREATH_NS 200000 /* between two scribbles: the tenant's own, so that one processor is not all theirs */

struct book { /* bench/crash_place.py reads it */
  _Atomic(uint64_t) calls;     /* that have answered */
  _Atomic(uint64_t) began_ns;  /* of the call that has not; 0: there is none */
  _Atomic(uint64_t) worst_ns;  /* of calls that wait for nothing */
  _Atomic(uint64_t) slot_ns;   /* of those that may wait for a slot: launches and waits for the card */
  _Atomic(uint64_t) ready_ns;  /* when it had its context */
  _Atomic(uint64_t) refused;   /* answers of CUDA_ERROR_OUT_OF_MEMORY */
};

static struct book *book;
static unsigned pause_us;

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void rest(uint64_t ns) {
  struct timespec pause = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
  nanosleep(&pause, NULL);
}

static void *driver_function(const char *name) {
  static void *driver;
  if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW);
  void *address = driver ? dlsym(driver, name) : NULL;
  if (!address) {
    fprintf(stderr, "crash: %s: %s\n", name, dlerror());
    exit(1);
  }
  return address;
}

static CUresult note(const char *name, _Atomic(uint64_t) *worst_ns, uint64_t began_ns, CUresult result) {
  uint64_t took_ns = now_ns() - began_ns;
  atomic_store(&book->began_ns, 0);
  if (took_ns > atomic_load(worst_ns)) atomic_store(worst_ns, took_ns);
  atomic_fetch_add(&book->calls, 1);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    atomic_fetch_add(&book->refused, 1);
  } else if (result != CUDA_SUCCESS) {
    fprintf(stderr, "crash: %s answered %d\n", name, (int)result);
    exit(1);
  }
  if (pause_us) rest(pause_us * 1000ull);
  return result;
}

/* Calls a driver function and writes in the book how long it took; ends the program at an answer that is no honest one. */
#define CALL(worst, name, ...)                                                                          \
  (__extension__({                                                                                      \
    static void *address_;                                                                              \
    if (!address_) address_ = driver_function(#name);                                                   \
    uint64_t began_ns_ = now_ns();                                                                      \
    atomic_store(&book->began_ns, began_ns_);                                                           \
    note(#name, &book->worst, began_ns_, ((__typeof__(&name))address_)(__VA_ARGS__));                   \
  }))

static void *map(const char *path, size_t bytes) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    perror(path);
    exit(1);
  }
  close(fd);
  return memory;
}

static unsigned dice(void) {
  static uint64_t state;
  if (!state) state = now_ns() * 2 + 1;
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return (unsigned)(state >> 33);
}

/* ---- churn ---- */

static const char *text_of(const char *path) {
  static char text[1 << 16];
  FILE *file = fopen(path, "rb");
  size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
  if (!length) {
    perror(path);
    exit(1);
  }
  fclose(file);
  return text;
}

static CUfunction begin(const char *ptx) {
  CUcontext context;
  CUmodule module;
  CUfunction spin;
  CALL(worst_ns, cuInit, 0);
  while (CALL(worst_ns, cuDevicePrimaryCtxRetain, &context, 0) == CUDA_ERROR_OUT_OF_MEMORY) rest(1000000);
  CALL(worst_ns, cuCtxSetCurrent, context);
  const char *code = text_of(ptx);
  while (CALL(worst_ns, cuModuleLoadData, &module, code) == CUDA_ERROR_OUT_OF_MEMORY) rest(1000000);
  CALL(worst_ns, cuModuleGetFunction, &spin, module, "cgpu_spin");
  atomic_store(&book->ready_ns, now_ns());
  return spin;
}

static void launch_some(CUfunction spin) {
  static uint64_t length_ns = KERNEL_NS;
  void *arguments[] = {&length_ns};
  for (unsigned i = 0; i < LAUNCHES; i++) CALL(slot_ns, cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL);
  CALL(slot_ns, cuCtxSynchronize);
}

static void grow(void) {
  char *memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory != MAP_FAILED) memset(memory, 1, MIB);
}

static void churn(const char *ptx, bool grows) {
  CUdeviceptr block[BLOCKS] = {0};
  size_t free_bytes, total_bytes;
  CUfunction spin = begin(ptx);
  for (;;) {
    CUdeviceptr *one = &block[dice() % BLOCKS];
    if (*one) {
      CALL(worst_ns, cuMemFree_v2, *one);
      *one = 0;
    } else {
      size_t size = dice() % 3 ? (dice() % 24 + 1) * MIB : dice() % 65536 + 1;
      if (CALL(worst_ns, cuMemAlloc_v2, one, size) != CUDA_SUCCESS) *one = 0;
    }
    if (dice() % 4 == 0) CALL(worst_ns, cuMemGetInfo_v2, &free_bytes, &total_bytes);
    if (dice() % 4 == 0) launch_some(spin);
    if (grows) grow();
  }
}

/* ---- scribble ---- */

static void scribble_once(struct cgpu_usage *usage, const char *pattern) {
  if (!strcmp(pattern, "zeros") || !strcmp(pattern, "ones")) {
    memset(usage, pattern[0] == 'z' ? 0 : 0xff, sizeof *usage);
  } else if (!strcmp(pattern, "random")) {
    uint32_t *words = (uint32_t *)usage;
    for (size_t i = 0; i < sizeof *usage / sizeof *words; i++) words[i] = dice() << 1;
  } else if (!strcmp(pattern, "huge")) {
    usage->gpu[0].account = ~0ull << 20 | dice();
    for (unsigned i = 0; i < 16; i++) usage->slot[i].gpu[0].charge = ~0ull << 30 | dice();
  } else if (!strcmp(pattern, "less")) {
    usage->gpu[0].account &= (1ull << (CGPU_ACCOUNT_SLOT_BITS + CGPU_ACCOUNT_SEQ_BITS)) - 1;
    for (unsigned i = 0; i < 16; i++) usage->slot[i].gpu[0].charge &= (1ull << CGPU_CHARGE_SEQ_BITS) - 1;
  } else {
    usage->header.slots_seen = CGPU_MAX_SLOTS;
    for (unsigned i = 16; i < CGPU_MAX_SLOTS; i++) {
      usage->slot[i].header.state = CGPU_SLOT_LIVE;
      usage->slot[i].gpu[0].charge = (uint64_t)dice() << 27;
      usage->slot[i].gpu[0].gate = CGPU_GATE_WANT;
    }
    usage->gpu[0].account = (uint64_t)dice() << 30 | dice();
  }
  __atomic_fetch_add(&usage->gpu[0].doorbell, 1, __ATOMIC_SEQ_CST);
}

static void scribble(const char *path, const char *pattern) {
  struct cgpu_usage *usage = map(path, sizeof *usage);
  for (;;) {
    scribble_once(usage, pattern);
    rest(BREATH_NS);
  }
}

/* ---- the rest ---- */

static void be(int count, char **words) {
  if (!strcmp(words[0], "churn") && count >= 4) {
    book = map(words[1], sizeof *book);
    pause_us = (unsigned)atoi(words[2]);
    churn(words[3], count > 4 && !strcmp(words[4], "grow"));
  }
  if (!strcmp(words[0], "scribble")) scribble(words[1], words[2]);
}

static void breed(char *program) {
  char line[4096];
  signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
  while (fgets(line, sizeof line, stdin)) {
    char *words[WORDS_MAX + 2] = {program};
    int count = 1;
    for (char *word = strtok(line, " \n"); word && count <= WORDS_MAX; word = strtok(NULL, " \n")) words[count++] = word;
    pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      signal(SIGCHLD, SIG_DFL);
      execv("/proc/self/exe", words);
      _exit(127);
    }
    printf("%d\n", (int)child);
    fflush(stdout);
  }
}

int main(int count, char **words) {
  if (count == 2 && !strcmp(words[1], "breed")) breed(words[0]);
  else if (count >= 3) be(count - 1, words + 1);
  return 0;
}
