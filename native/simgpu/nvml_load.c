/* Utilisation, and what follows from it: power, temperature, clocks. The card measures utilisation;
 * the rest is a model, linear between an idle and a fully busy card, good enough to drive a client's
 * display and to be recognised in a test. Encoder, decoder, JPEG and optical flow engines are idle. */
#include "nvml_sim.h"

#include <time.h>

#define IDLE_POWER_PERCENT 15 /* of the power limit */
#define IDLE_TEMPERATURE_C 32
#define BUSY_TEMPERATURE_C 74
#define SLOWDOWN_TEMPERATURE_C 90
#define SHUTDOWN_TEMPERATURE_C 95
#define IDLE_SM_CLOCK_MHZ 300
#define IDLE_MEMORY_CLOCK_MHZ 405

nvmlReturn_t sn_load(int card, struct sn_load *load) {
  struct sg_card_usage usage;
  struct sn_process process;
  unsigned percent = 0, processes = 0;
  int error = sg_card_usage(card, &usage);
  if (error == SG_OK) error = sg_utilisation(card, 0, SN_LOAD_WINDOW_NS, &percent);
  if (error != SG_OK) return sn_result(error);
  nvmlReturn_t result = sn_processes(card, &process, 1, &processes);
  if (result != NVML_SUCCESS) return result;
  unsigned limit_mw = sg_card(card)->power_limit_mw, idle_mw = limit_mw / 100 * IDLE_POWER_PERCENT;
  double seconds = (double)(sg_now_ns() - usage.since_ns) / 1e9, busy_seconds = (double)usage.busy_ns / 1e9;
  *load = (struct sn_load){
      .utilisation_percent = percent,
      .power_mw = idle_mw + (limit_mw - idle_mw) / 100 * percent,
      .temperature_c = IDLE_TEMPERATURE_C + (BUSY_TEMPERATURE_C - IDLE_TEMPERATURE_C) * percent / 100,
      .energy_mj = (unsigned long long)(idle_mw * seconds + (limit_mw - idle_mw) * busy_seconds),
      .pstate = processes > 0 ? NVML_PSTATE_0 : NVML_PSTATE_8,
  };
  return NVML_SUCCESS;
}

/* ---- utilisation ---- */

/* Traffic of the framebuffer is not modelled: `memory` is always 0. */
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
  SN_ENTER(card, device, utilization);
  unsigned percent = 0;
  int error = sg_utilisation(card, 0, SN_LOAD_WINDOW_NS, &percent);
  if (error == SG_OK) *utilization = (nvmlUtilization_t){.gpu = percent, .memory = 0};
  return sn_result(error);
}

static nvmlReturn_t idle_engine(nvmlDevice_t device, unsigned *percent, unsigned *period_us) {
  SN_ENTER(card, device, percent && period_us ? percent : NULL);
  (void)card;
  *percent = 0;
  *period_us = (unsigned)(SN_LOAD_WINDOW_NS / 1000);
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned *percent, unsigned *period_us) {
  return idle_engine(device, percent, period_us);
}
nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned *percent, unsigned *period_us) {
  return idle_engine(device, percent, period_us);
}
nvmlReturn_t nvmlDeviceGetJpgUtilization(nvmlDevice_t device, unsigned *percent, unsigned *period_us) {
  return idle_engine(device, percent, period_us);
}
nvmlReturn_t nvmlDeviceGetOfaUtilization(nvmlDevice_t device, unsigned *percent, unsigned *period_us) {
  return idle_engine(device, percent, period_us);
}

