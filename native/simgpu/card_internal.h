/* card_internal.h - the seams between the card_*.c files.
 *
 *   card_state.c    the folder: create, check, map
 *   card_profile.c  reads a profile file into the constants of the machine
 *   card_lock.c     the machine's lock, the undo log, taking over from a dead owner
 *   card_process.c  slots: registration, fork, life and death
 *   card_cgroup.c   cgroups of the processes, and the limits on them
 *   card_phys.c     physical memory
 *   card_context.c  contexts, channels, fences: made and destroyed
 *   card_engine.c   the compute engine of a card: turns, slices, kernels
 *   card_pump.c     the items of channels, the copy engines, and the loop that advances time
 *   card_submit.c   queueing an item, without the lock
 *   card_wait.c     waiting for fences, channels and due work
 *   card_usage.c    what each process and card has used
 *   card_fault.c    faults on demand, Xids
 *   card_model.c    how long a kernel takes
 */
#ifndef CGPU_SIM_CARD_INTERNAL_H
#define CGPU_SIM_CARD_INTERNAL_H

#include <stdatomic.h>

#include "card_layout.h"

/* ---- card_state.c ---- */
extern struct sg_state *sg_state; /* null until joined */
/* A descriptor of ours. Some programs close all descriptors, and then another file may have got the
 * number: so it is looked at before it is used. */
struct sg_opened { int file; uint64_t device, inode; };
int sg_open_shared(const char *name, struct sg_opened *opened); /* a file of the folder, made if missing */
bool sg_still_open(const struct sg_opened *opened);
void sg_close(struct sg_opened *opened); /* if it is still ours */
int sg_open_state(const char *folder, const struct sg_create *create);
int sg_vram(int card); /* descriptor of the card's memory file, or an sg_error */
void sg_close_state(void);
/* The cause of a failure: one line on stderr, prefixed "cgpu simulated GPU: ", or, while `sg_said` is
 * set, only into that buffer of SG_SAY_BYTES. */
#define SG_SAY_BYTES 1024
extern char *sg_said;
void sg_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- card_profile.c ---- */
struct sg_profile {
  struct sg_machine_info machine;
  struct sg_card_info card;
};
/* False: `error` gets the cause, with file and line. `driver` may be null. */
bool sg_profile_read(const char *path, const char *driver, int cards, struct sg_profile *profile, char *error,
                     size_t error_bytes);

/* ---- card_lock.c ---- */
extern bool sg_dry; /* a speculation is under way, to be rolled back: no effects outside the state */
void sg_lock(void);
void sg_unlock(void);   /* commits */
void sg_commit(void);   /* what was done so far stays */
void sg_rollback(void); /* back to the last commit */
/* Owner and word of a lock that the dead predecessor in our slot left behind. */
bool sg_inherit_lock(void);
static inline void sg_note_old(const volatile void *field, size_t bytes) {
  uint32_t n = atomic_load_explicit(&sg_state->notes, memory_order_relaxed);
  if (n >= SG_LOG_ENTRIES) __builtin_trap(); /* cannot be: see SG_LOG_ENTRIES; others roll back */
  uint64_t offset = (uint64_t)((const volatile char *)field - (const volatile char *)sg_state);
  struct sg_note *note = &sg_state->log[n];
  note->where = offset << 1 | (bytes == 8);
  note->old = bytes == 8 ? *(const volatile uint64_t *)field : *(const volatile uint32_t *)field;
  /* A kill can come between any two instructions, so the note must be complete before it counts,
   * and count before the field changes. */
  atomic_store_explicit(&sg_state->notes, n + 1, memory_order_release);
  atomic_signal_fence(memory_order_seq_cst);
}
#define SG_SET(field, new_value)                                                          \
  do {                                                                                    \
    _Static_assert(sizeof(field) == 4 || sizeof(field) == 8, "only words can be undone"); \
    __typeof__(field) sg_new_ = (new_value);                                              \
    sg_note_old(&(field), sizeof(field));                                                 \
    (field) = sg_new_;                                                                    \
  } while (0)
#define SG_ADD(field, amount) SG_SET(field, (field) + (amount))
void sg_set_bytes(void *field, const void *value, size_t bytes); /* bytes: a multiple of 8 */

