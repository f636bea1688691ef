/* Modes and settings of the cards. They are those of a data-centre card as delivered and cannot be
 * changed: the functions that set them answer NVML_ERROR_NOT_SUPPORTED (nvml_unmodelled.c). */
#include "nvml_sim.h"

#include <string.h>

#define PCIE_LANES 16

static nvmlReturn_t give_state(nvmlDevice_t device, nvmlEnableState_t *state, nvmlEnableState_t value) {
  SN_ENTER(card, device, state);
  (void)card;
  *state = value;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
  return give_state(device, mode, NVML_FEATURE_ENABLED);
}
nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
  return give_state(device, mode, NVML_FEATURE_DISABLED);
}
nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, nvmlEnableState_t *active) {
  return give_state(device, active, NVML_FEATURE_DISABLED);
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode) {
  SN_ENTER(card, device, mode);
  (void)card;
  *mode = NVML_COMPUTEMODE_DEFAULT;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t device, nvmlGpuVirtualizationMode_t *mode) {
  SN_ENTER(card, device, mode);
  (void)card;
  *mode = NVML_GPU_VIRTUALIZATION_MODE_NONE;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBusType(nvmlDevice_t device, nvmlBusType_t *type) {
  SN_ENTER(card, device, type);
  (void)card;
  *type = NVML_BUS_TYPE_PCIE;
  return NVML_SUCCESS;
}

/* ---- MIG: off on the cards that could, unknown to the others ---- */

static bool mig_capable(int card) {
  unsigned major = sg_card(card)->cc_major, minor = sg_card(card)->cc_minor;
  return minor == 0 && (major == 8 || major == 9 || major == 10);
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending) {
  SN_ENTER(card, device, current && pending ? current : NULL);
  if (!mig_capable(card)) return NVML_ERROR_NOT_SUPPORTED;
  *current = *pending = NVML_DEVICE_MIG_DISABLE;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *is_mig) {
  SN_ENTER(card, device, is_mig);
  (void)card;
  *is_mig = 0;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count) {
  SN_ENTER(card, device, count);
  *count = mig_capable(card) ? 7 : 0;
  return NVML_SUCCESS;
}

/* ---- ECC: on, but for consumer cards, which have none; no errors ever ---- */

static bool has_ecc(int card) {
  return !strstr(sg_card(card)->name, "GeForce") && !strstr(sg_card(card)->name, "TITAN");
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending) {
  SN_ENTER(card, device, current && pending ? current : NULL);
  if (!has_ecc(card)) return NVML_ERROR_NOT_SUPPORTED;
  *current = *pending = NVML_FEATURE_ENABLED;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetDefaultEccMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
  nvmlEnableState_t pending;
  return nvmlDeviceGetEccMode(device, mode, mode ? &pending : NULL);
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         unsigned long long *count) {
  SN_ENTER(card, device, count);
  if ((unsigned)type >= NVML_MEMORY_ERROR_TYPE_COUNT || (unsigned)counter >= NVML_ECC_COUNTER_TYPE_COUNT)
    return NVML_ERROR_INVALID_ARGUMENT;
  if (!has_ecc(card)) return NVML_ERROR_NOT_SUPPORTED;
  *count = 0;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                             nvmlEccCounterType_t counter, nvmlMemoryLocation_t location,
                                             unsigned long long *count) {
  if ((unsigned)location >= NVML_MEMORY_LOCATION_COUNT) return NVML_ERROR_INVALID_ARGUMENT;
  return nvmlDeviceGetTotalEccErrors(device, type, counter, count);
}

/* ---- PCIe link ---- */

/* The least generation that carries the profile's bandwidth on 16 lanes. Bytes per second and lane
 * after encoding, PCI Express Base Specification: 0.25, 0.5, 0.985, 1.969, 3.938, 7.563 GB/s. */
static unsigned link_generation(int card) {
  static const uint64_t lane_bytes_per_s[] = {250000000, 500000000, 984615385, 1969230769, 3938461538, 7563000000};
  enum { GENERATIONS = sizeof lane_bytes_per_s / sizeof *lane_bytes_per_s };
  unsigned generation = 1;
  while (generation < GENERATIONS && lane_bytes_per_s[generation - 1] * PCIE_LANES < sg_card(card)->pcie_bytes_per_s)
    generation++;
  return generation;
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned *generation) {
  SN_ENTER(card, device, generation);
  *generation = link_generation(card);
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetGpuMaxPcieLinkGeneration(nvmlDevice_t device, unsigned *generation) {
  return nvmlDeviceGetMaxPcieLinkGeneration(device, generation);
}
/* The link does not slow down when the card is idle, as a real one does. */
nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned *generation) {
  return nvmlDeviceGetMaxPcieLinkGeneration(device, generation);
}
nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned *lanes) {
  SN_ENTER(card, device, lanes);
  (void)card;
  *lanes = PCIE_LANES;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned *lanes) {
  return nvmlDeviceGetMaxPcieLinkWidth(device, lanes);
}
nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t device, unsigned *count) {
  SN_ENTER(card, device, count);
  (void)card;
  *count = 0;
  return NVML_SUCCESS;
}
