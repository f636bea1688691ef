/* nvml_sim.h - what the files of the simulated libnvidia-ml share.
 *
 *   nvml_library.c    init and shutdown, errors, versions, process names
 *   nvml_device.c     handles and identity
 *   nvml_memory.c     framebuffer, BAR1, the memory limits of cgroups
 *   nvml_process.c    who is on the card, and how much of its time each takes
 *   nvml_load.c       the modelled sensors: utilisation, power, temperature, clocks
 *   nvml_modes.c      ECC, compute mode, persistence, PCIe link and other settings
 *   nvml_fields.c     nvmlDeviceGetFieldValues
 *   nvml_events.c     event sets: Xid errors
 *   nvml_topology.c   where the cards are, in the machine and to each other
 *   nvml_table.c      the private table that nvidia-smi asks for
 *   nvml_unmodelled.c every other name of nvml.h: NVML_ERROR_NOT_SUPPORTED
 *
 * NVML has no view of tenants: it answers for whole cards, except that a process inside a cgroup
 * with a memory limit (drivers from 615) sees the limit as the size of the card.
 */
#ifndef CGPU_SIM_NVML_SIM_H
#define CGPU_SIM_NVML_SIM_H

#define NVML_NO_UNVERSIONED_FUNC_DEFS /* declare the old versions too, rename none */
#pragma GCC visibility push(default)  /* so that every function of nvml.h defined here is exported */
#include <nvml.h>
#pragma GCC visibility pop

#include "card.h"

#define SN_NO_INSTANCE 0xffffffffu /* gpuInstanceId and computeInstanceId of a card without MIG */
#define SN_LOAD_WINDOW_NS 1000000000ull /* NVML's utilisation covers up to the last second */

/* Starts a function of one device: checks that the library is initialised, the handle one that it
 * gave, the card on the bus and `out` no null pointer; otherwise returns from the function with the
 * error that NVML documents. Declares the card's index as `card`. */
#define SN_ENTER(card, device, out)                              \
  int card;                                                      \
  do {                                                           \
    nvmlReturn_t entered_ = sn_enter((device), (out), &card);    \
    if (entered_ != NVML_SUCCESS) return entered_;               \
  } while (0)
nvmlReturn_t sn_enter(nvmlDevice_t device, const void *out, int *card);
/* The same for functions of the whole library. */
nvmlReturn_t sn_enter_library(const void *out);

nvmlReturn_t sn_result(int error);     /* NVML's code for an sg_error */
nvmlReturn_t sn_not_supported(void);   /* NOT_SUPPORTED, or UNINITIALIZED before nvmlInit */
nvmlReturn_t sn_copy_text(const char *text, char *out, unsigned length); /* INSUFFICIENT_SIZE */
int sn_driver_major(void);             /* 550 of "550.163.01" */

nvmlDevice_t sn_device(int card);
int sn_card_of(nvmlDevice_t device); /* -1: not a handle of ours */

/* nvml_process.c: the processes on a card that this PID namespace can see, in the order of their
 * pids. Fills at most `capacity` rows; *count gets how many there are. */
struct sn_process {
  unsigned pid;
  unsigned long long memory_bytes;
};
nvmlReturn_t sn_processes(int card, struct sn_process *rows, unsigned capacity, unsigned *count);

/* nvml_memory.c: what the caller's cgroup sees of the card. */
struct sn_memory {
  unsigned long long total, reserved, used, free; /* bytes; total = reserved + used + free */
};
nvmlReturn_t sn_memory(int card, struct sn_memory *memory);

/* nvml_load.c */
struct sn_load {
  unsigned utilisation_percent;
  unsigned power_mw;
  unsigned temperature_c;
  unsigned long long energy_mj; /* since the machine was made */
  nvmlPstates_t pstate;         /* P0 while a context lives, P8 otherwise */
};
nvmlReturn_t sn_load(int card, struct sn_load *load);

#endif
