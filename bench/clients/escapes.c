/* escapes.c - a tenant that tries to get more than its share, by the way that is named.
 *
 *   escapes WAY BYTES [PATH]
 *
 * Tries to have BYTES of card 0 and prints one line: the driver's answer to the attempt that asks for
 * more than the share, or what has kept it from asking. Then it holds what it has until its input ends.
 * Compiled as a library (-DPLUGIN) it is what a program opens or preloads: escape_take() does the same.
 * PATH: the plugin, or a copy of libcuda. */
#define __CUDA_API_VERSION_INTERNAL /* names as exported, with their versions */
#include <cuda.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NO_LIBRARY (-1)  /* the library cannot be opened */
#define NO_FUNCTION (-2) /* it has no such function */

extern char **environ;
static void *library;
static void *(*find)(const char *name);

static void *by_dlsym(const char *name) { return dlsym(library, name); }

#define CU(name) ((__typeof__(&name))(uintptr_t)find(#name))
#define TRY(call)                      \
  do {                                 \
    int result_ = (int)(call);         \
    if (result_) return result_;       \
  } while (0)

static int begin(void) {
  CUcontext context;
  if (!library) return NO_LIBRARY;
  if (!find("cuMemAlloc_v2")) return NO_FUNCTION;
  TRY(CU(cuInit)(0));
  TRY(CU(cuDevicePrimaryCtxRetain)(&context, 0));
  return (int)CU(cuCtxSetCurrent)(context);
}

static int take(size_t bytes) {
  CUdeviceptr pointer;
  TRY(begin());
  return (int)CU(cuMemAlloc_v2)(&pointer, bytes);
}

/* What a library does: finds the driver for itself. */
__attribute__((visibility("default"))) int escape_take(size_t bytes);
int escape_take(size_t bytes) {
  library = dlopen("libcuda.so.1", RTLD_NOW), find = by_dlsym;
  return take(bytes);
}

#ifdef PLUGIN
/* As an auditing library (LD_AUDIT), before the program begins. */
__attribute__((visibility("default"))) unsigned la_version(unsigned version);
unsigned la_version(unsigned version) { return version; }
__attribute__((visibility("default"))) void la_preinit(uintptr_t *cookie);
void la_preinit(uintptr_t *cookie) {
  const char *bytes = getenv("ESCAPE_BYTES");
  (void)cookie;
  if (!bytes) return;
  printf("%d\n", escape_take(strtoull(bytes, NULL, 0)));
  fflush(stdout);
}
#else

/* ---- the driver's own table of names, as a debugger reads it ---- */

static uintptr_t driver_base;
static const ElfW(Sym) *symbols;
static const char *names;
static size_t symbol_count;

