/* driver.c - the table of real driver functions, filled from the libcuda that the process loaded. */
#include <stdlib.h>

#include "core.h"
#include "library.h"

struct row {
  const char *name;
  size_t offset; /* of the pointer in struct cg_driver */
};

#define CG_HOOK(since, name, ...) {#name, offsetof(struct cg_driver, name)},
#define CG_SUBMIT(since, name, ...) {#name, offsetof(struct cg_driver, name)},
#define CG_EXTRA(name) {#name, offsetof(struct cg_driver, x_##name)},
static const struct row rows[] = {
#include "driver_extra.def"
#include "hooks.def"
};
#undef CG_HOOK
#undef CG_SUBMIT
#undef CG_EXTRA

/* The rows' parameters are the driver's own, or this does not compile. */
#define CG_HOOK(since, name, category, params, args) \
  _Static_assert(_Generic(&name, CUresult(*) params: 1, default: 0), #name " differs from cuda.h");
#define CG_SUBMIT(since, name, category, stream, params, args) CG_HOOK(since, name, category, params, args)
#include "hooks.def"
#undef CG_HOOK
#undef CG_SUBMIT

static struct cg_driver *fill(void) {
  if (!cg_library_elf(&cg_library_cuda)) return NULL;
  struct cg_driver *driver = calloc(1, sizeof *driver);
  if (!driver) return NULL;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    *(void **)((char *)driver + rows[i].offset) = cg_library_function(&cg_library_cuda, rows[i].name);
  return driver;
}

_Atomic(const struct cg_driver *) cg_driver_table;

const struct cg_driver *cg_driver_fill(void) {
  const struct cg_driver *first = NULL;
  struct cg_driver *filled = fill();
  if (!filled || atomic_compare_exchange_strong(&cg_driver_table, &first, filled)) return filled;
  free(filled); /* another thread was first, with the same content */
  return first;
}
