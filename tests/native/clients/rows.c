/* rows.c - a directly linked client that gets memory by every function that gives any.
 *
 *   rows list                 the rows, a line each: label, kind
 *   rows missing              the rows whose function the driver does not export, a line each
 *   rows versions             what both forms of cuGetProcAddress find: function, route, version, flags
 *   rows run                  obeys the lines of its input, each a JSON string:
 *     begin                                     a context more, current
 *     begin primary                             the device's primary context, current
 *     end FUNCTION                              the current one, by one of `endings` below
 *     fill                                      takes memory until it is refused
 *     empty                                     gives that back
 *     allocate ROW ROUTE VERSION FLAGS BYTES    ROUTE: direct, dlsym, dlvsym, default (dlsym of
 *                                               RTLD_DEFAULT), procaddress (cuGetProcAddress_v2) or
 *                                               procaddress_v1; these two use VERSION and FLAGS
 *     release                                   what was allocated last
 *     expect, offer WHAT BYTES PID, take, withdraw WHAT, forget
 *                                               memory of another process, see rows.h
 *   and answers each by a line of JSON; a number is a CUresult, -1 that there is no such function.
 *
 * Functions are taken by address in the table below, so that the dynamic linker binds them as it does
 * for any program that was linked with -lcuda. A function that the driver lacks is null there (rows.h).
 */
#include "rows.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct function {
  const char *name;
  int since;
  void *direct;
};

/* Of hooks.def, the rows of the two categories of allocation, and of mapping what was allocated; and the
 * functions that are not hooked though they take some memory (tests/parity/unhooked.tsv says why). */
#define FUNCTION_alloc_device(since, name) {#name, since, (void *)(uintptr_t)name},
#define FUNCTION_alloc_indirect(since, name) {#name, since, (void *)(uintptr_t)name},
#define FUNCTION_map_va(since, name) {#name, since, (void *)(uintptr_t)name},
#define FUNCTION_capture(since, name)
#define FUNCTION_entry(since, name)
#define FUNCTION_free_device(since, name)
#define FUNCTION_mem_info(since, name)
#define FUNCTION_share_memory(since, name)
#define FUNCTION_submit_kernel(since, name)
#define FUNCTION_sync(since, name)
#define CG_HOOK(since, name, category, ...) FUNCTION_##category(since, name)
#define CG_SUBMIT(...)
static const struct function functions[] = {
#include "hooks.def"
#define UNHOOKED(since, name) {#name, since, (void *)(uintptr_t)name},
#include "rows_unhooked.def"
};
#define FUNCTIONS (sizeof functions / sizeof *functions)

static const struct row *const tables[] = {device_rows, vmm_rows, context_rows, pool_rows, graph_rows, shared_rows,
                                           unhooked_rows};
#define TABLES (sizeof tables / sizeof *tables)

static const struct row *find_row(const char *label) {
  for (size_t t = 0; t < TABLES; t++)
    for (const struct row *row = tables[t]; row->label; row++)
      if (!strcmp(row->label, label)) return row;
  return NULL;
}

/* The function of a label, without what the label says about how it is called. */
static const struct function *find_function(const char *label) {
  size_t length = strcspn(label, "/");
  for (size_t i = 0; i < FUNCTIONS; i++)
    if (!strncmp(functions[i].name, label, length) && !functions[i].name[length]) return &functions[i];
  return NULL;
}

/* ---- routes ---- */

/* The name that cuGetProcAddress knows a function by: without version and without stream variant. */
static void *by_address(const char *name, int first, int version, cuuint64_t flags) {
  char plain[64];
  void *found = NULL;
  if (first ? !cuGetProcAddress : !cuGetProcAddress_v2) return NULL;
  snprintf(plain, sizeof plain, "%s", name);
  char *end = strstr(plain, "_ptsz");
  if (end) *end = 0;
  end = strrchr(plain, '_');
  if (end && end[1] == 'v') *end = 0;
  CUresult result = first ? cuGetProcAddress(plain, &found, version, flags)
                          : cuGetProcAddress_v2(plain, &found, version, flags, NULL);
  return result == CUDA_SUCCESS ? found : NULL;
}

static void *by_route(const struct function *function, const char *route, int version, cuuint64_t flags) {
  if (!strcmp(route, "direct")) return function->direct;
  if (!strcmp(route, "default")) return dlsym(RTLD_DEFAULT, function->name);
  if (!strncmp(route, "dl", 2)) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!driver) return NULL;
    return route[2] == 's' ? dlsym(driver, function->name) : dlvsym(driver, function->name, "libcuda.so.1");
  }
  return by_address(function->name, !strcmp(route, "procaddress_v1"), version, flags);
}

/* The versions that are asked for: those of the interface's own changes, and the one in which the
 * function came, which is the only way to some of the old ones. */
static int versions(void) {
  for (size_t i = 0; i < FUNCTIONS; i++) {
    const struct function *function = &functions[i];
    const int asked[] = {function->since, 11030, 12000, 13000};
    for (unsigned v = 0; v < sizeof asked / sizeof *asked; v++)
      for (unsigned flags = 0; flags <= 2; flags++)
        for (int first = 0; first <= 1; first++)
          if (function->direct && by_address(function->name, first, asked[v], flags) == function->direct)
            printf("%s procaddress%s %d %u\n", function->name, first ? "_v1" : "", asked[v], flags);
  }
  return 0;
}

