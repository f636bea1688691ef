/* region_slot.c - the slot that this process owns, for as long as it holds the lock on its byte.
 *
 * The kernel releases the lock when the process is gone, however it went. The lock is held through a
 * descriptor that is used for nothing else: a mapping of the locked file would keep it alive. What
 * the user's code can do to it is repaired: a forked child lets go of its parent's lock; a process
 * that has closed all its descriptors takes the lock again, or a new slot if somebody has declared
 * the old one dead meanwhile.
 */
#include "region_slot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "charge.h"

#define HIGH_DESCRIPTOR 1000       /* programs that close "all" descriptors often stop at 255 or 1023 */
#define LOCK_CHECK_NS 250000000ull /* how often a charge makes sure of the lock; well below GONE_NS */
#define AGENT_STALE_NS 2000000000ull
#define GONE_NS 1000000000ull /* a sibling is dead this long before we return its charge */

/* Which descriptor holds the lock. A child inherits it, so this is not in the wiped memory. */
static struct {
  int fd;
  pid_t pid; /* who opened it; 0: nobody */
  dev_t device;
  ino_t inode;
} holder;

static uint64_t coarse_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* Whether the descriptor is still ours: the user may have closed it and got its number for a file. */
static bool holder_valid(void) {
  struct stat status;
  return holder.pid && fstat(holder.fd, &status) == 0 && status.st_dev == holder.device &&
         status.st_ino == holder.inode;
}

void cg_slot_forget_parent(void) {
  int saved = errno;
  if (holder.pid && holder.pid != getpid()) {
    if (holder_valid()) close(holder.fd);
    holder.pid = 0;
  }
  errno = saved;
}

static bool open_holder(const char *path) {
  int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return false;
  int high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR);
  if (high >= 0) {
    close(fd);
    fd = high;
  }
  struct stat status;
  fstat(fd, &status);
  holder.fd = fd;
  holder.pid = getpid();
  holder.device = status.st_dev;
  holder.inode = status.st_ino;
  return true;
}

static bool lock_byte(unsigned slot, short type) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
  return fcntl(holder.fd, F_OFD_SETLK, &lock) == 0;
}

/* Name and start time of a process from /proc/PID/stat ("pid (comm) state ..."; start time is
 * field 22); false when there is no such process or it is dead and only not yet waited for. */
static bool read_stat(pid_t pid, char comm[16], uint64_t *start_ticks) {
  char path[32], text[512];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length <= 0) return false;
  text[length] = 0;
  char *open_bracket = strchr(text, '('), *close_bracket = strrchr(text, ')');
  if (!open_bracket || !close_bracket || close_bracket[1] != ' ') return false;
  if (close_bracket[2] == 'Z' || close_bracket[2] == 'X') return false;
  if (comm) snprintf(comm, 16, "%.*s", (int)(close_bracket - open_bracket - 1), open_bracket + 1);
  char *field = close_bracket + 1;
  for (int i = 3; i < 22 && field; i++) field = strchr(field + 1, ' ');
  *start_ticks = field ? strtoull(field, NULL, 10) : 0;
  return true;
}

