/* nvml_driver.h - the real libnvidia-ml, and whose view of a device a caller gets.
 *
 *   nvml_driver.c       the table of real functions; which GPU of the tenant a device is
 *   nvml_slots.c        which processes are the tenant's, and by what pid the caller knows them
 *   nvml_memory.c       bodies of the mem_info and refused rows of nvml_hooks.def
 *   nvml_processes.c    bodies of the processes rows
 *   nvml_utilisation.c  bodies of the utilisation rows
 *
 * What a body does with a device:
 *   not a tenant, or a device that is not in the tenant's region: NVIDIA's answer, untouched;
 *   a tenant's device: NVIDIA's library is asked first, so that its checks and errors stand, and in
 *     what it answers the card is replaced by the share;
 *   a tenant whose region cannot be used: NVML_ERROR_UNKNOWN, the code that nvml.h documents for
 *     every function as "any unexpected error". It tells nothing about the card; the cause is named
 *     on stderr by whoever found the region broken.
 */
#ifndef CGPU_SHIM_NVML_DRIVER_H
#define CGPU_SHIM_NVML_DRIVER_H

#define NVML_NO_UNVERSIONED_FUNC_DEFS /* declare the old versions too, rename none */
#include <nvml.h>

#include "core.h"

/* The real functions: one pointer per row of nvml_hooks.def and those that the bodies only call; null
 * where the library does not export the name. */
#define CG_NVML(since, name, category, params, args) nvmlReturn_t(*name) params;
struct cg_nvml {
#include "nvml_hooks.def"
  nvmlReturn_t (*nvmlDeviceGetUUID)(nvmlDevice_t device, char *uuid, unsigned int length);
};
#undef CG_NVML

/* The table, or null when this process has not loaded libnvidia-ml. Never loads it. Thread safe. */
const struct cg_nvml *cg_nvml(void);

/* The tenant's row (>= 0) of a device, or one of these. */
enum { CG_NVML_PASS = -1, CG_NVML_BROKEN = -2 };
int cg_nvml_gpu(nvmlDevice_t device);

/* Begins a body: declares `nvml` and, with the tenant's row of the device, `gpu`; returns from the
 * body where the device is none of the tenant's, or the region is broken. */
#define CG_NVML_BEGIN(name, device, ...)                              \
  const struct cg_nvml *const nvml = cg_nvml();                       \
  if (!nvml || !nvml->name) return NVML_ERROR_FUNCTION_NOT_FOUND;     \
  const int gpu = cg_nvml_gpu(device);                                \
  if (gpu == CG_NVML_PASS) return nvml->name(device, __VA_ARGS__);    \
  if (gpu == CG_NVML_BROKEN) return NVML_ERROR_UNKNOWN

/* nvml_slots.c: the tenant's living processes that the caller's PID namespace can see. */
struct cg_nvml_own {
  unsigned pid;                /* as the caller's namespace has it */
  bool on_gpu;                 /* holds contexts or memory of the row */
  unsigned long long bytes;    /* charged to it on the row */
};
/* Fills rows, at most CGPU_MAX_SLOTS, for the row `gpu`; returns how many. A process of a namespace
 * below the caller's is recognised among `candidates`, the pids that NVIDIA's library listed. */
unsigned cg_nvml_own_processes(int gpu, const unsigned *candidates, unsigned candidate_count,
                               struct cg_nvml_own rows[CGPU_MAX_SLOTS]);

#endif
