/* The table of real NVML functions, and the way from a device of NVML's to a row of the region. */
#include "nvml_driver.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "library.h"
#include "region_slot.h"

struct row {
  const char *name;
  size_t offset; /* of the pointer in struct cg_nvml */
};

#define CG_NVML(since, name, ...) {#name, offsetof(struct cg_nvml, name)},
static const struct row rows[] = {
#include "nvml_hooks.def"
    {"nvmlDeviceGetUUID", offsetof(struct cg_nvml, nvmlDeviceGetUUID)},
};
#undef CG_NVML

/* The rows' parameters are NVML's own, or this does not compile. */
#define CG_NVML(since, name, category, params, args) \
  _Static_assert(_Generic(&name, nvmlReturn_t(*) params: 1, default: 0), #name " differs from nvml.h");
#include "nvml_hooks.def"
#undef CG_NVML

static struct cg_nvml *fill(void) {
  if (!cg_library_elf(&cg_library_nvml)) return NULL;
  struct cg_nvml *nvml = calloc(1, sizeof *nvml);
  if (!nvml) return NULL;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    *(void **)((char *)nvml + rows[i].offset) = cg_library_function(&cg_library_nvml, rows[i].name);
  return nvml;
}

const struct cg_nvml *cg_nvml(void) {
  static _Atomic(const struct cg_nvml *) table;
  const struct cg_nvml *ready = atomic_load_explicit(&table, memory_order_acquire);
  if (ready) return ready;
  struct cg_nvml *filled = fill();
  if (!filled || atomic_compare_exchange_strong(&table, &ready, filled)) return filled;
  free(filled); /* another thread was first, with the same content */
  return ready;
}

/* "GPU-" and 32 hexadecimal digits in groups. False for anything else, a MIG device's UUID included. */
static bool parse_uuid(const char *text, uint8_t uuid[16]) {
  if (strncmp(text, "GPU-", 4) != 0) return false;
  unsigned bytes = 0;
  for (text += 4; *text && bytes < 16; text += 2, bytes++) {
    unsigned value;
    if (*text == '-') text++;
    if (sscanf(text, "%2x", &value) != 1) return false;
    uuid[bytes] = (uint8_t)value;
  }
  return bytes == 16 && *text == '\0';
}

/* The UUID is asked for at each call: NVIDIA's library has it in memory, and a handle that was kept
 * over nvmlShutdown may name another device. */
int cg_nvml_gpu(nvmlDevice_t device) {
  const struct cg_files *files = cg_files(); /* not cg_region: looking on takes no slot */
  if (files->state == CG_REGION_NONE) return CG_NVML_PASS;
  if (files->state == CG_REGION_BROKEN) return CG_NVML_BROKEN;
  const struct cg_nvml *nvml = cg_nvml();
  char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
  uint8_t uuid[16];
  if (!nvml || !nvml->nvmlDeviceGetUUID || nvml->nvmlDeviceGetUUID(device, text, sizeof text) != NVML_SUCCESS ||
      !parse_uuid(text, uuid))
    return CG_NVML_PASS; /* the function itself will say what is wrong with the device */
  for (unsigned i = 0; i < CGPU_MAX_GPUS; i++) {
    const struct cgpu_grants_gpu *row = &files->grants->gpu[i];
    if (__atomic_load_n(&row->flags, __ATOMIC_ACQUIRE) & CGPU_GPU_PRESENT && memcmp(row->uuid, uuid, 16) == 0)
      return (int)i;
  }
  return CG_NVML_PASS;
}
