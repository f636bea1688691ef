/* library.h - one of NVIDIA's two user-space libraries, as loaded in this process. */
#ifndef CGPU_SHIM_LIBRARY_H
#define CGPU_SHIM_LIBRARY_H

#include <stdatomic.h>

#include "entry_elf.h"

struct cg_library {
  const char *const soname;
  _Atomic(const struct cg_elf *) loaded; /* null until seen */
  _Atomic(unsigned long long) searched;  /* loader's count of added objects at the last search */
};

extern struct cg_library cg_library_cuda; /* libcuda.so.1 */
extern struct cg_library cg_library_nvml; /* libnvidia-ml.so.1 */

/* The library's symbol table, or null while the process has not loaded it. Never loads anything. The
 * first object with that soname in load order is the one, for good: from the moment it is found it
 * is kept loaded, so that addresses taken from it stay valid. Thread safe; errno is kept. */
const struct cg_elf *cg_library_elf(struct cg_library *library);

/* A function of the library, or null when it is not loaded or does not export the name. */
void *cg_library_function(struct cg_library *library, const char *name);

/* The load address of the object that a handle of dlopen's stands for. */
uintptr_t cg_library_base(void *handle);

#endif
