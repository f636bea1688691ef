/* guest.c - a program that looks at what it has of its own, before and after it has used the card.
 *
 *   guest state     its signals, mask, umask, variables, threads and descriptors: before, after, and in the end
 *   guest fork      a child that ends by exit() leaves the parent's memory and its place alone
 *   guest vfork, guest spawn     the descriptors of a program that is started meanwhile
 *   guest threads   threads use the card from before main() until the process is gone
 *   guest close     opens, uses and closes the driver fifty times
 *   guest idle      links nothing of CUDA's and calls none of it
 */
#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES (4u << 20)
#define THREADS 8

extern char **environ;
static void *library;
static CUcontext context;

static void fail(const char *what, int result) {
  fprintf(stderr, "guest: %s: %d\n", what, result);
  _exit(1);
}
#define CU(name, ...)                                                                            \
  do {                                                                                           \
    __typeof__(&name) function_ = (__typeof__(&name))(uintptr_t)dlsym(library, #name);           \
    int result_ = function_ ? (int)function_(__VA_ARGS__) : -1;                                  \
    if (result_) fail(#name, result_);                                                           \
  } while (0)

static void use(void) {
  CUdeviceptr pointer;
  CU(cuMemAlloc_v2, &pointer, BYTES);
  CU(cuMemsetD8_v2, pointer, 1, BYTES);
  CU(cuMemFree_v2, pointer);
}
static void begin(void) {
  library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) fail("dlopen", 0);
  CU(cuInit, 0);
  CU(cuDevicePrimaryCtxRetain, &context, 0);
  CU(cuCtxSetCurrent, context);
}

static unsigned entries(const char *folder, int named) {
  unsigned count = 0;
  DIR *directory = opendir(folder);
  for (struct dirent *entry; directory && (entry = readdir(directory));) {
    char path[300], target[4096];
    if (entry->d_name[0] == '.') continue;
    count++;
    if (!named) continue;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length > 0) printf(" %.*s", (int)length, target);
  }
  closedir(directory);
  return count;
}
static void look(const char *when) {
  unsigned handled = 0;
  sigset_t mask;
  for (int number = 1; number < 65; number++) {
    struct sigaction action;
    if (!sigaction(number, NULL, &action) && action.sa_handler != SIG_DFL) handled++;
  }
  sigprocmask(SIG_BLOCK, NULL, &mask);
  unsigned blocked = 0;
  for (int number = 1; number < 65; number++) blocked += sigismember(&mask, number) == 1;
  mode_t old = umask(0);
  umask(old);
  uint64_t variables = 0;
  for (char **word = environ; *word; word++)
    if (strncmp(*word, "LD_PRELOAD=", 11) != 0)
      for (const char *letter = *word; *letter; letter++) variables = variables * 31 + (unsigned char)*letter;
  printf("%s handled=%u blocked=%u umask=%o variables=%llx threads=%u fds:", when, handled, blocked, (unsigned)old,
         (unsigned long long)variables, entries("/proc/self/task", 0));
  entries("/proc/self/fd", 1);
  printf("\n");
}
static int state(void) {
  umask(027);
  look("before");
  begin();
  use();
  look("after");
  CU(cuDevicePrimaryCtxRelease_v2, 0);
  look("end");
  return 0;
}

static int forked(void) {
  begin();
  use();
  CUdeviceptr kept;
  CU(cuMemAlloc_v2, &kept, BYTES);
  for (int i = 0; i < 20; i++) {
    pid_t child = fork();
    if (!child) exit(0);
    int status;
    waitpid(child, &status, 0);
    if (status) fail("child", status);
  }
  printf("held\n");
  fflush(stdout);
  getchar();
  CU(cuMemFree_v2, kept);
  return 0;
}
static int started(int with_vfork) {
  char *words[] = {"ls", "-l", "/proc/self/fd", NULL};
  pid_t child;
  begin();
  use();
  if (!with_vfork) {
    if (posix_spawn(&child, "/bin/ls", NULL, NULL, words, environ)) return 1;
  } else if (!(child = vfork())) {
    execv("/bin/ls", words);
    _exit(1);
  }
  int status;
  waitpid(child, &status, 0);
  use();
  return status;
}

static void *keep_using(void *unused) {
  (void)unused;
  CU(cuCtxSetCurrent, context);
  for (;;) use();
  return NULL;
}
static void start_threads(void) {
  pthread_t thread;
  begin();
  for (int i = 0; i < THREADS; i++) pthread_create(&thread, NULL, keep_using, NULL);
}
__attribute__((constructor)) static void before_main(int count, char **words) {
  if (count > 1 && !strcmp(words[1], "threads")) start_threads();
}

static int opened_and_closed(void) {
  for (int i = 0; i < 50; i++) {
    begin();
    use();
    CU(cuDevicePrimaryCtxRelease_v2, 0);
    dlclose(library);
    if (i == 0 || i == 49) look("closed");
  }
  return 0;
}

int main(int count, char **words) {
  const char *what = count > 1 ? words[1] : "";
  if (!strcmp(what, "state")) return state();
  if (!strcmp(what, "fork")) return forked();
  if (!strcmp(what, "vfork")) return started(1);
  if (!strcmp(what, "spawn")) return started(0);
  if (!strcmp(what, "close")) return opened_and_closed();
  if (!strcmp(what, "threads")) {
    usleep(20000); /* they are in the middle of it */
    return 0;
  }
  look("idle");
  FILE *maps = fopen("/proc/self/maps", "r");
  for (int letter; maps && (letter = getc(maps)) != EOF;) putchar(letter);
  return 0;
}