/* ---- card_list.c: lists and pools of records, by index ---- */
struct sg_family { size_t table, stride, link; }; /* offsets in struct sg_state and the record */
#define SG_FAMILY(name, table_, type, link_)                                     \
  static const struct sg_family name __attribute__((unused)) = {                 \
      offsetof(struct sg_state, table_), sizeof(struct type), offsetof(struct type, link_)}
SG_FAMILY(SG_QUEUE, channel, sg_channel_record, queue);
SG_FAMILY(SG_DUE, channel, sg_channel_record, of_due);
SG_FAMILY(SG_CHANNELS, channel, sg_channel_record, of_context);
SG_FAMILY(SG_RUNNABLE, context, sg_context_record, of_card);
SG_FAMILY(SG_CONTEXTS, context, sg_context_record, of_process);
SG_FAMILY(SG_FENCES, fence, sg_fence_record, of_process);
SG_FAMILY(SG_REFS, ref, sg_ref, of_process);
SG_FAMILY(SG_HOLDERS, ref, sg_ref, of_object);
static inline struct sg_link *sg_link_of(const struct sg_family *family, uint32_t index) {
  return (struct sg_link *)((char *)sg_state + family->table + index * family->stride + family->link);
}
void sg_list_append(const struct sg_family *family, struct sg_list *list, uint32_t index);
/* Puts it before `next`, which is in the list; 0 appends. */
void sg_list_insert(const struct sg_family *family, struct sg_list *list, uint32_t index, uint32_t next);
void sg_list_remove(const struct sg_family *family, struct sg_list *list, uint32_t index);

/* Takes an unused record's index, or 0; the first word of a record is its next_free. */
uint32_t sg_pool_take(struct sg_pool *pool, void *table, size_t stride, uint32_t capacity);
void sg_pool_give(struct sg_pool *pool, void *table, size_t stride, uint32_t index);
#define SG_TAKE(pool, table) \
  sg_pool_take(&sg_state->pool, sg_state->table, sizeof sg_state->table[0], sizeof sg_state->table / sizeof sg_state->table[0])
#define SG_GIVE(pool, table, index) sg_pool_give(&sg_state->pool, sg_state->table, sizeof sg_state->table[0], index)

/* A name that outlives its record: index in the low bits, the record's generation above. */
#define SG_CONTEXT_BITS 11
#define SG_CHANNEL_BITS 12
#define SG_FENCE_BITS 17
#define SG_OBJECT_BITS 16
#define SG_NAME(index, generation, bits) ((uint32_t)(generation) << (bits) | (index))
#define SG_INDEX(name, bits) ((name) & ((1u << (bits)) - 1))
#define SG_FIND(table, name, bits) sg_find(sg_state->table[SG_INDEX(name, bits)].generation, name, bits)
static inline uint32_t sg_find(uint32_t generation, uint32_t name, unsigned bits) { /* 0: no such */
  uint32_t index = SG_INDEX(name, bits);
  return index && SG_NAME(index, generation, bits) == name ? index : 0;
}
#define SG_NEXT_GENERATION(generation, bits) (((generation) + 1) & ((1u << (32 - (bits))) - 1))

/* ---- card_process.c ---- */
extern uint32_t sg_self;  /* own slot; 0 before sg_join and in a forked child */
int sg_enter(void);       /* the lock, with the own slot known to be ours; or an sg_error */
bool sg_slot_alive(uint32_t slot); /* asks the kernel; not for the own slot */
bool sg_can_ask(void);             /* sg_slot_alive can: our descriptor has not been closed */
void sg_sweep(void);     /* frees what dead processes held, of some at a time; sg_pump does it every 10 ms */
void sg_sweep_all(void); /* of all of them */
uint32_t sg_pid_seen(uint32_t slot); /* its pid in our namespace; 0: not visible here */

/* ---- card_cgroup.c ---- */
struct sg_membership { char path[SG_CGROUP_PATH]; uint64_t inode; };
void sg_membership_of_self(struct sg_membership *membership);
/* The record of that cgroup, taken if there is none yet; 0: the table is full. */
uint32_t sg_cgroup_intern(const struct sg_membership *membership);
/* Whether the limits of the cgroup and of those above it leave so much. */
bool sg_cgroup_fits(uint32_t cgroup, int card, uint64_t bytes);
uint64_t sg_cgroup_used(uint32_t cgroup, int card); /* charged in it and below it */