static int visit(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size, (void)data;
  const char *slash = object->dlpi_name ? strrchr(object->dlpi_name, '/') : NULL;
  if (!slash || strcmp(slash, "/libcuda.so.1") != 0) return 0;
  driver_base = object->dlpi_addr;
  for (unsigned i = 0; i < object->dlpi_phnum; i++) {
    if (object->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    for (const ElfW(Dyn) *row = (const void *)(driver_base + object->dlpi_phdr[i].p_vaddr); row->d_tag; row++) {
      if (row->d_tag == DT_SYMTAB) symbols = (const void *)(uintptr_t)row->d_un.d_ptr;
      if (row->d_tag == DT_STRTAB) names = (const void *)(uintptr_t)row->d_un.d_ptr;
    }
  }
  symbol_count = ((uintptr_t)names - (uintptr_t)symbols) / sizeof *symbols; /* the one lies behind the other */
  return 1;
}
static void *by_table(const char *name) {
  for (size_t i = 0; i < symbol_count; i++)
    if (symbols[i].st_value && !strcmp(names + symbols[i].st_name, name)) return (void *)(driver_base + symbols[i].st_value);
  return NULL;
}

/* ---- memory that something keeps: filled, freed, and filled again by another way ---- */

static int again(size_t bytes) {
  CUdeviceptr pointer;
  return (int)CU(cuMemAlloc_v2)(&pointer, bytes);
}
static int pool_keeps(size_t bytes) {
  CUmemoryPool pool;
  CUdeviceptr pointer;
  cuuint64_t threshold = UINT64_MAX;
  TRY(begin());
  TRY(CU(cuDeviceGetDefaultMemPool)(&pool, 0));
  TRY(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  TRY(CU(cuMemAllocAsync)(&pointer, bytes, NULL));
  TRY(CU(cuMemFreeAsync)(pointer, NULL));
  TRY(CU(cuCtxSynchronize)());
  return again(bytes);
}
static int graph_keeps(size_t bytes) {
  CUDA_MEM_ALLOC_NODE_PARAMS parameters = {
      .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}},
      .bytesize = bytes};
  CUgraph graph;
  CUgraphNode node, end;
  CUgraphExec executable;
  TRY(begin());
  TRY(CU(cuGraphCreate)(&graph, 0));
  TRY(CU(cuGraphAddMemAllocNode)(&node, graph, NULL, 0, &parameters));
  TRY(CU(cuGraphAddMemFreeNode)(&end, graph, &node, 1, parameters.dptr));
  TRY(CU(cuGraphInstantiateWithFlags)(&executable, graph, 0));
  TRY(CU(cuGraphLaunch)(executable, NULL));
  TRY(CU(cuCtxSynchronize)());
  TRY(CU(cuGraphExecDestroy)(executable));
  return again(bytes);
}
static int mapping_keeps(size_t bytes) {
  const CUmemAllocationProp on_card = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                       .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
  CUmemGenericAllocationHandle handle;
  CUdeviceptr range;
  TRY(begin());
  TRY(CU(cuMemCreate)(&handle, bytes, &on_card, 0));
  TRY(CU(cuMemAddressReserve)(&range, bytes, 0, 0, 0));
  TRY(CU(cuMemMap)(range, bytes, 0, handle, 0));
  TRY(CU(cuMemRelease)(handle));
  return again(bytes);
}

/* The tenant's lock goes with the last descriptor of its file. */
static void close_region(void) {
  char link[32], path[4096];
  for (int fd = 3; fd < 4096; fd++) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 6) continue;
    path[length] = 0;
    if (!strcmp(path + length - 6, "/locks") && strstr(path, "/tenant")) close(fd);
  }
}

/* ---- other processes and threads: each has its share of the whole at least ---- */

enum { MANY = 8 };

/* The children hold what they have until their input ends, as this process does. */
static int wait_for_answers(int answers, int count) {
  int got = 0, last = 0;
  for (int answer; count && read(answers, &answer, sizeof answer) == sizeof answer; count--)
    if (answer) last = answer;
    else got++;
  printf("%d\n", last ? last : got ? 0 : NO_LIBRARY);
  fflush(stdout);
  while (getchar() != EOF) continue;
  return 0;
}
static int forked(size_t bytes, int count) {
  int answers[2];
  if (pipe(answers)) return 1;
  for (int i = 0; i < count; i++) {
    if (fork()) continue;
    setsid();
    if (fork()) _exit(0); /* nobody's child any more */
    int answer = escape_take(bytes);
    if (write(answers[1], &answer, sizeof answer) < 0) _exit(1);
    while (getchar() != EOF) continue;
    _exit(0);
  }
  close(answers[1]);
  return wait_for_answers(answers[0], count);
}
static void *of_thread(void *bytes) {
  CUdeviceptr pointer;
  CUcontext context;
  int result = (int)CU(cuDevicePrimaryCtxRetain)(&context, 0);
  if (!result) result = (int)CU(cuCtxSetCurrent)(context);
  if (!result) result = (int)CU(cuMemAlloc_v2)(&pointer, (size_t)(uintptr_t)bytes);
  return (void *)(intptr_t)result;
}
static int threads(size_t bytes) {
  pthread_t thread[MANY];
  intptr_t last = 0;
  TRY(begin());
  for (int i = 0; i < MANY; i++) pthread_create(&thread[i], NULL, of_thread, (void *)bytes);
  for (int i = 0; i < MANY; i++) {
    void *result;
    pthread_join(thread[i], &result);
    if (result) last = (intptr_t)result;
  }
  return (int)last;
}
/* An environment with nothing but what finds the driver, where that is not installed. */
static char **only_the_drivers(void) {
  static char *kept[3];
  unsigned count = 0;
  for (char **word = environ; *word && count < 2; word++)
    if (!strncmp(*word, "LD_LIBRARY_PATH=", 16) || !strncmp(*word, "CGPU_SIM_STATE=", 15)) kept[count++] = *word;
  return kept;
}
static int executed(const char *way, char **words) {
  char *again[] = {words[0], "plain", words[2], NULL};
  pid_t child = 0;
  if (!strcmp(way, "exec")) return execv("/proc/self/exe", again);
  if (!strcmp(way, "exec-empty")) return (int)syscall(SYS_execve, "/proc/self/exe", again, only_the_drivers());
  if (!strcmp(way, "spawn")) posix_spawn(&child, "/proc/self/exe", NULL, NULL, again, environ);
  else if (!strcmp(way, "vfork")) {
    if (!(child = vfork())) {
      execv("/proc/self/exe", again);
      _exit(1);
    }
  } else if (!(child = fork())) {
    return execv("/proc/self/exe", again);
  }
  waitpid(child, NULL, 0);
  return 0;
}