nvmlReturn_t nvmlDeviceGetEncoderStats(nvmlDevice_t device, unsigned *sessions, unsigned *fps, unsigned *latency_us) {
  SN_ENTER(card, device, sessions && fps && latency_us ? sessions : NULL);
  (void)card;
  *sessions = *fps = *latency_us = 0;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetEncoderSessions(nvmlDevice_t device, unsigned *count, nvmlEncoderSessionInfo_t *sessions) {
  SN_ENTER(card, device, count);
  (void)card;
  (void)sessions;
  *count = 0;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetFBCStats(nvmlDevice_t device, nvmlFBCStats_t *stats) {
  SN_ENTER(card, device, stats);
  (void)card;
  *stats = (nvmlFBCStats_t){0};
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDynamicPstatesInfo(nvmlDevice_t device, nvmlGpuDynamicPstatesInfo_t *info) {
  SN_ENTER(card, device, info);
  struct sn_load load;
  nvmlReturn_t result = sn_load(card, &load);
  if (result != NVML_SUCCESS) return result;
  *info = (nvmlGpuDynamicPstatesInfo_t){0};
  info->utilization[NVML_GPU_UTILIZATION_DOMAIN_GPU].bIsPresent = 1;
  info->utilization[NVML_GPU_UTILIZATION_DOMAIN_GPU].percentage = load.utilisation_percent;
  return NVML_SUCCESS;
}

/* One sample, of now; the card keeps no history that a caller could be given. */
nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type, unsigned long long seen_us,
                                  nvmlValueType_t *value_type, unsigned *count, nvmlSample_t *samples) {
  SN_ENTER(card, device, value_type && count ? value_type : NULL);
  if (type != NVML_TOTAL_POWER_SAMPLES && type != NVML_GPU_UTILIZATION_SAMPLES) return NVML_ERROR_NOT_SUPPORTED;
  struct sn_load load;
  struct timespec now;
  nvmlReturn_t result = sn_load(card, &load);
  if (result != NVML_SUCCESS) return result;
  clock_gettime(CLOCK_REALTIME, &now);
  unsigned long long now_us = (unsigned long long)now.tv_sec * 1000000u + (unsigned long long)now.tv_nsec / 1000u;
  if (now_us <= seen_us) return NVML_ERROR_NOT_FOUND;
  *value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
  unsigned room = *count;
  *count = 1;
  if (!samples) return NVML_SUCCESS; /* the caller asks for the number */
  if (room < 1) return NVML_ERROR_INSUFFICIENT_SIZE;
  unsigned value = type == NVML_TOTAL_POWER_SAMPLES ? load.power_mw : load.utilisation_percent;
  samples[0] = (nvmlSample_t){.timeStamp = now_us, .sampleValue = {.uiVal = value}};
  return NVML_SUCCESS;
}

/* ---- power and temperature ---- */

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts) {
  SN_ENTER(card, device, milliwatts);
  struct sn_load load;
  nvmlReturn_t result = sn_load(card, &load);
  if (result == NVML_SUCCESS) *milliwatts = load.power_mw;
  return result;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
  SN_ENTER(card, device, millijoules);
  struct sn_load load;
  nvmlReturn_t result = sn_load(card, &load);
  if (result == NVML_SUCCESS) *millijoules = load.energy_mj;
  return result;
}

nvmlReturn_t nvmlDeviceGetPowerManagementMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
  SN_ENTER(card, device, mode);
  (void)card;
  *mode = NVML_FEATURE_ENABLED;
  return NVML_SUCCESS;
}

