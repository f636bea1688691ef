/* Framebuffer and BAR1, and the limits that drivers from 615 put on the memory of a cgroup. */
#include "nvml_sim.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_DRIVER_WITH_LIMITS 615

nvmlReturn_t sn_memory(int card, struct sn_memory *memory) {
  uint64_t free_bytes, used_bytes, limit_bytes, limit_used;
  int error = sg_memory(card, &free_bytes, &used_bytes);
  if (error == SG_OK) error = sg_memory_limit(card, &limit_bytes, &limit_used);
  if (error != SG_OK) return sn_result(error);
  const struct sg_card_info *info = sg_card(card);
  *memory = (struct sn_memory){.total = info->total_bytes,
                               .reserved = info->reserved_bytes,
                               .used = info->total_bytes - info->reserved_bytes - free_bytes,
                               .free = free_bytes};
  if (limit_bytes < memory->total) {
    uint64_t left = limit_bytes > limit_used ? limit_bytes - limit_used : 0;
    *memory = (struct sn_memory){.total = limit_bytes, .used = limit_used, .free = left < free_bytes ? left : free_bytes};
  }
  return NVML_SUCCESS;
}

/* `used` of the first version holds what the driver keeps for itself too; the second tells them apart. */
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
  SN_ENTER(card, device, memory);
  struct sn_memory now;
  nvmlReturn_t result = sn_memory(card, &now);
  if (result == NVML_SUCCESS)
    *memory = (nvmlMemory_t){.total = now.total, .free = now.free, .used = now.used + now.reserved};
  return result;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
  SN_ENTER(card, device, memory);
  if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  struct sn_memory now;
  nvmlReturn_t result = sn_memory(card, &now);
  if (result == NVML_SUCCESS)
    *memory = (nvmlMemory_v2_t){
        .version = nvmlMemory_v2, .total = now.total, .reserved = now.reserved, .free = now.free, .used = now.used};
  return result;
}

/* The cards have a large BAR, the power of two that holds the framebuffer; mappings are not modelled. */
nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory) {
  SN_ENTER(card, device, memory);
  unsigned long long total = 1ull << 28;
  while (total < sg_card(card)->total_bytes) total <<= 1;
  *memory = (nvmlBAR1Memory_t){.bar1Total = total, .bar1Free = total, .bar1Used = 0};
  return NVML_SUCCESS;
}

/* No confidential computing: nothing of the memory is protected. */
nvmlReturn_t nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t device, nvmlMemory_t *memory) {
  SN_ENTER(card, device, memory);
  *memory = (nvmlMemory_t){0};
  return NVML_SUCCESS;
}

/* ---- limits of cgroups ---- */

#define CGROUP_MOUNT "/sys/fs/cgroup"

/* What both functions ask of the driver and the cgroup. A path that is not below the cgroup mount is
 * the name of a stand-in (CGPU_SIM_CGROUP, card.h), for machines whose cgroups cannot be changed. */
static nvmlReturn_t enter_limits(const char *folder) {
  if (sn_driver_major() < FIRST_DRIVER_WITH_LIMITS) return NVML_ERROR_FUNCTION_NOT_FOUND;
  if (!folder || folder[0] != '/') return NVML_ERROR_INVALID_ARGUMENT;
  if (strncmp(folder, CGROUP_MOUNT "/", sizeof CGROUP_MOUNT) != 0) return NVML_SUCCESS;
  int directory = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return NVML_ERROR_OPERATING_SYSTEM;
  close(directory);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, nvmlSetMemoryLimits_v1_t *limits) {
  SN_ENTER(card, device, limits);
  nvmlReturn_t result = enter_limits(limits->nameSpace);
  if (result != NVML_SUCCESS) return result;
  if (geteuid() != 0) return NVML_ERROR_NO_PERMISSION;
  unsigned long long total = sg_card(card)->total_bytes, soft = limits->softLimit, hard = limits->hardLimit;
  bool none = hard == NVML_DEVICE_MEMORY_LIMIT_MAX;
  if (soft > hard || soft > total || (!none && hard > total)) return NVML_ERROR_INVALID_ARGUMENT;
  return sn_result(sg_set_memory_limit(card, limits->nameSpace, none ? 0 : hard, soft));
}

/* What the processes of a cgroup and of those below it hold. */
static nvmlReturn_t cgroup_usage(int card, const char *name, unsigned long long *bytes) {
  enum { CAPACITY = 1024 };
  struct sg_cgroup_usage *rows = calloc(CAPACITY, sizeof *rows);
  if (!rows) return NVML_ERROR_MEMORY;
  if (strncmp(name, CGROUP_MOUNT "/", sizeof CGROUP_MOUNT) == 0) name += sizeof CGROUP_MOUNT - 1;
  unsigned count = 0;
  int error = sg_cgroups(card, rows, CAPACITY, &count);
  size_t size = strlen(name);
  *bytes = 0;
  for (unsigned i = 0; error == SG_OK && i < count && i < CAPACITY; i++) {
    const char *cgroup = rows[i].cgroup;
    if (strncmp(cgroup, name, size) == 0 && (cgroup[size] == '\0' || cgroup[size] == '/')) *bytes += rows[i].memory_bytes;
  }
  free(rows);
  return sn_result(error);
}

nvmlReturn_t nvmlDeviceGetMemoryLimits_v1(nvmlDevice_t device, nvmlGetMemoryLimits_v1_t *limits) {
  SN_ENTER(card, device, limits);
  nvmlReturn_t result = enter_limits(limits->nameSpace);
  if (result != NVML_SUCCESS) return result;
  uint64_t hard = 0, soft = 0;
  int error = sg_get_memory_limit(card, limits->nameSpace, &hard, &soft);
  if (error != SG_OK) return sn_result(error);
  limits->hardLimit = hard ? hard : NVML_DEVICE_MEMORY_LIMIT_MAX;
  limits->softLimit = soft;
  return cgroup_usage(card, limits->nameSpace, &limits->currentUsed);
}