static uint64_t pid_namespace(void) {
  struct stat status;
  return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

static bool holds_anything(const struct cgpu_usage *usage, unsigned slot) {
  for (unsigned gpu = 0; gpu < CGPU_MAX_GPUS; gpu++) {
    uint64_t account = cgpu_load(&usage->gpu[gpu].account);
    uint64_t charge = cgpu_load(&usage->slot[slot].gpu[gpu].charge);
    if (cgpu_charge_units(charge)) return true;
    if (cgpu_account_slot(account) == slot && ((charge + 1) & CGPU_ACCOUNT_SEQ_MASK) == (account & CGPU_ACCOUNT_SEQ_MASK))
      return true; /* a charge that its dead owner did not complete */
  }
  return false;
}

/* Takes the lock of a slot that nobody owns and makes the slot empty. Free slots first; then those
 * of processes that died without holding anything. */
static unsigned take_slot(struct cgpu_usage *usage) {
  for (int abandoned = 0; abandoned <= 1; abandoned++) {
    for (unsigned slot = 0; slot < CGPU_MAX_SLOTS; slot++) {
      uint32_t *state = &usage->slot[slot].header.state;
      uint32_t wanted = abandoned ? CGPU_SLOT_LIVE : CGPU_SLOT_FREE;
      if (__atomic_load_n(state, __ATOMIC_ACQUIRE) != wanted || (abandoned && holds_anything(usage, slot))) continue;
      if (!lock_byte(slot, F_WRLCK)) continue;
      if (__atomic_load_n(state, __ATOMIC_ACQUIRE) == wanted && !(abandoned && holds_anything(usage, slot))) {
        cgpu_charge_reclaim(usage, slot);
        return slot;
      }
      lock_byte(slot, F_UNLCK);
    }
  }
  return CGPU_NO_SLOT;
}

static void fill_slot(struct cgpu_usage *usage, unsigned slot, int driver_version) {
  struct cgpu_usage_slot *own = &usage->slot[slot];
  char comm[16] = "";
  uint64_t start_ticks = 0;
  read_stat(getpid(), comm, &start_ticks);
  own->header.pid = (uint32_t)getpid();
  own->header.start_ticks = start_ticks;
  own->header.pid_namespace = pid_namespace();
  own->header.shim_minor = CGPU_REGION_MINOR;
  own->header.driver_version = (uint32_t)driver_version;
  memcpy(own->header.comm, comm, sizeof own->header.comm);
  for (unsigned gpu = 0; gpu < CGPU_MAX_GPUS; gpu++) {
    own->gpu[gpu].launches = 0;
    own->gpu[gpu].drained_ns = 0;
    own->gpu[gpu].waited_ns = 0;
  }
  __atomic_store_n(&own->header.state, CGPU_SLOT_LIVE, __ATOMIC_SEQ_CST);
  uint32_t seen = __atomic_load_n(&usage->header.slots_seen, __ATOMIC_RELAXED);
  while (seen < slot + 1 && !__atomic_compare_exchange_n(&usage->header.slots_seen, &seen, slot + 1, false,
                                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
    continue;
  __atomic_fetch_add(&usage->header.doorbell, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &usage->header.doorbell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

bool cg_slot_register(struct cg_process *process) {
  const struct cg_files *files = cg_files();
  cg_slot_forget_parent(); /* a child that was not made by fork() of the C library */
  if (!holder_valid() && !open_holder(files->locks)) {
    cg_say("memory is refused: cannot open %s: %s [CGPU-SHIM-OPEN]", files->locks, strerror(errno));
    return false;
  }
  unsigned slot = take_slot(files->usage);
  if (slot == CGPU_NO_SLOT) {
    cg_say("memory is refused: this tenant already has %u processes on the GPU [CGPU-SHIM-PROCESSES]", CGPU_MAX_SLOTS);
    return false;
  }
  fill_slot(files->usage, slot, process->driver_version);
  process->region.slot = slot;
  process->claim = __atomic_load_n(&files->usage->slot[slot].header.claim, __ATOMIC_SEQ_CST);
  process->lock_checked_ns = coarse_now_ns();
  return true;
}

bool cg_slot_hold(struct cg_process *process) {
  struct cgpu_usage *usage = process->region.usage;
  unsigned slot = process->region.slot;
  uint64_t now = coarse_now_ns();
  bool claimed = __atomic_load_n(&usage->slot[slot].header.claim, __ATOMIC_SEQ_CST) == process->claim &&
                 __atomic_load_n(&usage->slot[slot].header.state, __ATOMIC_RELAXED) == CGPU_SLOT_LIVE;
  if (claimed && now - process->lock_checked_ns < LOCK_CHECK_NS) return true;
  int saved = errno, cancel;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
  bool held = claimed && (holder_valid() || (open_holder(cg_files()->locks) && lock_byte(slot, F_WRLCK)));
  if (held) {
    process->lock_checked_ns = now;
  } else {
    cg_lock_take(&process->region_lock);
    held = cg_slot_register(process);
    cg_lock_give(&process->region_lock);
    for (unsigned gpu = 0; held && gpu < CGPU_MAX_GPUS; gpu++)
      if (process->holding[gpu].units)
        cgpu_charge(usage, process->region.slot, gpu, (int64_t)process->holding[gpu].units, UINT64_MAX);
  }
  pthread_setcancelstate(cancel, NULL);
  errno = saved;
  return held;
}

/* Whether the process that registered a slot is gone; one in another PID namespace cannot be seen. */
static bool owner_gone(const struct cgpu_usage_slot_header *owner, uint64_t own_namespace) {
  uint64_t start_ticks;
  if (!own_namespace || owner->pid_namespace != own_namespace) return false;
  if (kill((pid_t)owner->pid, 0) != 0) return errno == ESRCH;
  return !read_stat((pid_t)owner->pid, NULL, &start_ticks) || start_ticks != owner->start_ticks;
}

bool cg_slot_reclaim_dead(struct cg_process *process, int gpu) {
  struct cgpu_usage *usage = process->region.usage;
  uint64_t now = coarse_now_ns(), beat = __atomic_load_n(&process->region.grants->header.heartbeat_ns, __ATOMIC_ACQUIRE);
  if (beat + AGENT_STALE_NS > now) return false; /* the agent knows better when the card has let go */
  int saved = errno;
  bool any = false;
  uint64_t own_namespace = pid_namespace();
  unsigned last = __atomic_load_n(&usage->header.slots_seen, __ATOMIC_ACQUIRE);
  for (unsigned slot = 0; slot < last && slot < CGPU_MAX_SLOTS; slot++) {
    struct cgpu_usage_slot *other = &usage->slot[slot];
    bool dead = slot != process->region.slot && __atomic_load_n(&other->header.state, __ATOMIC_ACQUIRE) == CGPU_SLOT_LIVE &&
                cgpu_charge_units(cgpu_load(&other->gpu[gpu].charge)) && owner_gone(&other->header, own_namespace) &&
                lock_byte(slot, F_WRLCK);
    if (!dead) {
      process->seen_dead_ns[slot] = 0;
      continue;
    }
    if (!process->seen_dead_ns[slot]) process->seen_dead_ns[slot] = now;
    if (now - process->seen_dead_ns[slot] >= GONE_NS) {
      cgpu_charge_reclaim(usage, slot);
      process->seen_dead_ns[slot] = 0;
      any = true;
    }
    lock_byte(slot, F_UNLCK);
  }
  errno = saved;
  return any;
}
