/* card_layout.h - the state file of one simulated machine, and how it may be changed.
 *
 * Files of the state folder:
 *   state      struct sg_state, mapped shared by every process of the machine
 *   locks      never mapped: byte N is locked, for as long as it lives, by the process in slot N
 *   pids       never mapped: byte N is locked likewise, in the way that tells its owner's pid
 *   vram-<N>   the memory of card N, a sparse file
 *
 * Rules. Every field is changed only with the machine's lock held and through SG_SET, which notes
 * the old value in the undo log first; the exceptions are the `_Atomic` fields, each of which says
 * who writes it. A table's record 0 is never used, so that 0 means "none" and a file of zeros is a
 * valid empty machine. All integers are in the machine's own byte order: the file never leaves it.
 */
#ifndef CGPU_SIM_CARD_LAYOUT_H
#define CGPU_SIM_CARD_LAYOUT_H

#include "card.h"

#define SG_MAGIC 0x4d49535550474355ull /* "UCGPUSIM" */
#define SG_VERSION 3u

#define SG_MAX_PROCESSES 1024u /* slots; a process has one per driver library that it loaded */
#define SG_MAX_CGROUPS 512u
#define SG_MAX_CONTEXTS 2048u
#define SG_MAX_CHANNELS 4096u
#define SG_MAX_FENCES (1u << 17)
#define SG_MAX_OBJECTS (1u << 16)
#define SG_MAX_REFS (1u << 17)
#define SG_MAX_EXTENTS (1u << 17)
#define SG_RING_ITEMS 1024u
#define SG_HISTORY 512u       /* finished processes that are remembered */
#define SG_XID_RING 16u
#define SG_LOG_ENTRIES (1u << 19) /* the largest single step, freeing 40,000 extents, fits */
#define SG_NEVER UINT64_MAX
#define SG_CGROUP_PATH 192

/* Busy time by bucket of 2^24 ns (16.8 ms); 128 of them reach 2.1 s back. A bucket's word is its
 * number since the clock's zero, above the busy time in it; a word of another number counts nothing. */
#define SG_BUCKET_SHIFT 24
#define SG_BUCKET_TIME_BITS 25
#define SG_BUCKETS 128u

struct sg_link { uint32_t next, prev; };
struct sg_list { uint32_t head, tail; };
/* A table's unused records: a chain through their next_free, then all from `fresh` on. */
struct sg_pool { uint32_t free, fresh, used, reserved; };

struct sg_window { uint64_t bucket[SG_BUCKETS]; };

/* ---- memory ---- */
struct sg_extent { uint32_t next, start, count, reserved; }; /* in granules */

struct sg_object {
  uint32_t next_free, generation;
  uint32_t card, extents; /* extents: first of the chain */
  uint32_t granules, payer; /* payer: the process whose memory this counts as */
  uint32_t mapped, managed; /* ever mapped, so its pages may exist; exempt from cgroup limits */
  struct sg_list refs;
};
struct sg_ref { /* one process's references to one object */
  uint32_t next_free, object, process, count;
  struct sg_link of_process, of_object;
};

/* ---- processes ---- */
struct sg_usage {
  uint64_t memory_bytes, busy_ns, copy_ns, kernels;
  uint32_t contexts, reserved;
  struct sg_window window;
};
enum { SG_PROCESS_FREE, SG_PROCESS_LIVE };
struct sg_process {
  uint32_t state, cgroup;
  uint64_t claim; /* grows with each registration in this slot */
  uint64_t start_ticks, pid_namespace;
  uint32_t own_pid, reserved;
  char comm[16];
  struct sg_list refs, contexts, fences; /* what it owns */
  struct sg_list due;                    /* channels whose SG_OP_LOCAL waits for its effect */
  _Atomic uint32_t bell;      /* futex; rung by its own threads and by foreign ones that release it */
  _Atomic uint32_t open_waiters; /* own threads asleep that an SG_OP_SIGNAL may release */
  _Atomic uint32_t work_waiters; /* own threads asleep that a new SG_OP_LOCAL may release */
  _Atomic uint32_t foreign;   /* 1 once it shares a fence with another process */
  struct sg_usage usage[SG_MAX_CARDS];
};
struct sg_finished { /* one process's use of one card, after its end */
  uint32_t card, own_pid;
  uint64_t start_ticks, busy_ns, copy_ns, kernels, ended_ns;
  char comm[16];
  char cgroup[SG_CGROUP_PATH];
};
struct sg_cgroup {
  uint32_t processes, reserved; /* processes: living ones in exactly this cgroup */
  uint64_t inode;           /* of its folder: names it across cgroup namespaces; 0 unknown */
  uint64_t touched_ns;
  char path[SG_CGROUP_PATH];
  struct sg_cgroup_card {
    uint64_t hard_bytes, soft_bytes, used_bytes; /* used: charged, in exactly this cgroup */
    uint64_t past_busy_ns, past_copy_ns, past_kernels; /* of its processes that have ended */
  } card[SG_MAX_CARDS];
};

/* ---- time ---- */
struct sg_context_record {
  uint32_t next_free, generation;
  uint32_t card, process, memory; /* memory: its object; 0 when context_bytes is 0 */
  uint32_t error;                 /* Xid that killed it */
  uint32_t running;               /* channel whose kernel is on the engine in this context's turns */
  uint32_t holds;                 /* persistent kernels that have not ended */
  uint32_t queued;                /* 1 while in the card's list of runnable contexts */
  uint32_t reserved;
  struct sg_list channels, ready, met; /* ready: kernels in order; met: holds whose fence has come */
  struct sg_link of_process, of_card;
};

