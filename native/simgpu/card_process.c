/* card_process.c - slots of processes: registration, fork, life and death.
 *
 * A slot belongs to the process that has its byte of `locks` locked; the kernel releases that lock
 * with the process's last descriptor of that opening. Therefore the opening is the process's own: it
 * is never mapped (a mapping would keep it alive), and a forked child closes it at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "card_internal.h"
#include "card_ofd.h"

/* For one process the kernel walks over the locks of all of them. */
#define SWEEP_PROCESSES 32u

uint32_t sg_self;

static struct sg_opened locks = {-1, 0, 0}, pids = {-1, 0, 0};
static uint64_t own_claim;
static pthread_mutex_t joining = PTHREAD_MUTEX_INITIALIZER;

static void after_fork_in_child(void) {
  sg_close(&locks); /* else it would keep the parent's slot alive */
  sg_close(&pids);
  sg_self = 0;
  pthread_mutex_init(&joining, NULL);
  sg_producers_reset();
}

bool sg_slot_alive(uint32_t slot) { return sg_ofd_locked(locks.file, (long)slot); }
bool sg_can_ask(void) { return sg_still_open(&locks); }

/* The owner of a POSIX lock is told by its pid in the namespace of who asks, 0 if it is not in it. Such
 * a lock goes as soon as its process closes any descriptor of the file: hence a file of its own. */
uint32_t sg_pid_seen(uint32_t slot) {
  const struct sg_process *process = &sg_state->process[slot];
  const struct sg_process *self = &sg_state->process[sg_self];
  if (process->pid_namespace == self->pid_namespace) return process->own_pid;
  struct flock range = sg_ofd_byte((long)slot);
  if (!sg_still_open(&pids) || fcntl(pids.file, F_GETLK, &range) != 0 || range.l_type == F_UNLCK) return 0;
  return (uint32_t)range.l_pid;
}

/* Field 22 of /proc/self/stat; the name before it may hold anything, so from its last ')' on. */
static uint64_t start_ticks(void) {
  char text[1024] = "";
  FILE *file = fopen("/proc/self/stat", "re");
  size_t got = file ? fread(text, 1, sizeof text - 1, file) : 0;
  if (file) fclose(file);
  text[got] = 0;
  char *field = strrchr(text, ')');
  for (int i = 2; field && i < 22; i++) field = strchr(field + 1, ' ');
  return field ? strtoull(field, NULL, 10) : 0;
}

static void read_comm(char comm[16]) {
  memset(comm, 0, 16);
  FILE *file = fopen("/proc/self/comm", "re");
  if (file && fgets(comm, 16, file)) comm[strcspn(comm, "\n")] = 0;
  if (file) fclose(file);
}

static void free_process(uint32_t slot) {
  struct sg_process *process = &sg_state->process[slot];
  while (process->contexts.head) {
    sg_context_drop(process->contexts.head);
    sg_commit();
  }
  while (process->fences.head) {
    sg_fence_drop(process->fences.head);
    sg_commit();
  }
  while (process->refs.head) {
    uint32_t ref = process->refs.head;
    sg_ref_drop(ref, sg_state->ref[ref].count);
    sg_commit();
  }
  sg_usage_retire(slot);
  struct sg_cgroup *cgroup = &sg_state->cgroup[process->cgroup];
  SG_SET(cgroup->processes, cgroup->processes - 1);
  SG_SET(process->state, SG_PROCESS_FREE);
  SG_ADD(process->claim, 1);
  sg_commit();
  if (slot <= atomic_load_explicit(&sg_state->slot_hint, memory_order_relaxed))
    atomic_store_explicit(&sg_state->slot_hint, slot - 1, memory_order_relaxed);
}

/* Asks for so many processes at most, from where the last sweep has stopped. */
static void sweep(uint32_t most) {
  SG_SET(sg_state->swept_ns, sg_now_ns());
  if (!sg_can_ask()) return;
  uint32_t end = sg_state->process_pool.fresh, slot = (uint32_t)sg_state->sweep_slot;
  for (uint32_t seen = 1; seen < end && most; seen++) {
    slot = slot + 1 < end ? slot + 1 : 1;
    if (slot == sg_self || sg_state->process[slot].state != SG_PROCESS_LIVE) continue;
    most--;
    if (!sg_slot_alive(slot)) free_process(slot);
  }
  SG_SET(sg_state->sweep_slot, slot);
}

void sg_sweep(void) { sweep(SWEEP_PROCESSES); }
void sg_sweep_all(void) { sweep(SG_MAX_PROCESSES); }