/* The limit is fixed: default, enforced and the greatest that can be set are the same. */
nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned *milliwatts) {
  SN_ENTER(card, device, milliwatts);
  *milliwatts = sg_card(card)->power_limit_mw;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned *milliwatts) {
  return nvmlDeviceGetPowerManagementLimit(device, milliwatts);
}
nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned *milliwatts) {
  return nvmlDeviceGetPowerManagementLimit(device, milliwatts);
}
nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *least, unsigned *most) {
  SN_ENTER(card, device, least && most ? least : NULL);
  *least = *most = sg_card(card)->power_limit_mw;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned *celsius) {
  SN_ENTER(card, device, celsius);
  if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
  struct sn_load load;
  nvmlReturn_t result = sn_load(card, &load);
  if (result == NVML_SUCCESS) *celsius = load.temperature_c;
  return result;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature) {
  SN_ENTER(card, device, temperature);
  (void)card;
  if (temperature->version != nvmlTemperature_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  unsigned celsius = 0;
  nvmlReturn_t result = nvmlDeviceGetTemperature(device, temperature->sensorType, &celsius);
  if (result == NVML_SUCCESS) temperature->temperature = (int)celsius;
  return result;
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, nvmlTemperatureThresholds_t threshold,
                                               unsigned *celsius) {
  SN_ENTER(card, device, celsius);
  (void)card;
  switch (threshold) {
    case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN: *celsius = SHUTDOWN_TEMPERATURE_C; return NVML_SUCCESS;
    case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN: *celsius = SLOWDOWN_TEMPERATURE_C; return NVML_SUCCESS;
    default: return NVML_ERROR_NOT_SUPPORTED;
  }
}

/* ---- clocks ---- */

nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *state) {
  SN_ENTER(card, device, state);
  struct sn_load load;
  nvmlReturn_t result = sn_load(card, &load);
  if (result == NVML_SUCCESS) *state = load.pstate;
  return result;
}
nvmlReturn_t nvmlDeviceGetPowerState(nvmlDevice_t device, nvmlPstates_t *state) {
  return nvmlDeviceGetPerformanceState(device, state);
}

/* The video clock follows the SM clock at the ratio of about 0.9 that NVIDIA's tables show. */
nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned *megahertz) {
  SN_ENTER(card, device, megahertz);
  unsigned sm = sg_card(card)->clock_khz / 1000;
  switch (type) {
    case NVML_CLOCK_GRAPHICS:
    case NVML_CLOCK_SM: *megahertz = sm; return NVML_SUCCESS;
    case NVML_CLOCK_MEM: *megahertz = sg_card(card)->memory_clock_khz / 1000; return NVML_SUCCESS;
    case NVML_CLOCK_VIDEO: *megahertz = sm / 10 * 9; return NVML_SUCCESS;
    default: return NVML_ERROR_INVALID_ARGUMENT;
  }
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned *megahertz) {
  SN_ENTER(card, device, megahertz);
  struct sn_load load;
  nvmlReturn_t result = sn_load(card, &load);
  if (result == NVML_SUCCESS) result = nvmlDeviceGetMaxClockInfo(device, type, megahertz);
  if (result != NVML_SUCCESS || load.pstate == NVML_PSTATE_0) return result;
  unsigned idle = type == NVML_CLOCK_MEM ? IDLE_MEMORY_CLOCK_MHZ : IDLE_SM_CLOCK_MHZ;
  if (idle < *megahertz) *megahertz = idle;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t type, nvmlClockId_t id, unsigned *megahertz) {
  switch (id) {
    case NVML_CLOCK_ID_CURRENT: return nvmlDeviceGetClockInfo(device, type, megahertz);
    case NVML_CLOCK_ID_CUSTOMER_BOOST_MAX: return nvmlDeviceGetMaxClockInfo(device, type, megahertz);
    default: return sn_not_supported();
  }
}
nvmlReturn_t nvmlDeviceGetMaxCustomerBoostClock(nvmlDevice_t device, nvmlClockType_t type, unsigned *megahertz) {
  return nvmlDeviceGetMaxClockInfo(device, type, megahertz);
}

/* Nothing holds the clocks down but want of work. */
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
  SN_ENTER(card, device, reasons);
  struct sn_load load;
  nvmlReturn_t result = sn_load(card, &load);
  if (result == NVML_SUCCESS)
    *reasons = load.utilisation_percent ? nvmlClocksEventReasonNone : nvmlClocksEventReasonGpuIdle;
  return result;
}
nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
  SN_ENTER(card, device, reasons);
  (void)card;
  *reasons = nvmlClocksEventReasonGpuIdle;
  return NVML_SUCCESS;
}
/* The names before driver 535. */
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
  return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}
nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
  return nvmlDeviceGetSupportedClocksEventReasons(device, reasons);
}
