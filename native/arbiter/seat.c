/* seat.c - see seat.h. */
#include "seat.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "futex_words.h"

#define SLOTS_PER_READ 4u

/* The region's fields are plain integers in the contract and atomics here. */
#define ATOMIC(pointer) ((_Atomic(__typeof__(*(pointer))) *)(pointer))
#define STORE(pointer, value) atomic_store_explicit(ATOMIC(pointer), (value), memory_order_relaxed)

static bool read_at(int fd, void *buffer, size_t bytes, uint64_t offset) {
  return pread(fd, buffer, bytes, (off_t)offset) == (ssize_t)bytes;
}

static int check(int usage_fd, int grants_fd) {
  struct cgpu_usage_header usage;
  struct cgpu_grants_header grants;
  struct stat usage_stat, grants_stat;
  if (fstat(usage_fd, &usage_stat) || fstat(grants_fd, &grants_stat)) return errno;
  if (!read_at(usage_fd, &usage, sizeof usage, 0) || !read_at(grants_fd, &grants, sizeof grants, 0)) return EPROTO;
  bool sizes = (size_t)usage_stat.st_size >= sizeof(struct cgpu_usage) &&
               (size_t)grants_stat.st_size >= sizeof(struct cgpu_grants);
  bool magics = usage.magic == CGPU_USAGE_MAGIC && grants.magic == CGPU_GRANTS_MAGIC;
  bool majors = usage.major == CGPU_REGION_MAJOR && grants.major == CGPU_REGION_MAJOR;
  return sizes && magics && majors ? 0 : EPROTO;
}

int cgpu_seat_open(struct cgpu_seat *seat, uint64_t id, int usage_fd, int grants_fd, uint32_t row) {
  if (row >= CGPU_MAX_GPUS) return EINVAL;
  int error = check(usage_fd, grants_fd);
  if (error) return error;
  *seat = (struct cgpu_seat){.id = id, .row = row, .readable = true, .locks_fd = -1};
  seat->usage_fd = fcntl(usage_fd, F_DUPFD_CLOEXEC, 3);
  if (seat->usage_fd < 0) return errno;
  /* PROT_READ: nothing of the tenant's is written by the arbiter. */
  seat->usage = mmap(NULL, sizeof(struct cgpu_usage), PROT_READ, MAP_SHARED, usage_fd, 0);
  void *grants = mmap(NULL, sizeof(struct cgpu_grants), PROT_READ | PROT_WRITE, MAP_SHARED, grants_fd, 0);
  if (seat->usage == MAP_FAILED || grants == MAP_FAILED) {
    error = errno;
    if (seat->usage != MAP_FAILED) munmap(seat->usage, sizeof(struct cgpu_usage));
    if (grants != MAP_FAILED) munmap(grants, sizeof(struct cgpu_grants));
    close(seat->usage_fd);
    return error;
  }
  seat->grants = grants;
  seat->taken = true;
  const struct cgpu_grants_gpu *gpu = &seat->grants->gpu[row];
  seat->published.state = CGPU_GRANT_STATE(atomic_load(ATOMIC(&seat->grants->gpu[row].grant)));
  seat->base = (struct cgpu_seat_account){gpu->busy_ns, gpu->waited_ns, gpu->turns, gpu->preempted, gpu->preempting};
  return 0;
}

void cgpu_seat_close(struct cgpu_seat *seat) {
  munmap(seat->usage, sizeof(struct cgpu_usage));
  munmap(seat->grants, sizeof(struct cgpu_grants));
  close(seat->usage_fd);
  if (seat->locks_fd >= 0) close(seat->locks_fd);
  seat->taken = false;
}

int cgpu_seat_watch(struct cgpu_seat *seat, int locks_fd) {
  int own = fcntl(locks_fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) return errno;
  if (seat->locks_fd >= 0) close(seat->locks_fd);
  seat->locks_fd = own;
  return 0;
}

