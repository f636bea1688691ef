/* nvmlDeviceGetFieldValues: many values in one call, each with a result of its own. The fields that
 * other functions of the library can answer are answered; for the rest of nvml.h's list the field's
 * own result is NVML_ERROR_NOT_SUPPORTED. */
#include "nvml_sim.h"

#include <time.h>

static nvmlReturn_t unsigned_field(nvmlFieldValue_t *value, nvmlReturn_t result, unsigned number) {
  value->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
  value->value.uiVal = number;
  return result;
}

static nvmlReturn_t long_field(nvmlFieldValue_t *value, nvmlReturn_t result, unsigned long long number) {
  value->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
  value->value.ullVal = number;
  return result;
}

static nvmlReturn_t ecc_mode(nvmlDevice_t device, nvmlFieldValue_t *value) {
  nvmlEnableState_t current = NVML_FEATURE_DISABLED, pending;
  nvmlReturn_t result = nvmlDeviceGetEccMode(device, &current, &pending);
  return unsigned_field(value, result, current);
}

static nvmlReturn_t ecc_count(nvmlDevice_t device, nvmlFieldValue_t *value) {
  unsigned long long count = 0;
  nvmlReturn_t result =
      nvmlDeviceGetTotalEccErrors(device, NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_VOLATILE_ECC, &count);
  return long_field(value, result, count);
}

/* Power is that of the GPU; the module and the memory (NVML_POWER_SCOPE_*) have no meter of their own. */
static nvmlReturn_t power_field(nvmlFieldValue_t *value, unsigned milliwatts) {
  return value->scopeId == NVML_POWER_SCOPE_GPU ? unsigned_field(value, NVML_SUCCESS, milliwatts)
                                                : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t read_field(nvmlDevice_t device, nvmlFieldValue_t *value) {
  struct sn_load load;
  int card = sn_card_of(device);
  unsigned limit_mw = sg_card(card)->power_limit_mw;
  nvmlReturn_t result = sn_load(card, &load);
  if (result != NVML_SUCCESS) return result;
  switch (value->fieldId) {
    case NVML_FI_DEV_ECC_CURRENT:
    case NVML_FI_DEV_ECC_PENDING: return ecc_mode(device, value);
    case NVML_FI_DEV_ECC_SBE_VOL_TOTAL:
    case NVML_FI_DEV_ECC_DBE_VOL_TOTAL:
    case NVML_FI_DEV_ECC_SBE_AGG_TOTAL:
    case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: return ecc_count(device, value);
    case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION:
    case NVML_FI_DEV_ENERGY: return long_field(value, NVML_SUCCESS, load.energy_mj);
    case NVML_FI_DEV_POWER_AVERAGE:
    case NVML_FI_DEV_POWER_INSTANT: return power_field(value, load.power_mw);
    case NVML_FI_DEV_POWER_MIN_LIMIT:
    case NVML_FI_DEV_POWER_MAX_LIMIT:
    case NVML_FI_DEV_POWER_DEFAULT_LIMIT:
    case NVML_FI_DEV_POWER_CURRENT_LIMIT:
    case NVML_FI_DEV_POWER_REQUESTED_LIMIT: return power_field(value, limit_mw);
    case NVML_FI_DEV_GPU_TEMP: return unsigned_field(value, NVML_SUCCESS, load.temperature_c);
    case NVML_FI_DEV_PCIE_REPLAY_COUNTER: return unsigned_field(value, NVML_SUCCESS, 0);
    case NVML_FI_DEV_NVLINK_LINK_COUNT: return unsigned_field(value, NVML_SUCCESS, 0);
    default: return NVML_ERROR_NOT_SUPPORTED;
  }
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
  SN_ENTER(card, device, values);
  (void)card;
  if (count <= 0) return NVML_ERROR_INVALID_ARGUMENT;
  struct timespec before, after;
  for (int i = 0; i < count; i++) {
    clock_gettime(CLOCK_REALTIME, &before);
    values[i].nvmlReturn = read_field(device, &values[i]);
    clock_gettime(CLOCK_REALTIME, &after);
    values[i].timestamp = (long long)after.tv_sec * 1000000 + after.tv_nsec / 1000;
    values[i].latencyUsec = values[i].timestamp - ((long long)before.tv_sec * 1000000 + before.tv_nsec / 1000);
  }
  return NVML_SUCCESS;
}