/* ---- the ways ---- */

static int by_plugin(void *plugin, size_t bytes) {
  int (*function)(size_t) = plugin ? (int (*)(size_t))(uintptr_t)dlsym(plugin, "escape_take") : NULL;
  return function ? function(bytes) : plugin ? NO_FUNCTION : NO_LIBRARY;
}
static int in_this_process(const char *way, size_t bytes, const char *path) {
  find = by_dlsym;
  if (!strcmp(way, "dlmopen")) {
    library = dlmopen(LM_ID_NEWLM, "libcuda.so.1", RTLD_NOW);
    return take(bytes);
  }
  if (!strcmp(way, "dlmopen-plugin")) return by_plugin(dlmopen(LM_ID_NEWLM, path, RTLD_NOW), bytes);
  if (!strcmp(way, "plugin")) return by_plugin(dlopen(path, RTLD_NOW), bytes);
  if (!strcmp(way, "deepbind")) return by_plugin(dlopen(path, RTLD_NOW | RTLD_DEEPBIND), bytes);
  if (!strcmp(way, "copy")) {
    library = dlopen(path, RTLD_NOW);
    return take(bytes);
  }
  library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!strcmp(way, "second-copy")) {
    TRY(begin());
    library = dlopen(path, RTLD_NOW);
    return take(bytes);
  }
  if (!strcmp(way, "table")) {
    if (!dl_iterate_phdr(visit, NULL)) return NO_LIBRARY;
    find = by_table;
    return take(bytes);
  }
  if (!strcmp(way, "closed")) {
    TRY(begin());
    close_region();
    return again(bytes);
  }
  if (!strcmp(way, "pool")) return pool_keeps(bytes);
  if (!strcmp(way, "graph")) return graph_keeps(bytes);
  if (!strcmp(way, "mapping")) return mapping_keeps(bytes);
  if (!strcmp(way, "threads")) return threads(bytes);
  return take(bytes);
}

int main(int count, char **words) {
  if (count < 3) return 2;
  const char *way = words[1];
  size_t bytes = strtoull(words[2], NULL, 0);
  if (!strncmp(way, "exec", 4) || !strcmp(way, "spawn") || !strcmp(way, "vfork") || !strcmp(way, "fork-exec"))
    return executed(way, words);
  if (!strcmp(way, "fork")) return forked(bytes, 1);
  if (!strcmp(way, "forks")) return forked(bytes, MANY);
  if (strcmp(way, "nothing") != 0) {
    printf("%d\n", in_this_process(way, bytes, count > 3 ? words[3] : ""));
    fflush(stdout);
  }
  while (getchar() != EOF) continue;
  return 0;
}
#endif
