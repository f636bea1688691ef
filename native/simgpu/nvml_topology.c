/* Where the cards are: all below one host bridge of one NUMA node, without NVLink. */
#include "nvml_sim.h"

#include <sched.h>
#include <string.h>

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device1, nvmlDevice_t device2,
                                                 nvmlGpuTopologyLevel_t *level) {
  SN_ENTER(card1, device1, level);
  SN_ENTER(card2, device2, level);
  *level = card1 == card2 ? NVML_TOPOLOGY_INTERNAL : NVML_TOPOLOGY_HOSTBRIDGE;
  return NVML_SUCCESS;
}

/* Lists the cards but `except`, by NVML's protocol of counts. */
static nvmlReturn_t list_cards(int except, unsigned *count, nvmlDevice_t *devices) {
  unsigned room = *count, found = 0;
  for (int card = 0; card < sg_machine()->cards; card++) {
    if (card == except) continue;
    if (devices && found < room) devices[found] = sn_device(card);
    found++;
  }
  *count = found;
  return devices && found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, nvmlGpuTopologyLevel_t level, unsigned *count,
                                              nvmlDevice_t *devices) {
  SN_ENTER(card, device, count);
  if (level == NVML_TOPOLOGY_HOSTBRIDGE) return list_cards(card, count, devices);
  *count = 0;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetTopologyGpuSet(unsigned cpu, unsigned *count, nvmlDevice_t *devices) {
  nvmlReturn_t result = sn_enter_library(count);
  if (result != NVML_SUCCESS) return result;
  if (cpu >= CPU_SETSIZE) return NVML_ERROR_INVALID_ARGUMENT;
  return list_cards(-1, count, devices);
}

/* Peers read and write each other over PCIe; there is no NVLink and there are no native atomics. */
nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device1, nvmlDevice_t device2, nvmlGpuP2PCapsIndex_t capability,
                                    nvmlGpuP2PStatus_t *status) {
  SN_ENTER(card1, device1, status);
  SN_ENTER(card2, device2, status);
  if (card1 == card2) return NVML_ERROR_INVALID_ARGUMENT;
  switch (capability) {
    case NVML_P2P_CAPS_INDEX_READ:
    case NVML_P2P_CAPS_INDEX_WRITE:
    case NVML_P2P_CAPS_INDEX_PCI: *status = NVML_P2P_STATUS_OK; return NVML_SUCCESS;
    case NVML_P2P_CAPS_INDEX_NVLINK:
    case NVML_P2P_CAPS_INDEX_ATOMICS: *status = NVML_P2P_STATUS_NOT_SUPPORTED; return NVML_SUCCESS;
    default: return NVML_ERROR_INVALID_ARGUMENT;
  }
}

/* ---- affinity: every processor of the process is equally near ---- */

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned words, unsigned long *mask) {
  SN_ENTER(card, device, mask);
  (void)card;
  if (words == 0) return NVML_ERROR_INVALID_ARGUMENT;
  cpu_set_t processors;
  if (sched_getaffinity(0, sizeof processors, &processors) != 0) return NVML_ERROR_UNKNOWN;
  const unsigned bits = 8 * sizeof *mask;
  memset(mask, 0, words * sizeof *mask);
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &processors)) continue;
    if (cpu / bits >= words) return NVML_ERROR_INSUFFICIENT_SIZE;
    mask[cpu / bits] |= 1ul << cpu % bits;
  }
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned words, unsigned long *mask,
                                                 nvmlAffinityScope_t scope) {
  if (scope != NVML_AFFINITY_SCOPE_NODE && scope != NVML_AFFINITY_SCOPE_SOCKET) return NVML_ERROR_INVALID_ARGUMENT;
  return nvmlDeviceGetCpuAffinity(device, words, mask);
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned words, unsigned long *nodes,
                                         nvmlAffinityScope_t scope) {
  SN_ENTER(card, device, nodes);
  (void)card;
  if (words == 0 || (scope != NVML_AFFINITY_SCOPE_NODE && scope != NVML_AFFINITY_SCOPE_SOCKET))
    return NVML_ERROR_INVALID_ARGUMENT;
  memset(nodes, 0, words * sizeof *nodes);
  nodes[0] = 1;
  return NVML_SUCCESS;
}
