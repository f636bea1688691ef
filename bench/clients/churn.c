/* churn.c - a tenant that comes and goes: processes that live for a while, allocate, free, launch, and end in any way.
 *
 *   churn PROCESSES SEED PAUSE LIFE
 *
 * Keeps so many processes running until its input ends. Each lives for LIFE pauses on average (of so many
 * microseconds as the file PAUSE says now, a number of 32 bits), does a few calls of the driver after every one, and
 * ends by itself, in the middle of its work, or by SIGKILL. Answers "ready" when the first ones have been started, and
 * at its end one line of JSON: processes started, allocations, refusals and launches of those that ended by
 * themselves, and how many of them had an error that is none of a tenant's. */
#define __CUDA_API_VERSION_INTERNAL /* names as exported, with their versions */
#include <cuda.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESSES_MAX 64
#define BLOCKS 8
#define BLOCK_MAX (24u << 20)
#define FILLED_MAX (64u << 10) /* of a block; what the card does takes this machine's processors */

static struct { /* shared by all processes of the tenant */
  _Atomic(uint64_t) started, allocations, refusals, fills, errors;
} * counted;

static const _Atomic(uint32_t) *pause_us;
static uint64_t state;
static sigset_t ended;

static uint64_t draw(uint64_t below) { /* xorshift */
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state % below;
}

static void *function(void *driver, const char *name) {
  void *found = driver ? dlsym(driver, name) : NULL;
  if (!found) {
    fprintf(stderr, "churn: %s\n", dlerror());
    _exit(3);
  }
  return found;
}

#define FUNCTION(name) __typeof__(&name) name##_ = (__typeof__(&name))function(driver, #name)

static void rest(void) {
  unsigned pause = *pause_us;
  usleep(pause / 2 + (unsigned)draw(pause + 1));
}

static _Noreturn void live(unsigned life) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigprocmask(SIG_UNBLOCK, &ended, NULL);
  uint64_t pauses = life / 2 + draw(life) + 1;
  unsigned ending = (unsigned)draw(4); /* 0: killed, 1: in the middle, otherwise in order */
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  FUNCTION(cuInit);
  FUNCTION(cuCtxCreate_v2);
  FUNCTION(cuCtxDestroy_v2);
  FUNCTION(cuMemAlloc_v2);
  FUNCTION(cuMemFree_v2);
  FUNCTION(cuMemsetD8Async);
  FUNCTION(cuCtxSynchronize);
  CUcontext context;
  CUdeviceptr block[BLOCKS] = {0};
  CUresult result = cuInit_(0);
  if (result == CUDA_SUCCESS) result = cuCtxCreate_v2_(&context, 0, 0);
  while (result == CUDA_ERROR_OUT_OF_MEMORY && pauses--) { /* who was killed before still holds what it held */
    counted->refusals++;
    rest();
    result = cuCtxCreate_v2_(&context, 0, 0);
  }
  while (result == CUDA_SUCCESS && pauses--) {
    rest();
    CUdeviceptr *chosen = &block[draw(BLOCKS)];
    size_t bytes = 1 + draw(BLOCK_MAX);
    if (*chosen) {
      result = cuMemFree_v2_(*chosen);
      *chosen = 0;
      continue;
    }
    result = cuMemAlloc_v2_(chosen, bytes);
    counted->allocations++;
    if (result == CUDA_ERROR_OUT_OF_MEMORY) { /* the tenant has no more */
      *chosen = 0;
      counted->refusals++;
      result = CUDA_SUCCESS;
      continue;
    }
    if (result == CUDA_SUCCESS) result = cuMemsetD8Async_(*chosen, 1, bytes < FILLED_MAX ? bytes : FILLED_MAX, NULL);
    if (result == CUDA_SUCCESS) result = cuCtxSynchronize_();
    counted->fills++;
  }
  if (result != CUDA_SUCCESS && result != CUDA_ERROR_OUT_OF_MEMORY) {
    fprintf(stderr, "churn: the driver answers %d\n", (int)result);
    counted->errors++;
  }
  if (ending == 0) kill(getpid(), SIGKILL);
  if (ending == 1 || result != CUDA_SUCCESS) _exit(0);
  cuCtxDestroy_v2_(context);
  exit(0);
}

static void start(unsigned life) {
  counted->started++;
  draw(2); /* children differ */
  if (fork() == 0) live(life);
}

int main(int count, char **words) {
  if (count != 5) return 2;
  unsigned processes = (unsigned)atoi(words[1]), life = (unsigned)atoi(words[4]);
  if (!processes || processes > PROCESSES_MAX || !life) return 2;
  pause_us = mmap(NULL, sizeof *pause_us, PROT_READ, MAP_SHARED, open(words[3], O_RDONLY | O_CLOEXEC), 0);
  if (pause_us == MAP_FAILED) return 1;
  state = strtoull(words[2], NULL, 10) * 0x9e3779b97f4a7c15u + 1;
  counted = mmap(NULL, sizeof *counted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (counted == MAP_FAILED) return 1;
  sigemptyset(&ended);
  sigaddset(&ended, SIGCHLD);
  sigprocmask(SIG_BLOCK, &ended, NULL);
  for (unsigned i = 0; i < processes; i++) start(life);
  puts("ready");
  fflush(stdout);
  enum { INPUT, ENDED, WAITED_FOR };
  struct pollfd wait[WAITED_FOR] = {[INPUT] = {.fd = STDIN_FILENO, .events = POLLIN},
                                    [ENDED] = {.fd = signalfd(-1, &ended, SFD_CLOEXEC), .events = POLLIN}};
  while (poll(wait, WAITED_FOR, -1) > 0 && !wait[INPUT].revents) {
    struct signalfd_siginfo read_away;
    if (read(wait[ENDED].fd, &read_away, sizeof read_away) < 0) return 1;
    while (waitpid(-1, NULL, WNOHANG) > 0) start(life);
  }
  signal(SIGTERM, SIG_IGN);
  kill(0, SIGTERM); /* a group of its own: see the caller */
  while (waitpid(-1, NULL, 0) > 0) continue;
  printf("{\"started\": %llu, \"allocations\": %llu, \"refusals\": %llu, \"fills\": %llu, \"errors\": %llu}\n",
         (unsigned long long)counted->started, (unsigned long long)counted->allocations,
         (unsigned long long)counted->refusals, (unsigned long long)counted->fills,
         (unsigned long long)counted->errors);
  return 0;
}
