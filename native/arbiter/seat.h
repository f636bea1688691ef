/* seat.h - one tenant's files as the arbiter of one GPU uses them.
 *
 * The usage file belongs to the tenant, which may shorten it at any time; a load from a mapped page
 * that is gone would kill the agent with SIGBUS. So it is read with pread, which only comes back
 * short, and mapped for one purpose: the kernel finds the doorbell's futex through the address.
 */
#ifndef CGPU_ARBITER_SEAT_H
#define CGPU_ARBITER_SEAT_H

#include "region.h"
#include "turns.h"

/* What the tenant has had of this GPU; all in the region's words. */
struct cgpu_seat_account {
  uint64_t busy_ns, waited_ns, turns, preempted, preempting;
};

struct cgpu_seat {
  uint64_t id; /* the caller's name of the tenant */
  bool taken;
  bool readable; /* the last read of its usage file succeeded */
  uint32_t row;  /* of this GPU in the tenant's tables */
  int usage_fd;
  void *usage; /* never dereferenced here */
  struct cgpu_grants *grants;
  uint32_t doorbell; /* value before the latest read of the gate words */
  int locks_fd;      /* -1: nobody knows who is dead */
  uint64_t gone[CGPU_MAX_SLOTS]; /* the claim, plus one, of an owner that no longer holds the slot's lock; 0: none */
  struct cgpu_turns_grant published;
  struct cgpu_seat_account base; /* what the region said when the seat was taken */
};

/* Maps the files; the descriptors stay the caller's. Returns 0 or an errno: EPROTO for files that are
 * not a region of this version. */
int cgpu_seat_open(struct cgpu_seat *seat, uint64_t id, int usage_fd, int grants_fd, uint32_t row);
void cgpu_seat_close(struct cgpu_seat *seat);

/* From now on it is looked who is dead, by this file of locks. The descriptor stays the caller's. 0 or an errno. */
int cgpu_seat_watch(struct cgpu_seat *seat, int locks_fd);

/* What the gate words of the tenant's living processes say. Nothing when the file is unreadable. With `owners` it is
 * looked anew who of those that say anything is dead: the words of a process that was killed stay as they were, and
 * the card would wait for it. */
struct cgpu_turns_sight cgpu_seat_read(struct cgpu_seat *seat, bool owners);

/* Whether the doorbell was rung since that read, as far as can be told. */
bool cgpu_seat_rung(const struct cgpu_seat *seat);

const _Atomic(uint32_t) *cgpu_seat_doorbell(const struct cgpu_seat *seat);

/* Writes the grant where it differs from the published one, and wakes the tenant's threads when it
 * lets them go on. */
void cgpu_seat_publish(struct cgpu_seat *seat, struct cgpu_turns_grant grant);
/* Tells the tenant, once, that its turn will probably begin at that time, and wakes a thread for it. */
void cgpu_seat_expect(struct cgpu_seat *seat, uint64_t at_ns);

/* Where the tenant's part of the common window lies, for times without an agent. */
struct cgpu_seat_share {
  uint32_t share_ppm, offset_ppm;
  uint64_t window_ns, quantum_ns, queue_ns;
};
void cgpu_seat_set_share(struct cgpu_seat *seat, struct cgpu_seat_share share);
/* Writes what the tenant has had since the seat was taken, on top of what it had before, and what it
 * does now (CGPU_DEMAND_*). */
void cgpu_seat_account(struct cgpu_seat *seat, const struct cgpu_seat_account *account, uint32_t demand);
void cgpu_seat_beat(struct cgpu_seat *seat, uint64_t now_ns);
/* The arbiter ends: the tenant's threads look after themselves from now on, without waiting until
 * the heartbeat has become old. */
void cgpu_seat_abandon(struct cgpu_seat *seat);

#endif
