/* Event sets. The one kind of event that the cards have is the Xid, the driver's number for what
 * went wrong (https://docs.nvidia.com/deploy/xid-errors/). */
#include "nvml_sim.h"

#include <stdlib.h>

struct nvmlEventSet_st {
  bool registered[SG_MAX_CARDS];
  uint64_t cursor[SG_MAX_CARDS]; /* Xids of the card that the set has passed or that came before it */
};

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
  nvmlReturn_t result = sn_enter_library(set);
  if (result != NVML_SUCCESS) return result;
  *set = calloc(1, sizeof **set);
  return *set ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
  nvmlReturn_t result = sn_enter_library(set);
  if (result == NVML_SUCCESS) free(set);
  return result;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
  SN_ENTER(card, device, types);
  (void)card;
  *types = nvmlEventTypeXidCriticalError;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
  SN_ENTER(card, device, set);
  if (types & ~(unsigned long long)nvmlEventTypeXidCriticalError) return NVML_ERROR_NOT_SUPPORTED;
  struct sg_card_usage usage;
  int error = sg_card_usage(card, &usage);
  if (error != SG_OK) return sn_result(error);
  if (types && !set->registered[card]) {
    set->cursor[card] = usage.xid_count;
    set->registered[card] = true;
  }
  return NVML_SUCCESS;
}

/* One look at each registered card; the last one waits up to `timeout_ns`. */
static int next_xid(nvmlEventSet_t set, uint64_t timeout_ns, int *card, uint64_t *xid) {
  int last = -1;
  for (int i = 0; i < sg_machine()->cards; i++) {
    if (!set->registered[i]) continue;
    *card = last = i;
    int error = sg_xid_wait(i, &set->cursor[i], xid, 0);
    if (error != SG_E_TIMEOUT) return error;
  }
  return last < 0 || timeout_ns == 0 ? SG_E_TIMEOUT : sg_xid_wait(last, &set->cursor[last], xid, timeout_ns);
}

/* A wait for several cards is cut into slices, since a card can only be waited for alone. */
static nvmlReturn_t wait_for_xid(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
  const uint64_t slice_ns = 20000000;
  uint64_t now = sg_now_ns(), end = now + timeout_ms * 1000000ull, xid = 0;
  int card = 0, error, registered = 0;
  for (int i = 0; i < sg_machine()->cards; i++) registered += set->registered[i];
  do {
    uint64_t left = end > now ? end - now : 0;
    error = next_xid(set, registered > 1 && left > slice_ns ? slice_ns : left, &card, &xid);
    now = sg_now_ns();
  } while (error == SG_E_TIMEOUT && now < end && registered > 0);
  if (error != SG_OK) return sn_result(error);
  *data = (nvmlEventData_t){.device = sn_device(card),
                            .eventType = nvmlEventTypeXidCriticalError,
                            .eventData = xid,
                            .gpuInstanceId = SN_NO_INSTANCE,
                            .computeInstanceId = SN_NO_INSTANCE};
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
  nvmlReturn_t result = sn_enter_library(set && data ? set : NULL);
  return result == NVML_SUCCESS ? wait_for_xid(set, data, timeout_ms) : result;
}

/* The first version's structure ends before the instance ids. */
nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
  nvmlEventData_t all;
  nvmlReturn_t result = nvmlEventSetWait_v2(set, data ? &all : NULL, timeout_ms);
  if (result != NVML_SUCCESS) return result;
  data->device = all.device;
  data->eventType = all.eventType;
  data->eventData = all.eventData;
  return NVML_SUCCESS;
}
