/* entry_driver.c - the symbol lookup of the driver itself, cuGetProcAddress.
 *
 * cuGetProcAddress chooses an export by name, version and flags, and which one is the driver's own
 * affair: it is asked, and of its answer only the pointer is exchanged, by address. So versions,
 * flags, status and errors are the driver's for every driver, known to us or not.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

struct hook {
  const char *name;
  void *ours;
  size_t offset; /* of the real pointer in struct cg_driver */
};

#define CG_HOOK(since, name, ...) {#name, (void *)&name, offsetof(struct cg_driver, name)},
#define CG_SUBMIT(since, name, ...) {#name, (void *)&name, offsetof(struct cg_driver, name)},
static const struct hook hooks[] = {
#include "hooks.def"
};
#undef CG_HOOK
#undef CG_SUBMIT

enum { HOOKS = sizeof hooks / sizeof *hooks, CELLS = 1024 /* power of two */ };
_Static_assert(2 * HOOKS <= CELLS, "the index is at most half full");

/* Open addressing by real address; a cell holds 1 + the index of a hook, 0 is empty. */
struct by_address {
  uint16_t cell[CELLS];
};

static void *real_of(const struct cg_driver *driver, const struct hook *hook) {
  return *(void *const *)((const char *)driver + hook->offset);
}

static unsigned first_cell(const void *real) {
  return (unsigned)((uintptr_t)real * UINT64_C(0x9e3779b97f4a7c15) >> 48) % CELLS;
}

static const struct by_address *by_address(const struct cg_driver *driver) {
  static _Atomic(const struct by_address *) index;
  const struct by_address *ready = atomic_load_explicit(&index, memory_order_acquire);
  if (ready) return ready;
  struct by_address *built = calloc(1, sizeof *built);
  if (!built) return NULL;
  for (uint16_t i = 0; i < HOOKS; i++) {
    const void *real = real_of(driver, &hooks[i]);
    unsigned cell = first_cell(real);
    if (!real) continue;
    while (built->cell[cell]) cell = (cell + 1) % CELLS;
    built->cell[cell] = i + 1;
  }
  if (atomic_compare_exchange_strong(&index, &ready, built)) return built;
  free(built);
  return ready;
}

/* Whether an export is a variant of the name that was asked for: cuMemAlloc_v2 of cuMemAlloc. */
static bool is_variant(const char *export, const char *asked) {
  size_t length = strlen(asked);
  return strncmp(export, asked, length) == 0 && (!export[length] || export[length] == '_');
}

/* No driver that we know (535, 550, 555) has two exports at one address. Should a linker have folded
 * equal ones, the asked name decides between them, and if it fits none, the pointer stays. */
void *cg_entry_replace(const char *name, void *real) {
  const struct cg_driver *driver = cg_driver();
  const struct by_address *index = driver ? by_address(driver) : NULL;
  if (!index) return real;
  const struct hook *only = NULL;
  unsigned matches = 0;
  for (unsigned cell = first_cell(real); index->cell[cell]; cell = (cell + 1) % CELLS) {
    const struct hook *hook = &hooks[index->cell[cell] - 1];
    if (real_of(driver, hook) != real) continue;
    if (name && is_variant(hook->name, name)) return hook->ours;
    only = hook;
    matches++;
  }
  return matches == 1 ? only->ours : real;
}

CG_EXPORT CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags) {
  const struct cg_driver *driver = cg_driver();
  if (!driver || !driver->cuGetProcAddress) return CUDA_ERROR_NOT_FOUND;
  CUresult result = driver->cuGetProcAddress(symbol, pfn, cudaVersion, flags);
  if (result == CUDA_SUCCESS && pfn && *pfn) *pfn = cg_entry_replace(symbol, *pfn);
  return result;
}

CG_EXPORT CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                                       CUdriverProcAddressQueryResult *symbolStatus) {
  const struct cg_driver *driver = cg_driver();
  if (!driver || !driver->cuGetProcAddress_v2) return CUDA_ERROR_NOT_FOUND;
  CUresult result = driver->cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, symbolStatus);
  if (result == CUDA_SUCCESS && pfn && *pfn) *pfn = cg_entry_replace(symbol, *pfn);
  return result;
}
