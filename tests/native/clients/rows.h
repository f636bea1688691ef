/* rows.h - what the parts of rows.c share: a row is a driver function by which memory can be had. */
#ifndef CGPU_TESTS_ROWS_H
#define CGPU_TESTS_ROWS_H

#define __CUDA_API_VERSION_INTERNAL /* names as exported, with their versions */
#include <cuda.h>
#include <stddef.h>
#include <stdint.h>

/* A driver may lack any of these: its address is null then, and the program starts all the same. What has to be there
 * for a row besides its function is bound when it is called (link with -z lazy). */
#define CG_HOOK(since, name, ...) extern __typeof__(name) name __attribute__((weak));
#define CG_SUBMIT CG_HOOK
#include "hooks.def"
#define UNHOOKED CG_HOOK
#include "rows_unhooked.def"
#undef CG_HOOK
#undef CG_SUBMIT
#undef UNHOOKED

/* Code for any card, with a kernel `spin` that does nothing. */
#define ROW_IMAGE ".version 6.0\n.target sm_70\n.address_size 64\n.visible .entry spin() { ret; }\n"

enum row_kind {
  ROW_OWN,    /* takes memory of the card */
  ROW_IMPORT, /* opens what another process has offered */
  ROW_ABSENT, /* the simulated driver answers CUDA_ERROR_NOT_SUPPORTED */
  ROW_UNHOOKED, /* takes what belongs to its context, without a size of its own */
};

struct row {
  const char *label; /* the function's name; /captured behind it where a stream captures the call */
  enum row_kind kind;
  /* entry: the function, by whichever route. What fails leaves nothing behind. */
  CUresult (*allocate)(void *entry, size_t bytes);
  CUresult (*release)(void);
};

/* A call of the row's function with the header's own signature. */
#define CALL(name, entry, ...) (((__typeof__(&name))(uintptr_t)(entry))(__VA_ARGS__))

/* An allocate function that is one call. */
#define ALLOCATE(name, ...)                                    \
  static CUresult name##_row(void *entry, size_t bytes) {      \
    (void)bytes;                                               \
    return CALL(name, entry, __VA_ARGS__);                     \
  }

/* Leaves the function that it stands in at the first failure. */
#define TRY(call)                                     \
  do {                                                \
    CUresult result_ = (call);                        \
    if (result_ != CUDA_SUCCESS) return result_;      \
  } while (0)

/* Tables end with a row without label. */
extern const struct row device_rows[], vmm_rows[], context_rows[], pool_rows[], graph_rows[], shared_rows[],
    unhooked_rows[];

/* Memory of another process: what the one offers ("ipc": a block of cuMemAlloc, "handle": one of
 * cuMemCreate, "pool": a pool and a block of it), the other, which expects it, takes. A CUresult, or -1
 * if nothing is passed. */
int offer(const char *what, size_t bytes, int pid);
int expect(void);
int take(void);
/* The one gives up what it has offered; the other, what it has taken but not what it has opened. */
int withdraw(const char *what);
int forget(void);

#endif