/* ---- card_phys.c ---- */
int sg_object_create(int card, uint64_t bytes, bool managed, uint32_t *index);
void sg_ref_drop(uint32_t ref, uint32_t count); /* frees the object with its last reference */

/* ---- card_context.c ---- */
void sg_context_drop(uint32_t context);
void sg_context_kill(uint32_t context, uint32_t xid); /* its work ends now; it stays, with an error */
void sg_channel_drop(uint32_t channel);
void sg_fence_drop(uint32_t fence);
uint32_t sg_channel_of(sg_channel name); /* of this process; 0: none */

/* ---- card_engine.c ---- */
uint64_t sg_engine_next(const struct sg_card_state *card);
void sg_engine_event(int card, uint64_t now);
void sg_engine_settle(int card, uint64_t now);
void sg_engine_ready(uint32_t channel, uint64_t now);  /* its kernel waits for the engine */
void sg_engine_hold(uint32_t channel, uint64_t now);   /* its persistent kernel begins */
void sg_engine_met(uint32_t channel, uint64_t now);    /* the hold's fence has come */
void sg_engine_forget(uint32_t channel, uint64_t now); /* takes the channel's kernel or hold off */
void sg_engine_review(uint32_t context, uint64_t now); /* after that: has the context still work? */

/* ---- card_pump.c ---- */
void sg_pump(void); /* advances the machine to the present; sweeps now and then; commits */
void sg_channel_step(uint32_t channel, uint64_t now);   /* looks at the oldest item of the channel */
void sg_channel_next(uint32_t channel, uint64_t now);   /* that item is complete */
void sg_effect_begin(uint32_t channel);                 /* of its SG_OP_LOCAL: for the owner to do */
void sg_effect_await(uint32_t channel, uint64_t now);   /* the time of its SG_OP_LOCAL is over */
void sg_channel_cancel(uint32_t channel, uint64_t now); /* drops all items, giving their signals */
void sg_timer(uint32_t channel, enum sg_phase phase, uint64_t wake_ns);
void sg_fence_set(uint32_t fence, uint64_t value, uint64_t now);
void sg_ring_every_doorbell(void); /* after a rollback, which cannot undo their clearing */
static inline struct sg_ring_item *sg_item_at(uint32_t channel, uint64_t position) {
  return &sg_state->ring[channel].items[position % SG_RING_ITEMS];
}

enum sg_condition_kind { SG_WHEN_FENCE, SG_WHEN_CHANNEL, SG_WHEN_DUE };
struct sg_condition { /* what somebody waits for */
  enum sg_condition_kind kind;
  uint32_t index;  /* of the fence, channel or process */
  uint64_t value;  /* of the fence; of the channel's head */
};
bool sg_holds(const struct sg_condition *condition);
/* The time when it will hold if nobody does anything more; SG_NEVER if it then never will; or an
 * earlier time, when finding out would take too long. */
uint64_t sg_predict(const struct sg_condition *condition);

/* ---- card_submit.c ---- */
void sg_producers_reset(void); /* in a forked child, which owns no channel */

/* The process shares a fence with another one: from now on each wakes the other's sleepers too. */
void sg_foreign(uint32_t other);

/* ---- card_wait.c ---- */
struct sg_wait {
  struct sg_condition condition;
  uint32_t name;   /* of the fence or channel */
  uint64_t enough; /* of a channel's head: will do, when the condition will never hold by itself */
};
/* Waits; with SG_OK the lock is held and the machine is at the present. */
int sg_wait_locked(const struct sg_wait *wait, uint64_t timeout_ns);
void sg_ring_bell(uint32_t process); /* wakes the threads of the process that wait here */
void sg_released(uint32_t process);  /* the process did what may release others: wakes them */

/* ---- card_usage.c ---- */
void sg_window_add(struct sg_window *window, uint64_t from_ns, uint64_t to_ns);
void sg_usage_retire(uint32_t process); /* a dead process's sums go to its cgroup and the history */

int sg_futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns); /* shared; SG_NEVER: none */
void sg_futex_wake(_Atomic uint32_t *word, int count);

#endif
