/* Which processes are the tenant's. The region's slots name them by their pid in their own PID
 * namespace. A caller in the same namespace knows them by that pid; a caller in a namespace above (a
 * monitor on the host beside a container) finds them among the pids that the driver lists, by what
 * /proc says of the innermost pid and the start time. Namespaces below or beside see nothing of
 * those above, as everywhere in Linux. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "charge.h"
#include "nvml_driver.h"
#include "region_slot.h"

enum identity { SAME, OTHER, UNREADABLE /* no such process, or hidden from us (hidepid) */ };

/* Whether the living process with this pid is the one that started when the slot says: state letter
 * and start time (field 22) of /proc/PID/stat. */
static enum identity identify(unsigned pid, const struct cgpu_usage_slot_header *slot) {
  char path[32], text[1024];
  snprintf(path, sizeof path, "/proc/%u/stat", pid);
  FILE *file = fopen(path, "re");
  if (!file) return UNREADABLE;
  size_t size = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[size] = '\0';
  const char *rest = strrchr(text, ')'); /* the second field, the name, may hold anything */
  char state;
  unsigned long long ticks;
  if (!rest || sscanf(rest + 1, " %c%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s %llu", &state, &ticks) != 2)
    return UNREADABLE;
  return state != 'Z' && state != 'X' && ticks == slot->start_ticks ? SAME : OTHER;
}

/* The last number of the line NSpid: the pid in the process's own namespace. */
static bool read_innermost_pid(unsigned pid, unsigned *innermost) {
  char path[32], line[512];
  snprintf(path, sizeof path, "/proc/%u/status", pid);
  FILE *file = fopen(path, "re");
  if (!file) return false;
  bool found = false;
  while (!found && fgets(line, sizeof line, file)) {
    if (strncmp(line, "NSpid:", 6) != 0) continue;
    const char *last = strrchr(line, '\t');
    found = last && sscanf(last, "%u", innermost) == 1;
  }
  fclose(file);
  return found;
}

/* A slot may say "living" of a process that was just killed, and its pid may be another's by now. */
static bool is_alive(const struct cgpu_usage_slot_header *slot) {
  if (kill((pid_t)slot->pid, 0) != 0 && errno == ESRCH) return false;
  return identify(slot->pid, slot) != OTHER;
}

/* The candidate that is the slot's process, 0 for none. */
static unsigned recognise(const struct cgpu_usage_slot_header *slot, const unsigned *candidates, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    unsigned innermost;
    if (read_innermost_pid(candidates[i], &innermost) && innermost == slot->pid && identify(candidates[i], slot) == SAME)
      return candidates[i];
  }
  return 0;
}

unsigned cg_nvml_own_processes(int gpu, const unsigned *candidates, unsigned candidate_count,
                               struct cg_nvml_own rows[CGPU_MAX_SLOTS]) {
  const struct cg_files *files = cg_files();
  if (files->state != CG_REGION_READY) return 0;
  const int saved = errno;
  struct stat space;
  const uint64_t own_namespace = stat("/proc/self/ns/pid", &space) == 0 ? space.st_ino : 0;
  unsigned seen = __atomic_load_n(&files->usage->header.slots_seen, __ATOMIC_ACQUIRE), count = 0;
  for (unsigned i = 0; i < seen && i < CGPU_MAX_SLOTS; i++) {
    const struct cgpu_usage_slot *slot = &files->usage->slot[i];
    if (__atomic_load_n(&slot->header.state, __ATOMIC_ACQUIRE) != CGPU_SLOT_LIVE) continue;
    bool foreign = slot->header.pid_namespace != own_namespace;
    unsigned pid = foreign                    ? recognise(&slot->header, candidates, candidate_count)
                   : is_alive(&slot->header) ? slot->header.pid
                                              : 0;
    if (pid == 0) continue;
    unsigned long long units = cgpu_charge_units(cgpu_load(&slot->gpu[gpu].charge));
    rows[count++] = (struct cg_nvml_own){
        .pid = pid,
        .on_gpu = units > 0 || __atomic_load_n(&slot->gpu[gpu].contexts, __ATOMIC_RELAXED) > 0,
        .bytes = units * CGPU_UNIT_BYTES,
    };
  }
  errno = saved;
  return count;
}