static int list(void) {
  static const char *const kinds[] = {"own", "import", "absent", "unhooked"};
  for (size_t t = 0; t < TABLES; t++)
    for (const struct row *row = tables[t]; row->label; row++) printf("%s %s\n", row->label, kinds[row->kind]);
  return 0;
}

/* Under a shim that exports all names of its own nothing is missing: to be asked without one. */
static int missing(void) {
  for (size_t t = 0; t < TABLES; t++)
    for (const struct row *row = tables[t]; row->label; row++)
      if (!find_function(row->label)->direct) printf("%s\n", row->label);
  return 0;
}

/* ---- orders ---- */

#define PIECE_BYTES (2u << 20) /* what the card gives out at least */
static CUdeviceptr filling[1 << 14];
static size_t pieces;

static CUresult fill(void) {
  CUresult result = CUDA_SUCCESS;
  for (size_t bytes = PIECE_BYTES << 5; bytes >= PIECE_BYTES; bytes /= 2)
    while (pieces < sizeof filling / sizeof *filling && !(result = cuMemAlloc_v2(&filling[pieces], bytes))) pieces++;
  return result;
}
static CUresult empty(void) {
  while (pieces) TRY(cuMemFree_v2(filling[--pieces]));
  return CUDA_SUCCESS;
}

static CUresult begin(int primary) {
  CUcontext context;
  TRY(cuInit(0));
  if (!primary) return cuCtxCreate_v2(&context, 0, 0);
  TRY(cuDevicePrimaryCtxRetain(&context, 0));
  return cuCtxPushCurrent_v2(context);
}

static CUresult release(CUcontext context) { return context ? cuDevicePrimaryCtxRelease(0) : CUDA_SUCCESS; }
static CUresult release_v2(CUcontext context) { return context ? cuDevicePrimaryCtxRelease_v2(0) : CUDA_SUCCESS; }
static CUresult reset(CUcontext context) { return context ? cuDevicePrimaryCtxReset(0) : CUDA_SUCCESS; }
static CUresult reset_v2(CUcontext context) { return context ? cuDevicePrimaryCtxReset_v2(0) : CUDA_SUCCESS; }

static const struct {
  const char *name;
  int primary;
  CUresult (*function)(CUcontext);
} endings[] = {
    {"cuCtxDestroy", 0, cuCtxDestroy},
    {"cuCtxDestroy_v2", 0, cuCtxDestroy_v2},
    {"cuCtxDetach", 0, cuCtxDetach},
    {"cuDevicePrimaryCtxRelease", 1, release},
    {"cuDevicePrimaryCtxRelease_v2", 1, release_v2},
    {"cuDevicePrimaryCtxReset", 1, reset},
    {"cuDevicePrimaryCtxReset_v2", 1, reset_v2},
};

static int end(const char *name) {
  CUcontext context;
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    if (strcmp(endings[i].name, name)) continue;
    CUresult result = endings[i].primary ? cuCtxPopCurrent_v2(&context) : cuCtxGetCurrent(&context);
    return (int)(result == CUDA_SUCCESS ? endings[i].function(context) : result);
  }
  return -1;
}

static int allocate(const struct row *row, const char *order) {
  char label[64], route[16];
  int version;
  unsigned flags;
  size_t bytes;
  if (sscanf(order, "\"allocate %63s %15s %d %u %zu", label, route, &version, &flags, &bytes) != 5) return -1;
  void *entry = by_route(find_function(label), route, version, flags);
  return entry ? (int)row->allocate(entry, bytes) : -1;
}

/* The answer to one order. */
static int obey(const char *order) {
  static const struct row *row;
  char word[64];
  int pid;
  size_t bytes;
  if (!strncmp(order, "\"begin", 6)) return (int)begin(!strncmp(order, "\"begin primary", 14));
  if (sscanf(order, "\"end %63[A-Za-z0-9_]", word) == 1) return end(word);
  if (sscanf(order, "\"allocate %63s", word) == 1) {
    row = find_row(word);
    return row ? allocate(row, order) : -1;
  }
  if (!strncmp(order, "\"fill", 5)) return (int)fill();
  if (!strncmp(order, "\"empty", 6)) return (int)empty();
  if (!strncmp(order, "\"release", 8)) return row ? (int)row->release() : -1;
  if (!strncmp(order, "\"expect", 7)) return expect();
  if (sscanf(order, "\"offer %63s %zu %d", word, &bytes, &pid) == 3) return offer(word, bytes, pid);
  if (!strncmp(order, "\"take", 5)) return take();
  if (sscanf(order, "\"withdraw %63[a-z]", word) == 1) return withdraw(word);
  if (!strncmp(order, "\"forget", 7)) return forget();
  return -1;
}

int main(int count, char **words) {
  static char order[256];
  if (count != 2) return 2;
  if (!strcmp(words[1], "list")) return list();
  if (!strcmp(words[1], "missing")) return missing();
  if (!strcmp(words[1], "versions")) return versions();
  while (fgets(order, sizeof order, stdin)) {
    int answer = obey(order);
    printf("%d\n", answer);
    fflush(stdout);
  }
  return 0;
}
