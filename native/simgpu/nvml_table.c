/* The private table that nvidia-smi asks for before anything else. What is known of it was published
 * by NVIDIA in its own mock of the library (github.com/NVIDIA/k8s-test-infra, Apache-2.0): the first
 * word is the table's size in bytes, the others are functions of up to four words that return an
 * NVML code. Slots are numbered by word. Its process lists bypass the public functions: by the type
 * that nvidia-smi 535 to 555 prints for their rows, slot 213 has the compute processes, 214 graphics,
 * 215 MPS. Every slot that is not described answers NVML_ERROR_NOT_SUPPORTED, which those versions
 * show as "N/A". */
#include "nvml_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_WORDS = 512 };

typedef nvmlReturn_t table_function(uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d);

struct table_process {
  uint32_t pid;
  uint32_t reserved;
  uint64_t used_bytes;
  uint32_t gpu_instance, compute_instance;
  uint64_t protected_bytes;
  char name[4096];
};
_Static_assert(sizeof(struct table_process) == 4128, "nvidia-smi's rows have 4128 bytes");

static nvmlReturn_t undescribed(uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d) {
  (void)a;
  (void)b;
  (void)c;
  (void)d;
  return NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t device_by_index(uintptr_t index, uintptr_t device, uintptr_t flags, uintptr_t unused) {
  (void)flags;
  (void)unused;
  return nvmlDeviceGetHandleByIndex_v2((unsigned)index, (nvmlDevice_t *)device);
}

/* (device, unsigned *room in and count out, struct table_process *) */
static nvmlReturn_t compute_processes(uintptr_t device, uintptr_t count_word, uintptr_t rows_word, uintptr_t unused) {
  (void)unused;
  unsigned *count = (unsigned *)count_word;
  struct table_process *rows = (struct table_process *)rows_word;
  SN_ENTER(card, (nvmlDevice_t)device, count);
  unsigned room = rows ? *count : 0;
  struct sn_process *found = calloc(room ? room : 1, sizeof *found);
  if (!found) return NVML_ERROR_MEMORY;
  nvmlReturn_t result = sn_processes(card, found, room, count);
  if (result == NVML_SUCCESS && *count > room) result = NVML_ERROR_INSUFFICIENT_SIZE;
  for (unsigned i = 0; result == NVML_SUCCESS && i < *count; i++) {
    rows[i] = (struct table_process){.pid = found[i].pid,
                                     .used_bytes = found[i].memory_bytes,
                                     .gpu_instance = SN_NO_INSTANCE,
                                     .compute_instance = SN_NO_INSTANCE};
    if (nvmlSystemGetProcessName(found[i].pid, rows[i].name, sizeof rows[i].name) != NVML_SUCCESS)
      snprintf(rows[i].name, sizeof rows[i].name, "%s", "[Not Found]");
  }
  free(found);
  return result;
}

static nvmlReturn_t no_processes(uintptr_t device, uintptr_t count, uintptr_t rows, uintptr_t unused) {
  (void)rows;
  (void)unused;
  SN_ENTER(card, (nvmlDevice_t)device, (void *)count);
  (void)card;
  *(unsigned *)count = 0;
  return NVML_SUCCESS;
}

static nvmlReturn_t host_pcie_generation(uintptr_t device, uintptr_t generation, uintptr_t c, uintptr_t d) {
  (void)c;
  (void)d;
  return nvmlDeviceGetMaxPcieLinkGeneration((nvmlDevice_t)device, (unsigned *)generation);
}

__attribute__((visibility("default"))) nvmlReturn_t nvmlInternalGetExportTable(const void **table, const void *id);

nvmlReturn_t nvmlInternalGetExportTable(const void **table, const void *id) {
  static const uint8_t known[16] = {0xc4, 0xfe, 0x3e, 0x6c, 0xc9, 0x8f, 0x6c, 0x4e,
                                    0xa3, 0x27, 0xee, 0x69, 0x6e, 0x12, 0xf7, 0xc4};
  static const union {
    uintptr_t size;
    table_function *function;
  } words[TABLE_WORDS] = {
      [0] = {.size = sizeof words},
      [1 ... 80] = {.function = undescribed},
      [81] = {.function = device_by_index},
      [82 ... 212] = {.function = undescribed},
      [213] = {.function = compute_processes},
      [214 ... 215] = {.function = no_processes},
      [216 ... 229] = {.function = undescribed},
      [230] = {.function = host_pcie_generation},
      [231 ... TABLE_WORDS - 1] = {.function = undescribed},
  };
  if (!table || !id) return NVML_ERROR_INVALID_ARGUMENT;
  *table = NULL;
  if (memcmp(id, known, sizeof known) != 0) return NVML_ERROR_NOT_FOUND;
  *table = words;
  return NVML_SUCCESS;
}