enum sg_phase { /* of a channel: what its oldest item does, and so which list the channel is in */
  SG_PHASE_IDLE,    /* none */
  SG_PHASE_TIMER,   /* machine.timers, until wake_ns: not yet submitted, or to be looked at again */
  SG_PHASE_DELAY,   /* machine.timers: SG_OP_LOCAL without an engine */
  SG_PHASE_READY,   /* context.ready */
  SG_PHASE_RUNNING, /* no list: context.running */
  SG_PHASE_HOLD,    /* fence.waiters */
  SG_PHASE_MET,     /* machine.timers: a hold's fence has come at wake_ns */
  SG_PHASE_MET_OFF, /* context.met: the same, but the context must first get its turn to see it */
  SG_PHASE_STALLED, /* fence.waiters */
  SG_PHASE_COPY,    /* card.copy[].queue */
  SG_PHASE_LATE,    /* no list: SG_OP_LOCAL whose time is over, but not yet its effect */
};
enum sg_effect { /* of the oldest item, if that is an SG_OP_LOCAL; goes on beside its phase */
  SG_EFFECT_NONE,  /* not begun */
  SG_EFFECT_DUE,   /* process.due */
  SG_EFFECT_DOING, /* no list: the owner does it */
  SG_EFFECT_DONE,
};
struct sg_channel_record {
  uint32_t next_free, generation;
  uint32_t context, process;
  int32_t priority;
  uint32_t retiring;           /* closes itself when empty */
  _Atomic uint32_t error;      /* Xid of its context; read by producers */
  uint32_t effect;
  uint32_t phase, fence;       /* fence: index of the one whose waiters it is in */
  struct sg_link queue, of_context, of_due;
  uint64_t head;               /* items completed so far */
  uint64_t remaining_ns;       /* of the kernel that has begun or is ready */
  uint64_t wake_ns;
};
struct sg_ring_item {
  uint8_t op, engine;
  uint16_t reserved;
  uint32_t fence;
  uint64_t value, duration_ns, submit_ns;
};
struct sg_ring { /* written by the one producer, without the lock */
  _Atomic uint64_t tail; /* items published so far */
  uint64_t reserved[7];
  struct sg_ring_item items[SG_RING_ITEMS];
};
struct sg_fence_record {
  uint32_t next_free, generation;
  uint32_t process, dying;  /* dying: destroyed by its owner, freed when nothing queued names it */
  uint64_t value, time_ns;
  struct sg_list waiters;   /* channels */
  struct sg_link of_process;
  uint32_t uses_done;       /* queued items that named it and have been consumed */
  _Atomic uint32_t uses;    /* queued items that named it; by producers */
};

/* ---- cards ---- */
enum { SG_ENGINE_IDLE, SG_ENGINE_SWITCH, SG_ENGINE_RUN };
struct sg_copy_engine { struct sg_list queue; uint64_t end_ns; }; /* the head is being copied */
struct sg_card_state {
  uint32_t granules, granules_free;
  uint32_t extents; /* free ones, by address */
  uint32_t mode;    /* of the compute engine */
  uint32_t loaded;  /* context on the engine, or last there */
  uint32_t lost;
  struct sg_list runnable; /* contexts in order of their turns; the first is `loaded` unless idle */
  uint64_t since_ns;       /* the engine's time is settled up to here */
  uint64_t switch_end_ns, slice_end_ns;
  struct sg_copy_engine copy[2]; /* in, out */
  uint64_t busy_ns, copy_ns, kernels;
  struct sg_window window;
  uint64_t oom_left, slow_ns;
  uint64_t xid_count, xids[SG_XID_RING];
  _Atomic uint32_t xid_bell; /* futex; counts Xids */
};

struct sg_note { uint64_t where, old; }; /* where: (offset << 1) | (1 if 8 bytes, 0 if 4) */

struct sg_state {
  uint64_t magic;
  uint32_t version, reserved;
  uint64_t size_bytes;
  char boot_id[40]; /* the clock starts anew with each boot, so a state is of one boot */
  uint8_t random[16];
  struct sg_machine_info machine;
  struct sg_card_info info[SG_MAX_CARDS];

  _Alignas(64) _Atomic uint32_t lock; /* card_lock.c */
  _Atomic uint64_t recoveries;        /* locks taken over from the dead; by the taker */
  _Alignas(64) _Atomic uint32_t notes; /* length of the undo log */
  _Atomic uint32_t slot_hint;          /* below the lowest slot that may be free; any value is right */

  /* Channels with new items, a bit each: set by producers after publishing, cleared by the pump. */
  _Alignas(64) _Atomic uint64_t doorbell[SG_MAX_CHANNELS / 64];

  _Alignas(64) uint64_t time_ns; /* the cards have been advanced to here */
  uint64_t created_ns, swept_ns, sweep_slot, next_claim;
  struct sg_list timers;         /* channels by wake_ns */
  struct sg_pool process_pool, context_pool, channel_pool, fence_pool, object_pool, ref_pool, extent_pool;
  uint64_t finished_count;
  uint64_t cgroup_end; /* one above the highest record of `cgroup` ever taken */

  struct sg_card_state card[SG_MAX_CARDS];
  struct sg_process process[SG_MAX_PROCESSES];
  struct sg_cgroup cgroup[SG_MAX_CGROUPS];
  struct sg_finished finished[SG_HISTORY];
  struct sg_context_record context[SG_MAX_CONTEXTS];
  struct sg_channel_record channel[SG_MAX_CHANNELS];
  struct sg_fence_record fence[SG_MAX_FENCES];
  struct sg_object object[SG_MAX_OBJECTS];
  struct sg_ref ref[SG_MAX_REFS];
  struct sg_extent extent[SG_MAX_EXTENTS];
  struct sg_note log[SG_LOG_ENTRIES];
  struct sg_ring ring[SG_MAX_CHANNELS];
};

#endif