/* Locks the byte of a slot that nobody has, and the machine's lock. */
static int take_slot(void) {
  uint32_t first = atomic_load_explicit(&sg_state->slot_hint, memory_order_relaxed) % (SG_MAX_PROCESSES - 1);
  for (uint32_t tried = 0; tried < SG_MAX_PROCESSES - 1; tried++) {
    uint32_t slot = 1 + (first + tried) % (SG_MAX_PROCESSES - 1);
    if (sg_ofd_lock(locks.file, (long)slot) != 0) continue;
    atomic_store_explicit(&sg_state->slot_hint, slot, memory_order_relaxed);
    sg_self = slot;
    if (!sg_inherit_lock()) sg_lock();
    return SG_OK;
  }
  return SG_E_FULL;
}

static int register_self(void) {
  struct sg_membership membership;
  struct stat space = {0};
  char comm[16];
  sg_membership_of_self(&membership);
  read_comm(comm);
  (void)stat("/proc/self/ns/pid", &space);
  uint64_t ticks = start_ticks();
  int rc = take_slot();
  if (rc != SG_OK) return rc;
  struct sg_process *process = &sg_state->process[sg_self];
  sg_pump();
  if (process->state == SG_PROCESS_LIVE) free_process(sg_self); /* of the slot's dead former owner */
  uint32_t cgroup = sg_cgroup_intern(&membership);
  if (cgroup == 0) {
    sg_unlock();
    return SG_E_FULL;
  }
  if (sg_state->process_pool.fresh <= sg_self) SG_SET(sg_state->process_pool.fresh, sg_self + 1);
  SG_ADD(sg_state->next_claim, 1);
  SG_SET(process->claim, sg_state->next_claim);
  SG_SET(process->cgroup, cgroup);
  SG_ADD(sg_state->cgroup[cgroup].processes, 1);
  SG_SET(process->own_pid, (uint32_t)getpid());
  SG_SET(process->start_ticks, ticks);
  SG_SET(process->pid_namespace, (uint64_t)space.st_ino);
  sg_set_bytes(process->comm, comm, sizeof comm);
  SG_SET(process->state, SG_PROCESS_LIVE);
  own_claim = process->claim;
  atomic_store(&process->open_waiters, 0);
  atomic_store(&process->work_waiters, 0);
  atomic_store(&process->foreign, 0);
  struct flock range = sg_ofd_byte((long)sg_self);
  (void)fcntl(pids.file, F_SETLK, &range); /* only tells our pid; without it pid is shown as 0 */
  sg_unlock();
  return SG_OK;
}

static int join_locked(const char *folder, const struct sg_create *create) {
  static bool watched;
  int rc = sg_state ? SG_OK : sg_open_state(folder, create);
  if (rc != SG_OK) return rc;
  if (!watched && pthread_atfork(NULL, NULL, after_fork_in_child) != 0) return SG_E_STATE;
  watched = true;
  if (sg_open_shared("locks", &locks) != 0 || sg_open_shared("pids", &pids) != 0) {
    sg_say("%s/locks: %s", folder, strerror(errno));
    return SG_E_STATE;
  }
  rc = register_self();
  if (rc == SG_OK) return rc;
  sg_close(&locks);
  sg_close(&pids);
  sg_self = 0;
  sg_say("%s: the machine has no room for another process", folder);
  return rc;
}

int sg_join_at(const char *folder, const struct sg_create *create) {
  pthread_mutex_lock(&joining);
  int rc = sg_self ? SG_OK : join_locked(folder, create);
  pthread_mutex_unlock(&joining);
  return rc;
}

int sg_leave(void) {
  pthread_mutex_lock(&joining);
  int rc = sg_enter();
  if (rc == SG_OK) {
    sg_pump();
    free_process(sg_self);
    sg_unlock();
  }
  sg_close(&locks); /* the slot is free for others from here on */
  sg_close(&pids);
  sg_self = 0;
  sg_close_state();
  pthread_mutex_unlock(&joining);
  return rc;
}

int sg_join(void) {
  const char *folder = getenv("CGPU_SIM_STATE");
  const char *cards = getenv("CGPU_SIM_CARDS");
  struct sg_create create = {.profile = getenv("CGPU_SIM_PROFILE"), .driver = getenv("CGPU_SIM_DRIVER")};
  if (sg_self) return SG_OK;
  if (!folder || !*folder) {
    sg_say("CGPU_SIM_STATE is not set: it names the folder of the simulated machine");
    return SG_E_STATE;
  }
  if (cards && *cards) {
    char *end;
    long count = strtol(cards, &end, 10);
    if (*end || count < 1 || count > SG_MAX_CARDS) {
      sg_say("CGPU_SIM_CARDS=%s: a number from 1 to %d is wanted", cards, SG_MAX_CARDS);
      return SG_E_STATE;
    }
    create.cards = (int)count;
  }
  return sg_join_at(folder, &create);
}

int sg_enter(void) {
  if (!sg_self) return SG_E_STATE;
  sg_lock();
  const struct sg_process *self = &sg_state->process[sg_self];
  if (self->state == SG_PROCESS_LIVE && self->claim == own_claim) return SG_OK;
  /* The process closed all its descriptors, ours among them, and so looked dead to the others. */
  sg_unlock();
  return SG_E_LOST;
}