const _Atomic(uint32_t) *cgpu_seat_doorbell(const struct cgpu_seat *seat) {
  const char *usage = seat->usage;
  return (const _Atomic(uint32_t) *)(usage + offsetof(struct cgpu_usage, gpu) +
                                     seat->row * sizeof(struct cgpu_usage_gpu) +
                                     offsetof(struct cgpu_usage_gpu, doorbell));
}

static uint32_t wants_elsewhere(const struct cgpu_usage_slot *slot, uint32_t row) {
  uint32_t gate = 0;
  for (uint32_t i = 0; i < CGPU_MAX_GPUS; i++) gate |= i == row ? 0 : slot->gpu[i].gate;
  return gate & CGPU_GATE_WANT;
}

/* Whether the owner of a slot is gone: the kernel gives its lock back with its last descriptor. One that lives and
 * has closed all its descriptors takes the lock again, and is seen again. */
static bool owner_gone(struct cgpu_seat *seat, uint32_t index, uint64_t claim, bool look) {
  if (look) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = index, .l_len = 1};
    bool gone = fcntl(seat->locks_fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
    seat->gone[index] = gone ? claim + 1 : 0;
  }
  return seat->gone[index] && seat->gone[index] == claim + 1;
}

/* Adds up the gate words of living processes. The common case of a few processes is one read. */
static bool read_slots(struct cgpu_seat *seat, bool owners, struct cgpu_turns_sight *sight) {
  static _Thread_local struct {
    struct cgpu_usage_header header;
    struct cgpu_usage_gpu gpu[CGPU_MAX_GPUS];
    struct cgpu_usage_slot slot[SLOTS_PER_READ];
  } part;
  size_t bytes = sizeof part;
  uint64_t offset = 0;
  for (uint32_t first = 0, seen = SLOTS_PER_READ; first < seen; first += SLOTS_PER_READ) {
    void *into = first ? (void *)part.slot : (void *)&part;
    if (!read_at(seat->usage_fd, into, bytes, offset)) return false;
    sight->long_ns = part.gpu[seat->row].long_ns;
    sight->worked_ns = part.gpu[seat->row].worked_ns;
    seen = part.header.slots_seen < CGPU_MAX_SLOTS ? part.header.slots_seen : CGPU_MAX_SLOTS;
    for (uint32_t i = 0; i < SLOTS_PER_READ && first + i < seen; i++) {
      const struct cgpu_usage_slot *slot = &part.slot[i];
      uint32_t says = slot->gpu[seat->row].gate | wants_elsewhere(slot, seat->row);
      if (slot->header.state != CGPU_SLOT_LIVE || !says) continue;
      if (owner_gone(seat, first + i, slot->header.claim, owners && seat->locks_fd >= 0)) continue;
      sight->want = sight->want || slot->gpu[seat->row].gate & CGPU_GATE_WANT;
      sight->busy = sight->busy || slot->gpu[seat->row].gate & CGPU_GATE_BUSY;
      sight->elsewhere = sight->elsewhere || wants_elsewhere(slot, seat->row);
    }
    uint32_t left = seen > first + SLOTS_PER_READ ? seen - first - SLOTS_PER_READ : 0;
    offset = offsetof(struct cgpu_usage, slot) + (uint64_t)(first + SLOTS_PER_READ) * sizeof part.slot[0];
    bytes = (left < SLOTS_PER_READ ? left : SLOTS_PER_READ) * sizeof part.slot[0];
  }
  return true;
}

static bool read_doorbell(const struct cgpu_seat *seat, uint32_t *doorbell) {
  uint64_t offset = (uintptr_t)cgpu_seat_doorbell(seat) - (uintptr_t)seat->usage;
  return read_at(seat->usage_fd, doorbell, sizeof *doorbell, offset);
}

bool cgpu_seat_rung(const struct cgpu_seat *seat) {
  uint32_t doorbell;
  return !read_doorbell(seat, &doorbell) || doorbell != seat->doorbell;
}

