// sources: simgpu/card_profile.c
/* Profiles of simulated machines. What is accepted is within the ranges, and says the same when it is read again. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "card_internal.h"
#include "reading.h"

static bool ends(const char *text, size_t room) { return memchr(text, 0, room) != NULL; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int file = -1;
  char path[32], error[256] = "";
  struct sg_profile profile, again;
  if (file < 0) file = memfd_create("profile", MFD_CLOEXEC);
  if (ftruncate(file, (off_t)size) || pwrite(file, data, size, 0) != (ssize_t)size) abort();
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  if (!sg_profile_read(path, NULL, 0, &profile, error, sizeof error)) {
    HOLDS(*error && ends(error, sizeof error));
    return 0;
  }
  const struct sg_machine_info *machine = &profile.machine;
  HOLDS(machine->cards >= 1 && machine->cards <= SG_MAX_CARDS && machine->cuda_version >= 11020);
  HOLDS(ends(machine->driver_version, sizeof machine->driver_version) && *machine->driver_version);
  HOLDS(ends(profile.card.name, sizeof profile.card.name) && *profile.card.name);
  HOLDS(profile.card.total_bytes >= profile.card.reserved_bytes + SG_GRANULE_BYTES && profile.card.block_ns);
  HOLDS(sg_profile_read(path, machine->driver_version, machine->cards, &again, error, sizeof error));
  HOLDS(memcmp(&profile, &again, sizeof profile) == 0);
  return 0;
}