struct cgpu_turns_sight cgpu_seat_read(struct cgpu_seat *seat, bool owners) {
  struct cgpu_turns_sight sight = {0}, nothing = {0};
  /* First the doorbell, then what it announces: a ring after this read ends the next wait at once.
   * And both after whatever was published before: a process shows that it is busy before it looks
   * at its grant, the arbiter closes the grant before it looks whether the process is busy. */
  atomic_thread_fence(memory_order_seq_cst);
  seat->readable = read_doorbell(seat, &seat->doorbell);
  atomic_thread_fence(memory_order_seq_cst);
  seat->readable = seat->readable && read_slots(seat, owners, &sight);
  return seat->readable ? sight : nothing;
}

void cgpu_seat_publish(struct cgpu_seat *seat, struct cgpu_turns_grant grant) {
  struct cgpu_turns_grant old = seat->published;
  struct cgpu_grants_gpu *gpu = &seat->grants->gpu[seat->row];
  bool open = grant.state == CGPU_GRANT_OPEN;
  if (grant.contenders != old.contenders) atomic_store(ATOMIC(&gpu->contenders), grant.contenders);
  if (open && grant.deadline_ns != old.deadline_ns) STORE(&gpu->grant_deadline_ns, grant.deadline_ns);
  bool later = open && old.state == CGPU_GRANT_OPEN && grant.deadline_ns > old.deadline_ns;
  seat->published = grant;
  if (grant.state == old.state && !later) return;
  uint32_t epoch = (atomic_load(ATOMIC(&gpu->grant)) >> 2) + 1;
  atomic_store(ATOMIC(&gpu->grant), epoch << 2 | grant.state);
  if (grant.state != CGPU_GRANT_CLOSED) futex_wake_all(ATOMIC(&gpu->grant), false);
}

void cgpu_seat_expect(struct cgpu_seat *seat, uint64_t at_ns) {
  struct cgpu_grants_gpu *gpu = &seat->grants->gpu[seat->row];
  if (gpu->expected_ns == at_ns) return;
  STORE(&gpu->expected_ns, at_ns);
  futex_wake_all(ATOMIC(&gpu->grant), false);
}

void cgpu_seat_set_share(struct cgpu_seat *seat, struct cgpu_seat_share share) {
  struct cgpu_grants_gpu *gpu = &seat->grants->gpu[seat->row];
  STORE(&gpu->share_ppm, share.share_ppm);
  STORE(&gpu->share_offset_ppm, share.offset_ppm);
  STORE(&gpu->share_window_ns, share.window_ns);
  STORE(&gpu->quantum_ns, share.quantum_ns);
  STORE(&gpu->queue_ns, share.queue_ns);
}

void cgpu_seat_account(struct cgpu_seat *seat, const struct cgpu_seat_account *account, uint32_t demand) {
  struct cgpu_grants_gpu *gpu = &seat->grants->gpu[seat->row];
  STORE(&gpu->busy_ns, seat->base.busy_ns + account->busy_ns);
  STORE(&gpu->waited_ns, seat->base.waited_ns + account->waited_ns);
  STORE(&gpu->turns, seat->base.turns + account->turns);
  STORE(&gpu->preempted, seat->base.preempted + account->preempted);
  STORE(&gpu->preempting, seat->base.preempting + account->preempting);
  STORE(&gpu->demand, demand);
}

void cgpu_seat_beat(struct cgpu_seat *seat, uint64_t now_ns) {
  STORE(&seat->grants->header.heartbeat_ns, now_ns);
}

void cgpu_seat_abandon(struct cgpu_seat *seat) {
  struct cgpu_grants_gpu *gpu = &seat->grants->gpu[seat->row];
  bool managed = seat->published.state != CGPU_GRANT_FREE;
  atomic_store(ATOMIC(&seat->grants->header.heartbeat_ns), 0);
  if (!managed) return;
  uint32_t epoch = (atomic_load(ATOMIC(&gpu->grant)) >> 2) + 1;
  atomic_store(ATOMIC(&gpu->grant), epoch << 2 | CGPU_GRANT_CLOSED);
  futex_wake_all(ATOMIC(&gpu->grant), false);
}
